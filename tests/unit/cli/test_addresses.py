"""Where the services listen: chosen once, kept, and refused when somebody else is there."""

import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tensorguard.cli.supervisor import addresses as addresses_module
from tensorguard.cli.supervisor.addresses import (
    Address,
    Addresses,
    Wishes,
    choose_addresses,
    load_addresses,
    store_addresses,
)
from tensorguard.cli.supervisor.errors import BadAddress, BadSettings, PortTaken

ANY = "127.0.0.1:0"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port_everywhere() -> int:
    """A port that no outgoing connection of another test gets: below the ephemeral range."""
    while True:
        port = random.randrange(12_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


@pytest.fixture
def chosen() -> Addresses:
    ours = choose_addresses(None, Wishes(ANY, ANY, ANY, ANY))[0]
    device, mqtt = (f"127.0.0.1:{free_port_everywhere()}" for _ in range(2))
    return replace(ours, device=device, mqtt=mqtt)


@pytest.mark.parametrize("text", ["", "8080", "host:", "host:x", "host:70000", "a b:1", ":80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "tg.example.org:443", "[::1]:8443"])
def test_an_address_reads_back_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_four_free_ports_are_chosen() -> None:
    chosen = choose_addresses(None, Wishes(ANY, ANY, ANY, ANY))[0]
    listening = (chosen.http, chosen.device, chosen.mqtt, chosen.enroll_mqtt)
    ports = {Address.parse(text).port for text in listening}
    assert len(ports) == 4
    assert 0 not in ports


def test_a_busy_default_is_replaced_at_the_first_start_and_said(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(addresses_module._DEFAULT_PORTS, "mqtt", taken_port)
    chosen, notes = choose_addresses(None, Wishes(http=ANY, device=ANY, enroll_mqtt=ANY))
    port = Address.parse(chosen.mqtt).port
    assert port > taken_port
    assert notes == [f"port {taken_port} is taken; mqtt uses {port} from now on"]


def test_stored_addresses_are_used_again(chosen: Addresses) -> None:
    assert choose_addresses(chosen, Wishes()) == (chosen, [])


def test_a_public_host_at_a_later_start_lets_devices_in_from_elsewhere(chosen: Addresses) -> None:
    moved, notes = choose_addresses(chosen, Wishes(public_host="tg.example.org"))
    for name in ("device", "mqtt", "enroll_mqtt"):
        port = Address.parse(getattr(chosen, name)).port
        assert getattr(moved, name) == f"0.0.0.0:{port}"
    assert moved.http == chosen.http
    assert len(notes) == 3
    assert choose_addresses(moved, Wishes(public_host="tg.example.org")) == (moved, [])


def test_an_address_that_is_asked_for_stays_on_loopback(chosen: Addresses) -> None:
    wishes = Wishes(
        device=chosen.device,
        mqtt=chosen.mqtt,
        enroll_mqtt=chosen.enroll_mqtt,
        public_host="tg.example.org",
    )
    kept, notes = choose_addresses(chosen, wishes)
    assert (kept.device, kept.mqtt, kept.enroll_mqtt, notes) == (
        *(chosen.device, chosen.mqtt, chosen.enroll_mqtt),
        [],
    )
    # A tunnel ends there: so it stays at the next start.
    assert choose_addresses(kept, Wishes()) == (kept, [])


def test_a_stored_port_that_is_taken_is_refused_and_its_holder_named(
    chosen: Addresses, taken_port: int
) -> None:
    stored = replace(chosen, device=f"127.0.0.1:{taken_port}")
    with pytest.raises(PortTaken) as caught:
        choose_addresses(stored, Wishes())
    assert f"process {os.getpid()} (" in caught.value.message
    assert "--device" in caught.value.hint


def test_what_an_earlier_version_has_stored_is_kept_and_completed(
    chosen: Addresses, tmp_path: Path
) -> None:
    path = tmp_path / "addresses.json"
    store_addresses(path, chosen)
    facts = json.loads(path.read_text())
    del facts["enroll_mqtt"]
    path.write_text(json.dumps(facts))
    old = load_addresses(path)
    assert old == replace(chosen, enroll_mqtt="")
    new, _ = choose_addresses(old, Wishes(enroll_mqtt=ANY))
    assert replace(new, enroll_mqtt="") == old
    assert Address.parse(new.enroll_mqtt).port != 0


def test_one_port_cannot_be_used_twice(chosen: Addresses) -> None:
    with pytest.raises(BadAddress, match="used twice"):
        choose_addresses(chosen, Wishes(device=chosen.http))


def test_an_address_of_another_machine_is_refused_also_if_its_port_is_taken_here(
    taken_port: int,
) -> None:
    with pytest.raises(BadAddress, match="Cannot listen on"):
        choose_addresses(None, Wishes(http=f"192.0.2.1:{taken_port}"))


def test_plain_http_stays_on_loopback() -> None:
    with pytest.raises(BadAddress, match="unencrypted"):
        choose_addresses(None, Wishes("0.0.0.0:0", ANY, ANY))


def test_a_public_host_opens_the_device_ports_only() -> None:
    chosen, _ = choose_addresses(None, Wishes(public_host="tg.example.org,192.0.2.7"))
    assert Address.parse(chosen.http).host == "127.0.0.1"
    assert Address.parse(chosen.device).host == Address.parse(chosen.mqtt).host == "0.0.0.0"
    port = Address.parse(chosen.mqtt).port
    assert chosen.url("mqtts", chosen.mqtt) == f"mqtts://tg.example.org:{port}"


@pytest.mark.parametrize("text", ["a b", "x,,y", "-bad", "http://tg.example.org"])
def test_what_is_no_public_host_is_refused(text: str) -> None:
    with pytest.raises(BadAddress, match="--public-host"):
        choose_addresses(None, Wishes(public_host=text))


def test_addresses_are_stored_and_loaded(chosen: Addresses, tmp_path: Path) -> None:
    path = tmp_path / "addresses.json"
    assert load_addresses(path) is None
    store_addresses(path, chosen)
    assert load_addresses(path) == chosen
    assert [found.name for found in tmp_path.iterdir()] == ["addresses.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"http": 1'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "addresses.json"
    path.write_text(text)
    with pytest.raises(BadSettings, match=r"addresses\.json"):
        load_addresses(path)
