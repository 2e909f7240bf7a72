"""What the agent refuses to believe, and the time that it believes it is."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from agent.core import effects as fx
from agent.core.state import AgentState
from tensorguard.ledger.checkpoint import Checkpoint as Note
from tensorguard.ledger.checkpoint import ledger_origin, sign_checkpoint
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol import codec, envelope, topics
from tensorguard.protocol.messages import (
    CertificateIssued,
    Checkpoint,
    Command,
    Desired,
    Reply,
    Signed,
)
from tensorguard.protocol.topics import DownKind, UpKind
from tests.unit.agent.builders import (
    AGENT,
    NOW,
    SETTINGS,
    TRUST_DOMAIN,
    Bench,
    Signers,
    config,
    desired,
)

Build = Callable[[Signers], Signed]
NOT_OURS: dict[str, tuple[dict[str, Any], str]] = {
    "another agent": ({"agent_id": uuid4()}, "wrong-recipient"),
    "another trust domain": ({"trust_domain": "other.example"}, "wrong-recipient"),
    "expired": ({"expires_at": NOW - timedelta(seconds=1)}, "expired"),
}


def refusals(bench: Bench) -> list[tuple[str, str]]:
    return [
        (event.details["what"], event.details["code"])
        for event in bench.events()
        if event.type == "signature.refused"
    ]


@pytest.fixture
def connected(bench: Bench) -> Bench:
    bench.connect()
    bench.events()
    bench.ack(1)
    return bench


def command(signers: Signers, **changes: Any) -> Command:
    fields = signers.times() | {
        "agent_id": AGENT.agent_id,
        "command_id": uuid4(),
        "kind": "diagnostics",
    }
    return Command(**(fields | changes))


def certificate(signers: Signers, **changes: Any) -> CertificateIssued:
    fields = signers.times() | {"agent_id": AGENT.agent_id, "request_id": uuid4()}
    return CertificateIssued(**(fields | changes))


@pytest.mark.parametrize("why", NOT_OURS)
@pytest.mark.parametrize(
    ("kind", "build"),
    [
        (DownKind.DESIRED, desired),
        (DownKind.COMMAND, command),
        (DownKind.CERTIFICATE, certificate),
    ],
)
def test_a_signed_message_that_is_not_for_us_now_changes_nothing(
    connected: Bench, kind: DownKind, build: Build, why: str
) -> None:
    changes, code = NOT_OURS[why]
    before = msgspec.json.encode(connected.state)
    message = build(connected.signers, **changes)  # type: ignore[call-arg]  # each takes fields
    connected.todo.clear()
    connected.down(kind, connected.signers.sign(message))
    assert refusals(connected) == [(str(kind), code)]
    assert connected.todo == []
    assert msgspec.json.encode(connected.state) == before


def test_a_config_of_another_fleet_is_refused(connected: Bench) -> None:
    other = config(connected.signers, 3, fleet="hospital-b")
    connected.to_fleet(DownKind.CONFIG, connected.signers.sign(other))
    assert refusals(connected) == [("config", "wrong-recipient")]
    assert connected.state.config.revision == 0


def test_an_unknown_signer_is_refused_and_has_the_next_bundle_asked_for_once_a_minute(
    connected: Bench,
) -> None:
    connected.todo.clear()
    for _ in range(5):
        stranger = envelope.sign(desired(connected.signers), [Ed25519Signer.generate()])
        connected.down(DownKind.DESIRED, stranger)
        connected.pass_time(1)
    assert refusals(connected) == [("desired", "unknown-signer")], "told once, not five times"
    assert connected.count(fx.FetchTrust) == 1
    assert connected.last(fx.FetchTrust).version == 2
    assert connected.state.desired is None


def test_a_key_signs_only_the_kind_that_the_bundle_gives_it(connected: Bench) -> None:
    signed = connected.signers.sign(desired(connected.signers), connected.signers.ledger)
    connected.down(DownKind.DESIRED, signed)
    assert refusals(connected) == [("desired", "unknown-signer")]


def test_a_forged_signature_of_a_known_key_is_refused(connected: Bench) -> None:
    raw = envelope.parse(connected.signers.sign(desired(connected.signers)))
    other = envelope.parse(connected.signers.sign(desired(connected.signers, revision=2)))
    mixed = msgspec.json.encode(
        envelope.Envelope(other.payload, other.payload_type, raw.signatures)
    )
    connected.down(DownKind.DESIRED, mixed)
    assert refusals(connected) == [("desired", "bad-signature")]


def test_a_message_of_another_kind_than_its_topic_is_refused(connected: Bench) -> None:
    connected.down(DownKind.DESIRED, connected.signers.sign(command(connected.signers)))
    assert refusals(connected) == [("desired", "wrong-kind")]


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"\xff\xfe", b"[" * 10_000, b'{"payload": 1}'])
def test_rubbish_is_refused(connected: Bench, rubbish: bytes) -> None:
    connected.down(DownKind.DESIRED, rubbish)
    assert refusals(connected) == [("desired", "bad-envelope")]
    connected.down(DownKind.ACK, rubbish)
    connected.to_fleet(DownKind.CHECKPOINT, rubbish)
    assert connected.core.online


def test_what_is_too_large_is_not_even_read(connected: Bench) -> None:
    connected.down(DownKind.DESIRED, b"x" * (64 * 1024 + 1))
    assert refusals(connected) == []


@pytest.mark.parametrize(
    "topic",
    [
        topics.down(AGENT.fleet, UUID(int=7), DownKind.DESIRED),
        topics.fleet_down("hospital-b", DownKind.CONFIG),
        topics.fleet_down(AGENT.fleet, DownKind.DESIRED),
        topics.fleet_down(AGENT.fleet, DownKind.COMMAND),
        f"tg/v1/{AGENT.fleet}/{AGENT.agent_id}/down/desired/more",
    ],
)
def test_another_topic_changes_nothing(connected: Bench, topic: str) -> None:
    connected.todo.clear()
    signed = connected.signers.sign(desired(connected.signers))
    connected.obey(connected.core.message(connected.moment, topic, signed))
    assert connected.state.desired is None
    assert connected.todo == []


def test_the_next_bundle_is_written_before_it_is_believed(connected: Bench) -> None:
    raw = connected.signers.bundle(version=2)
    effects = connected.obey(connected.core.trust_fetched(connected.moment, raw))
    assert effects[0] == fx.KeepTrust(raw)
    assert connected.last(fx.FetchTrust).version == 3, "there may be another"
    connected.pass_time(40)
    assert connected.heartbeats()[-1].has.trust == 2


def test_a_new_key_signs_after_the_next_bundle(connected: Bench) -> None:
    new = Ed25519Signer.generate()
    signed = connected.signers.sign(desired(connected.signers), new)
    connected.down(DownKind.DESIRED, signed)
    assert connected.state.desired is None
    bundle = connected.signers.bundle(version=2, online=new)
    connected.obey(connected.core.trust_fetched(connected.moment, bundle))
    connected.down(DownKind.DESIRED, signed)
    assert connected.state.desired is not None


@pytest.mark.parametrize("version", [1, 3])
def test_a_bundle_that_is_not_the_next_one_is_refused(connected: Bench, version: int) -> None:
    raw = connected.signers.bundle(version=version)
    connected.obey(connected.core.trust_fetched(connected.moment, raw))
    assert connected.core.trust.version == 1
    assert refusals(connected) == [("trust", "bundle-not-next")]


def test_a_bundle_signed_by_another_root_is_refused(connected: Bench) -> None:
    raw = Signers().bundle(version=2)
    connected.obey(connected.core.trust_fetched(connected.moment, raw))
    assert connected.core.trust.version == 1


def test_bundles_are_asked_for_about_once_an_hour(connected: Bench) -> None:
    connected.todo.clear()
    connected.pass_time(3 * 3600)
    assert 2 <= connected.count(fx.FetchTrust) <= 4


def test_the_time_floor_is_the_newest_verified_issued_at_and_never_falls(bench: Bench) -> None:
    bench.connect()
    newer = NOW + timedelta(hours=3)
    message = desired(bench.signers, issued_at=newer, expires_at=newer + timedelta(days=1))
    bench.send_desired(message)
    assert bench.state.time_floor == newer
    older = desired(bench.signers, revision=2, issued_at=NOW)
    bench.send_desired(older)
    assert bench.state.time_floor == newer


def test_an_unverified_issued_at_moves_no_floor(connected: Bench) -> None:
    before = connected.state.time_floor
    far = NOW + timedelta(days=300)
    message = desired(connected.signers, issued_at=far, expires_at=far + timedelta(days=1))
    connected.down(DownKind.DESIRED, connected.signers.sign(message, Ed25519Signer.generate()))
    assert connected.state.time_floor == before


@pytest.mark.parametrize("year", [1970, 2000])
def test_a_clock_that_fell_back_does_not_make_an_expired_message_good(
    signers: Signers, year: int
) -> None:
    state = AgentState(time_floor=NOW)
    bench = Bench(signers, state=state, system=datetime(year, 1, 1, tzinfo=UTC))
    bench.connect()
    bench.send_desired(desired(signers, expires_at=NOW - timedelta(seconds=1)))
    assert state.desired is None
    assert bench.heartbeats()[0].sent_at.year == year, "skew must stay visible to the hub"


def test_the_floor_starts_at_the_later_of_build_and_certificate(signers: Signers) -> None:
    state = AgentState(time_floor=datetime(1970, 1, 1, tzinfo=UTC))
    Bench(signers, state=state)
    assert state.time_floor == max(SETTINGS.build_time, NOW - timedelta(minutes=5))


def test_a_command_runs_once_until_it_expires(connected: Bench) -> None:
    signed = connected.signers.sign(command(connected.signers))
    connected.down(DownKind.COMMAND, signed)
    connected.down(DownKind.COMMAND, signed)
    assert connected.count(fx.Diagnose) == 1


def test_a_command_is_remembered_before_it_is_run(connected: Bench) -> None:
    signed = connected.signers.sign(command(connected.signers, kind="restart"))
    effects = connected.down(DownKind.COMMAND, signed)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(fx.Persist) < kinds.index(fx.Restart)
    after = Bench(connected.signers, state=connected.state)
    after.connect()
    after.down(DownKind.COMMAND, signed)
    assert after.count(fx.Restart) == 0, "not again after the restart"


def test_tags_are_agreed_to_and_change_nothing_before_a_document_has_them(
    connected: Bench,
) -> None:
    connected.send_desired(desired(connected.signers))
    before = connected.state.desired
    arguments = {"tags": {"gpu": "true"}}
    signed = connected.signers.sign(
        command(connected.signers, kind="set-tags", arguments=arguments)
    )
    for _ in range(2):
        connected.down(DownKind.COMMAND, signed)
    replies = [codec.decode(Reply, one) for one in connected.taken(UpKind.REPLY)]
    assert [one.state for one in replies] == ["acknowledged", "done"]
    assert connected.state.desired == before


def test_a_checkpoint_of_our_ledger_is_shown_in_the_heartbeat(connected: Bench) -> None:
    origin = ledger_origin(TRUST_DOMAIN)

    def note(size: int, root: bytes, signer: Ed25519Signer) -> bytes:
        text = sign_checkpoint(Note(origin, size, root), [signer.private_key])
        return codec.encode(Checkpoint(note=text))

    own = connected.signers.ledger
    connected.to_fleet(DownKind.CHECKPOINT, note(8, bytes(32), own))
    connected.to_fleet(DownKind.CHECKPOINT, note(9, bytes(32), Ed25519Signer.generate()))
    connected.to_fleet(DownKind.CHECKPOINT, note(7, b"\1" * 32, own))
    connected.pass_time(40)
    seen = connected.heartbeats()[-1].ledger
    assert seen is not None
    assert (seen.size, seen.root) == (8, "00" * 32)
    connected.ack(connected.core.outbox.issued)
    connected.events()
    connected.to_fleet(DownKind.CHECKPOINT, note(8, b"\2" * 32, own))
    forks = connected.events()
    assert [(one.type, one.details["what"]) for one in forks] == [
        ("policy.violation", "ledger-fork")
    ]


def test_no_event_of_the_agent_holds_a_float(connected: Bench) -> None:
    def floats(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(floats, value.values()))
        return isinstance(value, float)

    connected.deploy(Desired(**msgspec.structs.asdict(desired(connected.signers))))
    connected.ack(1)
    events = connected.events()
    assert len(events) >= 3
    assert not any(floats(event.details) for event in events)
