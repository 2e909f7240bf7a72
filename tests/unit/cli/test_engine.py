"""Which engine carries the messages: chosen once, remembered, changed by saying so."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from broker.nats.keys import CalloutKeys
from tensorguard.cli.supervisor.addresses import Address, Addresses, Wishes, choose_addresses
from tensorguard.cli.supervisor.broker import (
    KEYS_FILE,
    GivenNode,
    engine_settings,
    find_given_node,
    node_service,
    settle_engine,
)
from tensorguard.cli.supervisor.errors import BadSettings
from tensorguard.cli.supervisor.output import Output

ADDRESSES = Addresses("h:1", "d:2", "m:3", "127.0.0.1", "e:4", "127.0.0.1:4222")
GIVEN = GivenNode("tls://nats.example:4222", Path("/keys.json"), None)


def said(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_the_engine_is_remembered_until_another_is_asked_for(tmp_path: Path) -> None:
    stream = io.StringIO()
    output = Output(stream, as_json=True)
    assert settle_engine(tmp_path, None, None, output) == "embedded"
    assert settle_engine(tmp_path, "nats", None, output) == "nats"
    assert settle_engine(tmp_path, None, None, output) == "nats"
    assert settle_engine(tmp_path, "embedded", None, output) == "embedded"
    assert said(stream) == ["engine_changed", "engine_changed"]


def test_a_directory_of_an_earlier_version_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text("{}")
    stream = io.StringIO()
    assert settle_engine(tmp_path, "nats", None, Output(stream, as_json=True)) == "nats"
    assert said(stream) == ["engine_changed"]


def test_an_engine_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("kafka")
    with pytest.raises(BadSettings, match="cannot be read"):
        settle_engine(tmp_path, None, None, Output(io.StringIO()))


def test_a_program_that_is_not_there_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TG_NATS_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="nowhere"):
        settle_engine(tmp_path, "nats", None, Output(io.StringIO()))
    assert not (tmp_path / "engine").exists()
    assert settle_engine(tmp_path, "nats", GIVEN, Output(io.StringIO())) == "nats"


def test_a_node_of_somebody_else_takes_its_keys_too() -> None:
    assert find_given_node({}) is None
    with pytest.raises(BadSettings, match="TG_NATS_KEYS"):
        find_given_node({"TG_NATS_URL": GIVEN.url})
    found = find_given_node({"TG_NATS_URL": GIVEN.url, "TG_NATS_KEYS": "/keys.json"})
    assert found == GIVEN


def test_a_node_of_ours_gets_keys_that_stay_and_a_keeper(tmp_path: Path) -> None:
    settings = engine_settings("nats", None, tmp_path, ADDRESSES)
    keys = CalloutKeys.load(tmp_path / KEYS_FILE)
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600
    assert settings["TG_NATS_URL"] == "tls://127.0.0.1:4222"
    assert settings["TG_NATS_LOG"] == str(tmp_path / "nats" / "nats.log")
    (spec,) = node_service(settings)
    assert list(spec.command[-2:]) == ["broker", "nats-server"]
    engine_settings("nats", None, tmp_path, ADDRESSES)
    assert CalloutKeys.load(tmp_path / KEYS_FILE) == keys


def test_a_given_node_has_no_keeper_here(tmp_path: Path) -> None:
    settings = engine_settings("nats", GIVEN, tmp_path, ADDRESSES)
    assert settings["TG_NATS_KEYS"] == "/keys.json"
    assert node_service(settings) == []
    assert node_service(engine_settings("embedded", None, tmp_path, ADDRESSES)) == []
    assert not (tmp_path / KEYS_FILE).exists()


def test_services_reach_the_server_on_loopback_whatever_the_public_host_is() -> None:
    any_port = "127.0.0.1:0"
    wishes = Wishes(any_port, any_port, any_port, any_port, "tg.example", not_ours=frozenset())
    chosen, _ = choose_addresses(None, wishes)
    assert Address.parse(chosen.nats).host == "127.0.0.1"


def test_what_somebody_else_listens_on_is_not_tried() -> None:
    any_port = "127.0.0.1:0"
    held = replace(ADDRESSES, mqtt="192.0.2.1:8883", http=any_port, device=any_port)
    wishes = Wishes(
        http=any_port,
        device=any_port,
        enroll_mqtt=any_port,
        not_ours=frozenset({"mqtt", "nats"}),
    )
    chosen, _ = choose_addresses(held, wishes)
    assert (chosen.mqtt, chosen.nats) == ("192.0.2.1:8883", "127.0.0.1:4222")
    fresh, _ = choose_addresses(None, wishes)
    assert (fresh.mqtt, fresh.nats) == ("127.0.0.1:8883", "")
