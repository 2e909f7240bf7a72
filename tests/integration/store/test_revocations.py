"""Numbers of revocations become visible in order: a front that polls misses none."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest

from tests.patience import PATIENCE_S
from tests.postgres import Database

INSERT = (
    "INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)"
    " VALUES (gen_random_uuid(), 'r', now(), 'test') RETURNING seq"
)
SEEN = "SELECT coalesce(max(seq), 0), count(*) FROM revocations"


def insert(url: str, before_commit: threading.Event, inserted: threading.Event) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(INSERT).fetchone()
        inserted.set()
        assert before_commit.wait(20)
    assert row is not None
    return int(row[0])


def test_a_second_revocation_waits_for_the_first_to_commit(fresh_database: Database) -> None:
    go, both, first_in, second_in = (threading.Event() for _ in range(4))
    both.set()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(insert, fresh_database.app_url, go, first_in)
        assert first_in.wait(20)
        second = pool.submit(insert, fresh_database.app_url, both, second_in)
        assert not second_in.wait(0.3)
        with psycopg.connect(fresh_database.app_url) as connection:
            assert connection.execute(SEEN).fetchone() == (0, 0)
        go.set()
        assert first.result(20) < second.result(20)


def test_whoever_polls_sees_no_number_appear_below_one_already_seen(
    fresh_database: Database,
) -> None:
    def revoke(_: int) -> None:
        with psycopg.connect(fresh_database.app_url) as connection:
            for _ in range(15):
                connection.execute(INSERT)
                connection.execute("SELECT pg_sleep(random() * 0.003)")
                if connection.execute("SELECT random() < 0.2").fetchone() == (True,):
                    connection.rollback()
                else:
                    connection.commit()

    seen: dict[int, int] = {}
    with ThreadPoolExecutor(6) as pool:
        writers: list[Future[None]] = [pool.submit(revoke, number) for number in range(6)]
        with psycopg.connect(fresh_database.app_url, autocommit=True) as connection:
            while not all(writer.done() for writer in writers):
                row = connection.execute(SEEN).fetchone()
                assert row is not None
                seen[row[0]] = row[1]
        for writer in writers:
            writer.result()
    with psycopg.connect(fresh_database.app_url) as connection:
        for newest, count in seen.items():
            found = connection.execute(
                "SELECT count(*) FROM revocations WHERE seq <= %s", (newest,)
            ).fetchone()
            assert found == (count,)
    assert len(seen) > 5


def test_the_number_is_the_databases_whatever_a_service_asks_for(
    fresh_database: Database,
) -> None:
    statement = INSERT.replace("(agent_id", "(seq, agent_id").replace("VALUES (", "VALUES (%s, ")
    with psycopg.connect(fresh_database.app_url) as connection:
        numbers = [connection.execute(statement, (wanted,)).fetchone() for wanted in (999, 5)]
    assert numbers == [(1,), (2,)]


def test_revocations_notify_once_when_they_commit(fresh_database: Database) -> None:
    with (
        psycopg.connect(fresh_database.app_url, autocommit=True) as listener,
        psycopg.connect(fresh_database.app_url) as writer,
    ):
        listener.execute("LISTEN tg_revocations")
        for _ in range(3):
            writer.execute(INSERT)
        assert list(listener.notifies(timeout=0.2, stop_after=1)) == []
        writer.commit()
        notices = [
            *listener.notifies(timeout=PATIENCE_S, stop_after=1),
            *listener.notifies(timeout=0.2),
        ]
    assert len(notices) == 1


@pytest.mark.parametrize("columns", ["", ", serial"])
def test_a_revocation_names_an_agent_or_a_serial_and_never_both(
    fresh_database: Database, columns: str
) -> None:
    values = {"": "", ", serial": ", 'aa'"}[columns]
    agent = {"": "NULL", ", serial": "gen_random_uuid()"}[columns]
    with (
        psycopg.connect(fresh_database.app_url) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute(
            f"INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by{columns})"
            f" VALUES ({agent}, 'r', now(), 'test'{values})"
        )
