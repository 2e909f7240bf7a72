"""Events of agents: in the ledger exactly once, every gap told, and an ack for every log."""

import hashlib
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from hub.batch import sort
from hub.downlink import Downlinks
from hub.events import KEYS_KEPT_FOR, LOGS_KEPT, forget_keys, store_events
from hub.upkeep import tell_floods
from hub.uplink import Uplink
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Ack
from tensorguard.protocol.topics import FrontKind
from tests.integration.hub.builders import FLEET, Hub, uplink

REPORTED = "agent.reported."


def numbers(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["details"]["number"] for entry in entries]


async def test_events_become_entries_and_are_acked_after_the_commit(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(*(hub.event(agent_id, log_id, number) for number in (1, 2, 3)))
    entries = await hub.entries(REPORTED)
    assert numbers(entries) == [1, 2, 3]
    assert entries[0]["type"] == "agent.reported.model.activated"
    assert entries[0]["actor"] == {"kind": "agent", "id": str(agent_id)}
    assert entries[0]["fleet"] == FLEET
    assert entries[0]["details"]["reported"]["deep"] == [{"a": None}]
    assert hub.front.acks(agent_id) == [Ack(log_id=log_id, through=3)]
    assert len(hub.front.acked) == 3
    queued = await hub.value(
        "SELECT count(*) FROM ledger_unsequenced JOIN ledger_events ON id = event_id"
        " WHERE type LIKE 'agent.reported.%'"
    )
    assert queued == 3


async def test_a_redelivered_event_is_stored_once_and_acked_again(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    for _ in range(3):
        event = hub.event(agent_id, log_id, 1)
        await hub.take(event, event)
    assert numbers(await hub.entries(REPORTED)) == [1]
    assert hub.front.acks(agent_id) == [Ack(log_id=log_id, through=1)] * 3


async def test_an_event_ahead_of_the_others_waits_for_them(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 3))
    await hub.take(hub.event(agent_id, log_id, 1))
    await hub.take(hub.event(agent_id, log_id, 2))
    assert [ack.through for ack in hub.front.acks(agent_id)] == [0, 1, 3]
    assert sorted(numbers(await hub.entries(REPORTED))) == [1, 2, 3]
    assert await hub.entries("events.gap") == []


async def test_the_same_number_with_other_content_is_a_conflict_and_acked(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    first = hub.event(agent_id, log_id, 1)
    other = hub.event(agent_id, log_id, 1, details={"changed": True})
    await hub.take(first)
    await hub.take(other)
    [conflict] = await hub.entries("event.conflict")
    assert conflict["details"]["stored_sha256"] == hashlib.sha256(first.payload).hexdigest()
    assert conflict["details"]["received_sha256"] == hashlib.sha256(other.payload).hexdigest()
    assert len(await hub.entries(REPORTED)) == 1
    assert hub.front.acks(agent_id)[-1].through == 1


async def test_a_conflict_within_one_batch_is_one_too(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    other = hub.event(agent_id, log_id, 1, details={})
    await hub.take(hub.event(agent_id, log_id, 1), other)
    assert len(await hub.entries("event.conflict")) == 1
    assert len(await hub.entries(REPORTED)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "agent.bribed"},
        {"at": "0001-01-01T00:00:00+14:00"},
        {"at": None},
        {"details": "text"},
        {"details": {"x": "y" * 66_000}},
    ],
    ids=lambda changes: str(changes)[:40],
)
async def test_a_legible_number_with_a_bad_body_is_malformed_and_acked(
    hub: Hub, changes: dict[str, Any]
) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    bad = hub.event(agent_id, log_id, 1, **changes)
    await hub.take(bad)
    [entry] = await hub.entries("event.malformed")
    assert (entry["details"]["number"], entry["outcome"]) == (1, "failure")
    assert hub.front.acks(agent_id) == [Ack(log_id=log_id, through=1)]
    assert await hub.value("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize(
    "details",
    [
        {"nul": "\x00", "control": "\x1b[31m", "text": "ẞ🙂"},
        {"huge": 10**4_000},
        {"float": 0.1, "tiny": 5e-324},
        {"deep": [[[[[[[[[["deep"]]]]]]]]]]},
        {"": {"": {"": None}}},
        {"x" * 20_000: "y" * 20_000},
    ],
    ids=lambda details: str(details)[:30],
)
async def test_strange_details_are_kept_whole(hub: Hub, details: dict[str, Any]) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 1, details=details))
    [entry] = await hub.entries(REPORTED)
    assert entry["details"].keys() >= {"log_id", "number", "at"}
    assert "reported" in entry["details"] or "raw" in entry["details"]
    assert hub.front.acks(agent_id) == [Ack(log_id=log_id, through=1)]


