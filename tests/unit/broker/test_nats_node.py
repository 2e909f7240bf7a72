"""A node's settings, its rendered configuration, and what is read from a server's last words."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.nats.configuration import render
from broker.nats.errors import (
    BadNodeSettings,
    NatsServerMissing,
    NodeAddressTaken,
    NodeDiskFull,
    NodeError,
    NodeStoreDamaged,
)
from broker.nats.keys import CalloutKeys
from broker.nats.reasons import damage_in, errors_in, explain
from broker.nats.server import find_program
from broker.nats.settings import NodeSettings


def settings(**changes: object) -> NodeSettings:
    known: dict[str, object] = {"nats_keys": "keys.json", "nats_data": "/data/nats"}
    return NodeSettings.model_validate(known | changes)


CLUSTER = {
    "nats_cluster_listen": "10.0.0.1:6222",
    "nats_routes": "one.example:6222, two.example:6222",
    "nats_replicas": 3,
}


def parts(node: NodeSettings) -> dict[str, object]:
    """The rendered configuration, read back: each part is JSON."""
    text = render(node.node(CalloutKeys.generate(), "test.example"))
    decoder, found, place = json.JSONDecoder(), {}, 0
    while place < len(text):
        name, _, _ = text[place:].partition(": ")
        value, end = decoder.raw_decode(text, place + len(name) + 2)
        found[name], place = value, end + 1
    return found


def test_a_node_is_certified_for_every_name_it_can_be_found_by() -> None:
    node = settings(
        public_host="mqtt.example,192.0.2.1",
        nats_hosts="one.example",
        mqtt="[2001:db8::1]:8883",
        nats_listen="10.0.0.1:4222",
        **CLUSTER,
    )
    assert node.certificate_hosts == [
        "mqtt.example",
        "192.0.2.1",
        "one.example",
        "2001:db8::1",
        "10.0.0.1",
        "localhost",
        "127.0.0.1",
    ]


def test_the_log_is_bounded_and_where_the_front_is_told_to_look() -> None:
    found = parts(settings(nats_log="/var/log/nats.log"))
    assert found["log_file"] == "/var/log/nats.log"
    assert found["logfile_size_limit"] == 16 * 1024**2
    assert found["logfile_max_num"] == 4
    assert parts(settings())["log_file"] == "/data/nats/nats.log"


def test_a_route_is_for_the_brokers_certificate_and_has_no_password() -> None:
    cluster = parts(settings(**CLUSTER))["cluster"]
    assert isinstance(cluster, dict)
    assert cluster["tls"]["verify_and_map"] is True
    assert cluster["authorization"] == {
        "user": "spiffe://test.example/service/broker",
        "timeout": 5,
    }
    assert cluster["routes"] == ["tls://one.example:6222", "tls://two.example:6222"]
    assert parts(settings(**CLUSTER))["mqtt"]["stream_replicas"] == 3  # type: ignore[index]
    assert "cluster" not in parts(settings())


def test_agents_take_no_more_of_a_small_store_than_their_share() -> None:
    for stored in (64 * 1024**2, 8 * 1024**3, 1024**4):
        accounts = parts(settings(nats_stored_bytes=stored))["accounts"]
        assert isinstance(accounts, dict)
        share = accounts["AGENTS"]["jetstream"]["max_file"]
        assert 0 < share <= min(stored // 8, 1024**3)


@pytest.mark.parametrize(
    "changes",
    [
        {"nats_replicas": 3},
        {"nats_cluster_listen": "127.0.0.1:6222"},
        {"nats_routes": "one.example:6222"},
        {**CLUSTER, "nats_routes": "one.example"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadNodeSettings):
        settings(**changes).node(CalloutKeys.generate(), "test.example")


@pytest.mark.parametrize(
    "changes",
    [{"nats_node": "Node 1"}, {"mqtt": "8883"}, {"nats_replicas": 6}, {"nats_stored_bytes": 1}],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NatsServerMissing, match="nowhere") as refused:
        find_program(tmp_path / "nowhere")
    assert "tensorguard-platform[nats]" in refused.value.hint


def test_the_program_may_be_another_than_the_wheel_s(tmp_path: Path) -> None:
    given = tmp_path / "nats-server"
    given.write_text("#!/bin/sh\n")
    given.chmod(0o755)
    assert find_program(given) == given


RECORD = "[71] 2026/11/23 02:54:35.889964 "
TAKEN = (
    "Unable to listen for MQTT connections: listen tcp 127.0.0.1:1: bind: address already in use"
)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"[FTL] {TAKEN}", NodeAddressTaken),
        ("[ERR] JetStream failed to store a msg: no space left on device", NodeDiskFull),
        ("[FTL] Can't start JetStream: could not create storage directory", NodeStoreDamaged),
        (
            "[FTL] Can't start JetStream: Error enabling jetstream on configured accounts:"
            " insufficient storage resources available (10047)",
            BadNodeSettings,
        ),
    ],
)
def test_what_a_server_says_last_is_read(said: str, kind: type[NodeError]) -> None:
    lines = [
        f"{RECORD}[INF] Starting nats-server",
        RECORD + said,
        f"{RECORD}[INF] Server Exiting..",
    ]
    assert type(explain(errors_in(lines), 1)) is kind


def test_words_that_nobody_knows_are_passed_on() -> None:
    assert "signal 9" in explain([], -9).message
    assert "exit code 1): odd" in explain(["odd"], 1).message


def test_damage_is_told_by_warnings_too_and_not_by_what_clients_do() -> None:
    damage = f'{RECORD}[WRN]   Stream metafile "x": checksums do not match "1" vs "2"'
    client = f'{RECORD}[ERR] 127.0.0.1:1 - mid:7 - "corrupt" - authentication error'
    assert damage_in([client, damage]) == ['Stream metafile "x": checksums do not match "1" vs "2"']
