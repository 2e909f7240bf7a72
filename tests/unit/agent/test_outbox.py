"""Events: none lost, none doubled, whatever acks, repetitions, cuts and restarts come between."""

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core import outbox as outboxes
from agent.core.outbox import Outbox
from agent.core.state import AgentState
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Ack, Event
from tensorguard.protocol.topics import UpKind
from tests.unit.agent.builders import NOW, Bench, Signers


def filled(count: int) -> Outbox:
    outbox = Outbox(uuid4())
    for index in range(count):
        outbox.add("self-test", {"index": index}, NOW)
    return outbox


def drain(outbox: Outbox) -> list[Event]:
    taken = []
    while (payload := outbox.take()) is not None:
        taken.append(codec.decode(Event, payload))
    return taken


def test_an_ack_forgets_what_is_committed_and_nothing_else() -> None:
    outbox = filled(5)
    outbox.ack(Ack(log_id=outbox.log_id, through=3), uuid4())
    assert [event.number for event in drain(outbox)] == [4, 5]


def test_a_rejected_event_is_not_sent_again() -> None:
    outbox = filled(5)
    outbox.ack(Ack(log_id=outbox.log_id, through=1, rejected=[3]), uuid4())
    assert [event.number for event in drain(outbox)] == [2, 4, 5]


def test_an_ack_for_another_log_changes_nothing() -> None:
    outbox = filled(3)
    assert outbox.ack(Ack(log_id=uuid4(), through=3), uuid4()) == []
    assert len(outbox) == 3


def test_a_repetition_has_the_very_same_bytes() -> None:
    outbox = filled(3)
    first = outbox.take()
    outbox.ack(Ack(log_id=outbox.log_id, through=0), uuid4())
    outbox.rewind(connected=True)
    assert outbox.take() == first


def test_a_restored_image_starts_a_new_log_with_everything_it_holds() -> None:
    outbox = filled(3)
    old, new = outbox.log_id, uuid4()
    effects = outbox.ack(Ack(log_id=old, through=7), new)
    assert outbox.log_id == new
    events = drain(outbox)
    assert [(event.log_id, event.number, event.oldest) for event in events] == [
        (new, 1, 1),
        (new, 2, 1),
        (new, 3, 1),
    ]
    assert [event.details["index"] for event in events] == [0, 1, 2]
    assert len(effects) == 1


def test_an_overflow_drops_the_oldest_and_reports_it() -> None:
    outbox = filled(outboxes.MAX_EVENTS)
    outbox.add("self-test", {"index": "last"}, NOW)
    assert len(outbox) <= outboxes.MAX_EVENTS
    closer = outbox.rewind(connected=True)
    assert closer is not None
    report = codec.decode(Event, closer)
    assert report.type == "outbox.overflowed"
    assert report.oldest == report.details["through"] + 1 == drain(outbox)[0].number


def test_sixteen_mebibytes_are_never_exceeded() -> None:
    outbox = Outbox(uuid4())
    for _ in range(400):
        outbox.add("self-test", {"text": "x" * 50_000}, NOW)
    assert outbox.size_bytes <= outboxes.MAX_BYTES
    assert outbox.issued > 400, "the overflow was reported"


def test_a_hub_that_is_silent_is_probed_with_one_event_at_a_time() -> None:
    bench = Bench(Signers())
    for index in range(40):
        bench.obey(bench.core.record(bench.moment, "self-test", {"index": index}))
    bench.connect()
    first = bench.events()
    assert len(first) == 16, "not everything at once, before the hub has said anything"
    bench.pass_time(600)
    later = bench.events()
    assert {event.number for event in later} == {1}
    assert len(later) <= 45, "about two a minute"


def test_events_keep_below_the_rate_that_the_hub_takes_for_normal() -> None:
    bench = Bench(Signers())
    for index in range(3000):
        bench.obey(bench.core.record(bench.moment, "self-test", {"index": index}))
    bench.connect()
    sent = 0
    for _ in range(1800):
        events = bench.events()
        sent += len(events)
        if events:
            bench.ack(max(event.number for event in events))
        bench.pass_time(1)
    assert sent <= 1000 + 30 * 60, "burst 1,000 and 60 a minute"
    assert sent > 1500


def test_an_event_that_could_not_be_written_is_taken_back_with_its_number() -> None:
    outbox = filled(3)
    assert outbox.retract(3) == 1
    assert outbox.issued == 2
    outbox.add("self-test", {"index": "again"}, NOW)
    assert [event.number for event in drain(outbox)] == [1, 2, 3]