@pytest.mark.parametrize("depth", [8, 100, 500, 900, 1_000, 5_000, 30_000])
async def test_deep_nesting_is_kept_or_malformed_and_acked(hub: Hub, depth: int) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    good = hub.event(agent_id, log_id, 1, details={"x": "@"})
    deep = good.payload.replace(b'"@"', b"[" * depth + b"]" * depth)
    await hub.take(Uplink(good.topic, deep, good.received_at))
    [entry] = await hub.entries(REPORTED) + await hub.entries("event.malformed")
    assert entry["details"]["number"] == 1
    assert hub.front.acks(agent_id) == [Ack(log_id=log_id, through=1)]
    assert await hub.value("SELECT count(*) FROM dead_letters") == 0


async def test_numbers_that_no_longer_exist_are_one_gap(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 1))
    await hub.take(*(hub.event(agent_id, log_id, number, oldest=6) for number in (6, 7)))
    [gap] = await hub.entries("events.gap")
    details = gap["details"]
    assert (details["first"], details["last"], details["missing"]) == (2, 5, 4)
    assert hub.front.acks(agent_id)[-1].through == 7
    await hub.take(hub.event(agent_id, log_id, 7, oldest=6))
    assert len(await hub.entries("events.gap")) == 1


async def test_a_gap_counts_only_what_never_came(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 3), hub.event(agent_id, log_id, 5))
    await hub.take(hub.event(agent_id, log_id, 6, oldest=6))
    [gap] = await hub.entries("events.gap")
    details = gap["details"]
    assert (details["first"], details["last"], details["missing"]) == (1, 4, 3)
    assert sorted(numbers(await hub.entries(REPORTED))) == [3, 5, 6]
    assert hub.front.acks(agent_id)[-1].through == 6


async def test_what_comes_after_its_gap_was_told_changes_nothing(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 5, oldest=5))
    await hub.take(hub.event(agent_id, log_id, 2))
    assert numbers(await hub.entries(REPORTED)) == [5]
    assert await hub.entries("event.conflict") == []
    assert hub.front.acks(agent_id)[-1].through == 5


async def test_a_number_far_above_the_oldest_is_a_dead_letter_and_moves_nothing(
    hub: Hub,
) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(hub.event(agent_id, log_id, 10_001, oldest=1))
    assert await hub.entries("events.gap") == []
    assert await hub.entries(REPORTED) == []
    assert hub.front.acks(agent_id) == []
    [letter] = await hub.rows("SELECT agent_id, reason FROM dead_letters")
    assert letter.agent_id == agent_id
    assert "10001" in letter.reason


async def test_agents_and_logs_are_kept_apart(hub: Hub) -> None:
    first, second = await hub.add_agent(), await hub.add_agent()
    log_id, other = uuid4(), uuid4()
    await hub.take(
        hub.event(first, log_id, 1),
        hub.event(second, log_id, 1, details={"other": "content"}),
        hub.event(first, other, 1),
    )
    assert len(await hub.entries(REPORTED)) == 3
    assert await hub.entries("event.conflict") == []
    assert {ack.log_id for ack in hub.front.acks(first)} == {log_id, other}
    assert [ack.log_id for ack in hub.front.acks(second)] == [log_id]


async def test_an_agent_that_connects_is_told_its_watermark(hub: Hub) -> None:
    agent_id, old, new = await hub.add_agent(), uuid4(), uuid4()
    await hub.take(hub.event(agent_id, old, 1))
    hub.clock.advance(seconds=1)
    await hub.take(*(hub.event(agent_id, new, number) for number in (1, 2)))
    hub.front.sent.clear()
    await hub.take(uplink(FrontKind.CONNECTED, agent_id, hub.clock.now))
    assert hub.front.acks(agent_id) == [Ack(log_id=new, through=2)]


