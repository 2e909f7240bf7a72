"""Requests of devices, as a front hands them over: answered each, whatever the others are."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub.enrollments import DeviceEnrollments
from hub.uplink import Uplink
from hub.work import Work
from tensorguard.protocol import codec
from tensorguard.protocol.messages import FrontEnroll, MqttAddress
from tensorguard.protocol.topics import FrontKind, FrontTopic
from tensorguard.services.enrollment.manufacturers import (
    ManufacturerTerms,
    activate_manufacturer,
    register_manufacturer,
)
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.fleets import create_fleet
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.enrollment.builders import Device
from tests.integration.hub.builders import Hub
from tests.manufacturer import MadeDevice, Manufacturer

FLEET = "factory-b"
OPERATOR = Actor("user", "0195a1b2-0000-7000-8000-000000000001")


@pytest.fixture
def acme(tmp_path: Path) -> Manufacturer:
    return Manufacturer(tmp_path / "acme")


@pytest.fixture
async def gate(hub: Hub, acme: Manufacturer, tmp_path: Path) -> Hub:
    """A hub that answers devices of one active maker."""
    async with hub.sessions.begin() as session:
        now = hub.clock.now
        await create_fleet(session, hub.keyring, slug=FLEET, name="B", by=OPERATOR, now=now)
        terms = ManufacturerTerms(name="Acme", approval="auto", max_agents=3)
        ca_id = await register_manufacturer(session, FLEET, acme.pem, terms, by=OPERATOR, now=now)
        await activate_manufacturer(session, ca_id, by=OPERATOR, approved_by=OPERATOR, now=now)
    address = MqttAddress(host="platform.example", port=8883)
    enrollments = DeviceEnrollments(
        hub.sessions, hub.keyring, address, "https://platform.example:8443"
    )
    kek = LocalKeyProvider.open_or_create(tmp_path / "kek.json", hub.clock)
    hub.work = Work(hub.sessions, hub.keyring, kek, hub.clock, enrollments)
    return hub


def asked(hub: Hub, made: MadeDevice, payload: bytes) -> Uplink:
    message = FrontEnroll(
        certificate=made.der, request=payload, peer="192.0.2.7:4242", at=hub.clock.now
    )
    topic = str(FrontTopic("front-1", FrontKind.ENROLL))
    return Uplink(topic, codec.encode(message), hub.clock.now)


def request(device: Device | None = None, **changes: Any) -> bytes:
    body = json.loads(codec.encode((device or Device()).request(JOIN)))
    return json.dumps(body | changes).encode()


# The token in it is one more field that nobody asks for.
JOIN = (
    "tg1.eyJ1cmwiOiJodHRwczovL2QuZXhhbXBsZTo4NDQzIiwiY2EiOiJkNGE5OGJkMzM4MmZhMjhlNDNjOTM3MjQy"
    "ZGNlZGU0ZjM2NmIxNTRmZTk0MzUyZmZiZWI1NmJkYzEwY2E5ZjU5IiwidG9rZW4iOiJ0In0"
)


def answers(hub: Hub, made: MadeDevice) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in hub.front.sent if one.topic == made.down]


async def test_devices_of_one_batch_get_an_answer_each(gate: Hub, acme: Manufacturer) -> None:
    good, bad, late = acme.device(), acme.device(), acme.device()
    agent = await gate.add_agent()
    await gate.take(
        asked(gate, bad, b"{"),
        asked(gate, good, request()),
        asked(gate, late, request(csr="x")),
        gate.heartbeat(agent, 0),
    )
    (active,) = answers(gate, good)
    assert (active["status"], active["fleet"]) == ("active", FLEET)
    assert active["mqtt"] == {"host": "platform.example", "port": 8883}
    assert active["device_url"] == "https://platform.example:8443"
    assert [one["code"] for one in answers(gate, bad)] == ["bad-message"]
    assert [one["code"] for one in answers(gate, late)] == ["csr-malformed"]
    assert {one["status"] for one in answers(gate, bad) + answers(gate, late)} == {"refused"}
    assert await gate.value("SELECT received_at FROM agent_state WHERE agent_id = :id", id=agent)


async def test_a_stranger_gets_nothing_even_from_a_front_that_was_taken_in(
    gate: Hub, tmp_path: Path
) -> None:
    stranger = Manufacturer(tmp_path / "other").device()
    await gate.take(asked(gate, stranger, request()))
    assert [one["code"] for one in answers(gate, stranger)] == ["wrong-issuer"]
    assert await gate.value("SELECT count(*) FROM agents") == 0


async def test_a_batch_that_is_stored_again_gives_the_same_answer(
    gate: Hub, acme: Manufacturer
) -> None:
    made, device = acme.device(), Device()
    for _ in range(2):
        await gate.take(asked(gate, made, request(device)))
    first, second = answers(gate, made)
    assert first == second
    assert await gate.value("SELECT count(*) FROM certificates") == 1


async def test_refusals_become_one_entry_for_each_reason_and_minute(
    gate: Hub, acme: Manufacturer
) -> None:
    for _ in range(4):
        await gate.take(asked(gate, acme.device(), b"{}"))
    assert await gate.entries("agent.enrollment-failed") == []
    gate.clock.advance(minutes=1)
    await gate.work.tell_tallies()
    await gate.work.tell_tallies()
    (entry,) = await gate.entries("agent.enrollment-failed")
    assert (entry["details"]["reason"], entry["details"]["count"]) == ("bad-message", 4)
    assert "192.0.2" not in json.dumps(entry)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"csr": "x" * 60_000}, "csr-too-large"),
        ({"encryption_key": "AAAA"}, "bad-message"),
        ({"encryption_key": "A" * 43 + "="}, "bad-key"),
        ({"name": " "}, "enrollment-facts-invalid"),
        ({"name": "a\u0000b"}, "bad-message"),
        ({"facts": {"x": "y" * 17_000}}, "enrollment-facts-invalid"),
        ({"facts": {"x": "\u0000"}}, "enrollment-facts-invalid"),
        ({"facts": []}, "bad-message"),
    ],
)
async def test_bad_requests_are_refused_by_name_and_leave_nothing(
    gate: Hub, acme: Manufacturer, changes: dict[str, Any], code: str
) -> None:
    made = acme.device()
    await gate.take(asked(gate, made, request(**changes)))
    assert [one["code"] for one in answers(gate, made)] == [code]
    assert await gate.value("SELECT count(*) FROM agents") == 0
    assert await gate.value("SELECT count(*) FROM dead_letters") == 0


async def test_the_database_gives_no_more_agents_than_allowed_over_many_batches(
    gate: Hub, acme: Manufacturer
) -> None:
    made = [acme.device() for _ in range(5)]
    await gate.take(*(asked(gate, one, request()) for one in made), batch_messages=2)
    statuses = [answers(gate, one)[0]["status"] for one in made]
    assert sorted(statuses) == ["active"] * 3 + ["refused"] * 2
    assert await gate.value("SELECT count(*) FROM agents") == 3