class Ledger(RuleBasedStateMachine):
    """An agent, a link that loses and repeats, a hub that commits and acks, and restarts."""

    signers = Signers()

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.signers)
        self.recorded: list[str] = []
        self.wire: list[bytes] = []
        self.ledger: dict[tuple[UUID, int], bytes] = {}
        self.conflicts = 0
        self.numbers: dict[UUID, int] = {}
        self.online = False

    @rule(count=st.integers(1, 5))
    def record(self, count: int) -> None:
        for _ in range(count):
            name = f"e{len(self.recorded)}"
            self.recorded.append(name)
            self.bench.obey(self.bench.core.record(self.bench.moment, "self-test", {"name": name}))
        self._collect()

    @rule()
    def connect(self) -> None:
        if not self.online:
            self.bench.connect()
            self.online = True
            self._collect()

    @rule()
    def cut(self) -> None:
        if self.online:
            self.bench.disconnect()
            self.online = False

    @rule(seconds=st.floats(0.1, 400))
    def wait(self, seconds: float) -> None:
        self.bench.pass_time(seconds)
        self._collect()

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def deliver(self, data: Any) -> None:
        """Some of what is on the wire arrives, in order, perhaps twice; the rest is lost."""
        fate = data.draw(
            st.lists(
                st.sampled_from([0, 1, 1, 1, 2]), min_size=len(self.wire), max_size=len(self.wire)
            )
        )
        for payload, times in zip(self.wire, fate, strict=True):
            for _ in range(times):
                self._store(payload)
        self.wire.clear()

    @rule()
    def ack(self) -> None:
        if self.online:
            log_id = self.bench.core.outbox.log_id
            self.bench.ack(self._watermark(log_id))
            self._collect()

    @rule()
    def restart(self) -> None:
        """The process dies; what the disk has is what it starts with."""
        old = self.bench
        self.online = False
        self.wire.clear()
        outbox = Outbox(
            old.core.outbox.log_id, sorted(old.disk.items()), issued=old.core.outbox.issued
        )
        fresh = Bench(self.signers, state=old.state, outbox=outbox, start=False)
        fresh.disk = dict(old.disk)
        fresh.moment = old.moment
        fresh.random = old.random
        self.bench = fresh
        fresh.obey(fresh.core.start(fresh.moment))
        self._collect()

    @invariant()
    def nothing_is_stored_twice_or_changed(self) -> None:
        if not hasattr(self, "bench"):
            return
        assert self.conflicts == 0
        names = Counter(self._name(payload) for payload in self.ledger.values())
        del names[None]
        assert all(count == 1 for count in names.values())

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "bench"):
            return
        stored = {self._name(payload) for payload in self.ledger.values()}
        held = {self._name(payload) for payload in self.bench.disk.values()}
        assert set(self.recorded) <= stored | held

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.cut()
        self.connect()
        for _ in range(600):
            for payload in self.wire:
                self._store(payload)
            self.wire.clear()
            if not len(self.bench.core.outbox):
                break
            self.ack()
            self.wait(5)
        assert len(self.bench.core.outbox) == 0, "every outbox drains to zero"
        assert self.bench.disk == {}
        self.nothing_is_lost()

    def _collect(self) -> None:
        for payload in self.bench.taken(UpKind.EVENT):
            event = codec.decode(Event, payload)
            assert event.number <= self.bench.core.outbox.issued
            self.wire.append(payload)

    def _store(self, payload: bytes) -> None:
        event = codec.decode(Event, payload)
        known = self.ledger.setdefault((event.log_id, event.number), payload)
        self.conflicts += known != payload

    def _watermark(self, log_id: UUID) -> int:
        through = 0
        while (log_id, through + 1) in self.ledger:
            through += 1
        return through

    @staticmethod
    def _name(payload: bytes) -> str | None:
        return codec.decode(Event, payload).details.get("name")


Ledger.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLedger = Ledger.TestCase


def test_a_restored_agent_is_heard_again_after_the_hub_has_shown_its_watermark() -> None:
    signers = Signers()
    state = AgentState(time_floor=NOW - timedelta(days=1))
    image = Outbox(uuid4(), issued=3)
    bench = Bench(signers, state=state, outbox=image)
    bench.connect()
    bench.events()
    bench.ack(50)
    assert len(bench.log_ids) == 1
    renumbered = bench.events()
    assert [event.number for event in renumbered] == [1]
    assert renumbered[0].log_id == bench.log_ids[0]
