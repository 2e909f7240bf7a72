"""`tensorguard up` with the real supervisor and the real PostgreSQL, over stub services."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tensorguard.cli.supervisor.child import python_service
from tensorguard.services.people.passwords import verify_password
from tensorguard.store.embedded.server import DATABASE
from tensorguard.vault.local import KEK_FILE
from tests.integration.run.stack import Stack
from tests.integration.run.stub_service import ENTRY
from tests.patience import PATIENCE_S
from tests.postgres import Database

StartStack = Callable[..., Stack]


def query(directory: Path, statement: str) -> list[tuple[object, ...]]:
    """Ask the stack's own database, as its owner."""
    url = f"postgresql://tg_owner@/{DATABASE}?host={directory}/postgres/run"
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_services_start_after_the_database_and_stop_in_order(start_stack: StartStack) -> None:
    stack = start_stack()
    stack.wait_until_ready()
    tree = stack.processes()
    assert stack.events("service_ready")[0] == "postgres"
    assert sorted(stack.events("service_ready")[1:]) == ["api", "broker", "hub"]
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 0
    assert stack.events("service_stopped") == ["api", "hub", "broker", "postgres"]
    assert stack.events("stub_stopped") == ["api", "hub", "broker"]
    assert not [process for process in tree if process.is_running()]


def test_services_get_the_settings_and_never_the_owner_s_url(start_stack: StartStack) -> None:
    stack = start_stack("hub")
    settings = stack.wait_for(event="stub_started")["settings"]
    assert settings.keys() >= {
        *("TG_DATABASE_URL", "TG_DATA_DIR", "TG_TRUST_DOMAIN", "TG_PUBLIC_HOST"),
        *("TG_HTTP", "TG_DEVICE", "TG_MQTT"),
    }
    assert "TG_DATABASE_OWNER_URL" not in settings
    assert "tg_owner" not in str(settings)
    assert settings["TG_DATABASE_URL"].startswith("postgresql://tg_app@/")


def test_a_given_server_is_used_and_none_started(
    start_empty_stack: StartStack, fresh_database: Database
) -> None:
    stack = start_empty_stack(
        "hub",
        TG_DATABASE_URL=fresh_database.app_url,
        TG_DATABASE_OWNER_URL=fresh_database.owner_url,
    )
    stack.wait_until_ready()
    settings = next(r["settings"] for r in stack.seen if r.get("event") == "stub_started")
    assert settings["TG_DATABASE_URL"] == fresh_database.app_url
    assert "TG_DATABASE_OWNER_URL" not in settings
    assert not (stack.directory / "postgres").exists()
    with psycopg.connect(fresh_database.owner_url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)


def test_entries_that_a_service_prints_reach_our_standard_output_as_they_are(
    start_stack: StartStack,
) -> None:
    stack = start_stack("hub:prints")
    stack.wait_until_ready()
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 0
    assert stack.lines.count(ENTRY) == 1  # neither a record of the log nor in the midst of one
    [word] = [record for record in stack.seen if record.get("event") == "a word of the log"]
    assert word["service"] == "hub"


def test_hub_and_api_print_entries_and_the_broker_does_not() -> None:
    prints = {name: python_service(name, {}).prints for name in ("broker", "hub", "api")}
    assert prints == {"broker": False, "hub": True, "api": True}


def test_half_a_given_server_is_refused(start_stack: StartStack) -> None:
    stack = start_stack("hub", TG_DATABASE_URL="postgresql://tg_app@db.example/tensorguard")
    assert stack.wait_for_end() == 1
    text = str(stack.seen[-1]["text"])
    assert "TG_DATABASE_URL is set and TG_DATABASE_OWNER_URL is not" in text


def test_kill_9_of_the_parent_leaves_no_process_behind(start_stack: StartStack) -> None:
    stack = start_stack("broker", "hub:deaf", "api")
    stack.wait_until_ready()
    left = stack.kill_parent()
    assert len(left) > 4  # the parent, three services, PostgreSQL
    _, alive = psutil.wait_procs(left, timeout=PATIENCE_S)
    assert not alive


def test_a_start_right_after_kill_9_of_the_parent_waits_for_its_services(
    start_stack: StartStack,
) -> None:
    first = start_stack("broker", "hub:deaf", "api")
    address = first.wait_until_ready()["http"]
    first.kill_parent()
    second = start_stack()
    assert second.wait_until_ready()["http"] == address


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_of_everything_twice_in_a_row_loses_nothing_committed(
    start_empty_stack: StartStack, seed: int
) -> None:
    moments = random.Random(seed)
    for attempt in (1, 2):
        stack = start_empty_stack()
        if attempt == 1 and seed > 1:  # seed 1: the very first start is killed too
            stack.wait_until_ready()
            query(stack.directory, "CREATE TABLE kept (id int)")
            query(stack.directory, "INSERT INTO kept SELECT generate_series(1, 1000)")
        else:
            with pytest.raises(subprocess.TimeoutExpired):  # any moment is a right one
                stack.process.wait(timeout=moments.uniform(0.1, 2.5))
        stack.kill_everything()
    last = start_empty_stack()
    last.wait_until_ready()
    if seed > 1:
        assert query(last.directory, "SELECT count(*) FROM kept") == [(1000,)]
    assert query(last.directory, "SELECT count(*) FROM platform") == [(1,)]
    last.send(signal.SIGTERM)
    assert last.wait_for_end() == 0