async def test_a_forgotten_event_that_comes_again_is_known_by_its_logs_watermark(hub: Hub) -> None:
    agent_id, log_id, younger = await hub.add_agent(), uuid4(), uuid4()
    old = [hub.event(agent_id, log_id, number) for number in (1, 2, 4)]
    await hub.take(*old)
    hub.clock.advance(seconds=1)
    await hub.take(hub.event(agent_id, younger, 1))
    hub.clock.advance(seconds=KEYS_KEPT_FOR.total_seconds())
    for left in ([2, 4, 1], [4, 1], [4, 1]):
        async with hub.sessions.begin() as session:
            await forget_keys(session, hub.clock.now, most=1)
        keys = await hub.rows("SELECT number FROM agent_events ORDER BY received_at, number")
        assert [row.number for row in keys] == left
    await hub.take(*old, hub.event(agent_id, log_id, 1, details={"changed": True}))
    assert hub.front.acks(agent_id)[-1] == Ack(log_id=log_id, through=2)
    await hub.take(hub.event(agent_id, log_id, 3))
    assert hub.front.acks(agent_id)[-1] == Ack(log_id=log_id, through=4)
    assert numbers(await hub.entries(REPORTED)) == [1, 2, 4, 1, 3]
    assert await hub.entries("event.conflict") == []