def test_the_first_password_is_told_once_even_if_the_first_start_fails(
    start_empty_stack: StartStack,
) -> None:
    failed = start_empty_stack("hub:broken")
    assert failed.wait_for_end() == 1
    told: list[object] = []
    for _ in range(2):
        stack = start_empty_stack("hub")
        told.append(stack.wait_until_ready()["password"])
        ((stored,),) = query(stack.directory, "SELECT password_hash FROM users")
        stack.send(signal.SIGTERM)
        assert stack.wait_for_end() == 0
    assert verify_password(str(stored), str(told[0]))
    assert told[1] is None
    assert not list(stack.directory.glob("*password*"))


def test_a_key_file_that_is_gone_is_not_made_anew(start_stack: StartStack) -> None:
    stack = start_stack("hub")
    stack.wait_until_ready()
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 0
    key_file = stack.directory / KEK_FILE
    key_file.unlink()
    again = start_stack("hub")
    assert again.wait_for_end() != 0
    assert not key_file.exists()


def test_a_killed_service_is_started_again(start_stack: StartStack) -> None:
    stack = start_stack()
    stack.wait_until_ready()
    pid = next(r["pid"] for r in stack.seen if r.get("pid") and r["name"] == "broker")
    os.kill(pid, signal.SIGKILL)
    assert stack.wait_for(event="service_ended")["status"] == "killed by SIGKILL"
    again = stack.wait_for(event="stub_started", name="broker")
    assert again["pid"] != pid
    stack.wait_for(event="service_ready", name="broker", restarted=True)


def test_a_killed_postgres_is_started_again_with_its_data(start_stack: StartStack) -> None:
    stack = start_stack("hub")
    stack.wait_until_ready()
    query(stack.directory, "CREATE TABLE kept AS SELECT 7 AS id")
    postmaster = next(
        child
        for child in psutil.Process(stack.process.pid).children()
        if child.name() == "postgres"
    )
    postmaster.kill()
    stack.wait_for(event="service_ready", name="postgres", restarted=True)
    assert query(stack.directory, "SELECT id FROM kept") == [(7,)]
    assert stack.events("stub_started") == ["hub"]


def test_a_second_up_on_the_same_data_directory_is_refused(start_stack: StartStack) -> None:
    first = start_stack("hub")
    first.wait_until_ready()
    second = start_stack("hub")
    assert second.wait_for_end() == 1
    said = str(second.seen[-1]["text"])
    assert said.startswith("already-running: ")
    assert str(first.process.pid) in said
    assert query(first.directory, "SELECT 1") == [(1,)]


def test_a_service_that_ends_before_it_is_ready_stops_everything(start_stack: StartStack) -> None:
    stack = start_stack("broker", "hub:broken")
    assert stack.wait_for_end() == 1
    assert stack.events("service_stopped")[-1] == "postgres"
    assert not [p for p in stack.processes() if p.pid != stack.process.pid]
    text = "".join(str(record.get("text", "")) for record in stack.seen)
    assert "service-failed: hub ended before it was ready (exit code 3)" in text
    assert "stub cannot go on" in text


def test_a_service_that_is_never_ready_is_given_up(start_stack: StartStack) -> None:
    stack = start_stack("hub:mute")
    assert stack.wait_for_end() == 1
    assert "hub was not ready after 3 s" in str(stack.seen[-1]["text"])
    assert not [p for p in stack.processes() if p.pid != stack.process.pid]


def test_a_second_signal_hastens_the_end(start_stack: StartStack) -> None:
    stack = start_stack("hub:deaf")
    stack.wait_until_ready()
    pid = next(r["pid"] for r in stack.seen if r.get("event") == "stub_started")
    os.kill(pid, signal.SIGSTOP)  # not even its own limit ends it
    stack.send(signal.SIGINT)
    stack.wait_for(event="stopping")
    stack.send(signal.SIGINT)
    assert stack.wait_for_end() == 0  # its own limit is longer than this waits
    assert stack.events("service_killed") == ["hub"]
    assert stack.events("service_stopped") == ["hub", "postgres"]


def test_a_signal_during_the_start_stops_what_has_started(start_stack: StartStack) -> None:
    stack = start_stack("broker", "hub:mute")
    stack.wait_for(event="service_ready", name="broker")
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 0
    assert stack.events("service_stopped") == ["broker", "postgres"]
    assert not [p for p in stack.processes() if p.pid != stack.process.pid]