async def test_a_flood_is_acked_and_told_in_one_entry_a_minute(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    flood = [hub.event(agent_id, log_id, number) for number in range(1, 1_301)]
    await hub.take(*flood)
    assert hub.front.acks(agent_id)[-1].through == 1_300
    assert len(await hub.entries(REPORTED)) == 1_000
    await hub.take(*flood)  # again: duplicates are no excess
    async with hub.sessions.begin() as session:
        assert await tell_floods(session, hub.clock.advance(seconds=59)) == 0
    async with hub.sessions.begin() as session:
        assert await tell_floods(session, hub.clock.advance(seconds=1)) == 1
    async with hub.sessions.begin() as session:
        assert await tell_floods(session, hub.clock.advance(hours=1)) == 0
    [entry] = await hub.entries("agent.flooding")
    digest = b""
    for one in flood[1_000:]:
        digest = hashlib.sha256(digest + hashlib.sha256(one.payload).digest()).digest()
    assert entry["details"]["count"] == 300
    assert entry["details"]["digest"] == digest.hex()
    assert entry["subject"] == {"kind": "agent", "id": str(agent_id)}
    # The excess is told by its entry alone: below the watermark no row is kept for it.
    assert await hub.value("SELECT count(*) FROM agent_events") == 1_000


async def test_a_flood_goes_on_at_sixty_a_minute(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    await hub.take(*(hub.event(agent_id, log_id, number) for number in range(1, 1_101)))
    hub.clock.advance(minutes=1)
    await hub.take(*(hub.event(agent_id, log_id, number) for number in range(1_101, 1_201)))
    assert len(await hub.entries(REPORTED)) == 1_060
    assert hub.front.acks(agent_id)[-1].through == 1_200
    assert await hub.value("SELECT excess FROM agent_event_budgets") == 140


async def test_only_an_agents_newest_outboxes_are_known(hub: Hub) -> None:
    agent_id, other, *logs = await hub.add_agent(), await hub.add_agent(), uuid4(), uuid4()
    await hub.take(hub.event(other, logs[0], 1), hub.event(agent_id, logs[0], 2))
    hub.clock.advance(seconds=1)
    await hub.take(*(hub.event(agent_id, uuid4(), 1) for _ in range(LOGS_KEPT - 1)))
    known = "SELECT agent_id, log_id FROM agent_logs"
    assert {(agent_id, logs[0]), (other, logs[0])} <= {tuple(row) for row in await hub.rows(known)}
    hub.clock.advance(seconds=1)
    await hub.take(hub.event(agent_id, logs[1], 1))
    found = {tuple(row) for row in await hub.rows(known)}
    assert len(found) == LOGS_KEPT + 1
    assert {(agent_id, logs[1]), (other, logs[0])} <= found
    assert (agent_id, logs[0]) not in found
    # Nor are its keys kept for longer than others.
    hub.clock.advance(seconds=KEYS_KEPT_FOR.total_seconds())
    async with hub.sessions.begin() as session:
        await forget_keys(session, hub.clock.now)
    assert await hub.rows("SELECT FROM agent_events WHERE number = 2") == []


async def test_a_failed_transaction_acks_nothing_and_leaves_nothing(hub: Hub) -> None:
    agent_id, log_id = await hub.add_agent(), uuid4()
    events = sort([hub.event(agent_id, log_id, 1)]).events
    async with hub.sessions() as session:
        assert await store_events(session, events, Downlinks(), hub.clock.now) == 1
        await session.rollback()
    assert await hub.entries(REPORTED) == []
    assert await hub.value("SELECT count(*) FROM agent_logs") == 0


# An agent, a network and a hub that misbehave


@dataclass
class Outbox:
    """The agent's side: it keeps each event until a message of the hub acks it."""

    agent_id: UUID
    log_id: UUID
    held: dict[int, bytes] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)
    number: int = 0

    def report(self, hub: Hub) -> None:
        self.number += 1
        at = (hub.clock.now + timedelta(microseconds=self.number)).isoformat()
        # `oldest` as it stood when the event was first sent: what is repeated is byte-identical.
        oldest = min(self.held, default=self.number)
        event = hub.event(self.agent_id, self.log_id, self.number, oldest=oldest, at=at)
        self.held[self.number] = event.payload

    def take(self, ack: Ack) -> None:
        if ack.log_id == self.log_id:
            for number in [held for held in self.held if held <= ack.through]:
                self.acked.add(number)
                del self.held[number]


class Crash(Exception):
    """The hub's end, between its commit and its acks."""


@dataclass
class World:
    """Agents, their messages on the way, and a hub that dies now and then."""

    hub: Hub
    chance: random.Random
    outboxes: list[Outbox]
    flying: list[Uplink] = field(default_factory=list)

    def publish(self) -> None:
        """Every agent sends what it holds; some is lost, some doubled, some late."""
        for outbox in self.outboxes:
            topic = self.hub.event(outbox.agent_id, outbox.log_id, 1).topic
            for payload in outbox.held.values():
                copies = self.chance.choices((0, 1, 2), (3, 6, 1))[0]
                self.flying += [Uplink(topic, payload, self.hub.clock.now)] * copies
        self.chance.shuffle(self.flying)

    async def store(self) -> None:
        """Store a batch; a hub that dies before or after its commit says nothing to anybody."""
        count = self.chance.randint(1, 40)
        batch, self.flying = self.flying[:count], self.flying[count:]
        fate = self.chance.random()
        downlinks = Downlinks()
        try:
            async with self.hub.sessions.begin() as session:
                await store_events(session, sort(batch).events, downlinks, self.hub.clock.now)
                if fate < 0.15:
                    raise Crash
        except Crash:
            return
        if fate < 0.3:
            return
        for downlink in downlinks.items:
            if self.chance.random() < 0.7:
                ack = codec.decode(Ack, downlink.payload)
                for outbox in self.outboxes:
                    if str(outbox.agent_id) in downlink.topic:
                        outbox.take(ack)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_lost_doubled_late_or_killed_every_event_is_there_once(
    hub: Hub, seed: int
) -> None:
    chance = random.Random(seed)
    outboxes = [Outbox(await hub.add_agent(), uuid4()) for _ in range(3)]
    world = World(hub, chance, outboxes)
    for _ in range(25):
        for outbox in outboxes:
            for _ in range(chance.randint(0, 4)):
                outbox.report(hub)
        if chance.random() < 0.5:
            world.publish()
        await world.store()
        hub.clock.advance(seconds=1)
    for _ in range(200):
        if not any(outbox.held for outbox in outboxes):
            break
        world.publish()
        await world.store()
    assert [outbox.held for outbox in outboxes] == [{}, {}, {}]
    stored: dict[str, list[int]] = {str(outbox.agent_id): [] for outbox in outboxes}
    for entry in await hub.entries(REPORTED):
        stored[entry["subject"]["id"]].append(entry["details"]["number"])
    for outbox in outboxes:
        assert sorted(stored[str(outbox.agent_id)]) == list(range(1, outbox.number + 1))
        assert outbox.acked == set(range(1, outbox.number + 1))
    for type_ in ("events.gap", "event.conflict", "event.malformed"):
        assert await hub.entries(type_) == []
