"""A platform's keys and signed messages for one agent, and a core to feed with them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from agent.core import effects as fx
from agent.core.agent import AgentCore
from agent.core.clock import Moment
from agent.core.outbox import Outbox
from agent.core.settings import CoreSettings, Credentials, Telemetry
from agent.core.state import AgentState, Installed
from tensorguard.pki.bundle import TrustStore, sign_bundle, trusted_key
from tensorguard.pki.identity import AgentIdentity, subject_key_id
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol import codec, envelope, topics
from tensorguard.protocol.messages import (
    Ack,
    Desired,
    DesiredPackage,
    Event,
    FleetConfig,
    Grant,
    Heartbeat,
    KeyRequest,
    Progress,
    Signed,
    TrustBundle,
    TrustedKeys,
    TrustedPublisher,
)
from tensorguard.protocol.topics import DownKind, UpKind

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "test.tensorguard"
AGENT = AgentIdentity(TRUST_DOMAIN, "hospital-a", UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"))
DEPLOYMENT = UUID("0195a1b2-0000-7000-8000-000000000001")
KID = "ab" * 32
IDLE = Telemetry(cpu_percent=1.0, memory_percent=2.0, disk_percent=3.0)
SETTINGS = CoreSettings(agent_version="0.1.0", build_time=datetime(2026, 11, 1, tzinfo=UTC))


class Signers:
    """Every online key of a platform, its root, a CA and a publisher."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.root = Ed25519Signer.generate()
        self.online = Ed25519Signer.generate()
        self.ledger = Ed25519Signer.generate()
        self.publisher = Ed25519Signer.generate()
        self.ca = CertificateAuthority.create(TRUST_DOMAIN, now)

    def bundle(
        self, version: int = 1, online: Ed25519Signer | None = None, **changes: Any
    ) -> bytes:
        until = self.now + timedelta(days=365)
        key = trusted_key((online or self.online).public_raw, until)
        bundle = TrustBundle(
            trust_domain=TRUST_DOMAIN,
            issued_at=self.now,
            expires_at=until,
            version=version,
            ca=[self.ca.certificate_pem],
            keys=TrustedKeys(
                root=[trusted_key(self.root.public_raw, until)],
                desired=[key],
                grant=[key],
                command=[key],
                config=[key],
                ledger=[trusted_key(self.ledger.public_raw, until)],
            ),
            root_threshold=1,
            publishers=[
                TrustedPublisher(
                    kid=self.publisher.kid,
                    alg="ed25519",
                    public=self.publisher.public_raw,
                    names=["*"],
                    not_after=until,
                )
            ],
        )
        return sign_bundle(msgspec.structs.replace(bundle, **changes), [self.root])

    def trust(self) -> TrustStore:
        return TrustStore.open_first(self.bundle())

    def sign(self, message: Signed, signer: Ed25519Signer | None = None) -> bytes:
        return envelope.sign(message, [signer or self.online])

    def times(self, **changes: Any) -> dict[str, Any]:
        return {
            "trust_domain": TRUST_DOMAIN,
            "issued_at": self.now,
            "expires_at": self.now + timedelta(days=1),
        } | changes


def package(digest: str = "11" * 32, url: str = "/device/v1/packages/x?k=1") -> DesiredPackage:
    return DesiredPackage(digest=digest, size=1000, url=url)


def desired(signers: Signers, revision: int = 1, epoch: int = 1, **changes: Any) -> Desired:
    fields = signers.times() | {
        "agent_id": AGENT.agent_id,
        "deployment_id": DEPLOYMENT,
        "release": None,
        "package": package(),
        "tags": {},
        "min_seq": 0,
        "allow_downgrade": False,
        "epoch": epoch,
        "revision": revision,
    }
    return Desired(**(fields | changes))


def grant(signers: Signers, request_id: UUID, **changes: Any) -> Grant:
    fields = signers.times() | {
        "agent_id": AGENT.agent_id,
        "request_id": request_id,
        "package_digest": "11" * 32,
        "kid": KID,
        "exp": int((signers.now + timedelta(hours=1)).timestamp()),
        "sealed": bytes(80),
    }
    return Grant(**(fields | changes))


def config(signers: Signers, revision: int, interval_s: int = 7, **changes: Any) -> FleetConfig:
    fields = signers.times() | {
        "fleet": AGENT.fleet,
        "epoch": 1,
        "revision": revision,
        "heartbeat_interval_s": interval_s,
    }
    return FleetConfig(**(fields | changes))


def installed(digest: str = "11" * 32, seq: int = 1) -> Installed:
    return Installed(name="model", version="1.0.0", digest=digest, seq=seq)


class Bench:
    """A core on a bench: its clock is turned by hand, its effects are kept and obeyed."""

    def __init__(
        self,
        signers: Signers,
        *,
        state: AgentState | None = None,
        outbox: Outbox | None = None,
        start: bool = True,
        settings: CoreSettings = SETTINGS,
        system: datetime = NOW,
        life: timedelta = timedelta(days=7),
    ) -> None:
        self.signers = signers
        self.random = Random(1)
        self.moment = Moment(system, 1000.0)
        self.state = state or AgentState(time_floor=NOW - timedelta(days=10))
        self.disk: dict[int, bytes] = {}
        self.log_ids: list[UUID] = []
        self.persisted = 0
        self.core = AgentCore(
            settings,
            Credentials(
                AGENT,
                NOW - timedelta(minutes=5),
                NOW + life,
                KID,
                issuer=subject_key_id(signers.ca.certificate),
            ),
            self.state,
            Outbox(self.new_id()) if outbox is None else outbox,
            signers.trust(),
            uniform=self.random.random,
            new_id=self.new_id,
        )
        self.has_disk = True
        self.published: list[tuple[str, bytes]] = []
        self.todo: list[fx.Effect] = []
        if start:
            self.obey(self.core.start(self.moment))

    def new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def obey(self, effects: Sequence[fx.Effect]) -> list[fx.Effect]:
        """Do what a disk would do, keep the rest for the test to look at."""
        for effect in effects:
            match effect:
                case fx.Publish(topic, payload):
                    self.published.append((topic, payload))
                case fx.KeepEvent(number, payload):
                    assert number not in self.disk
                    self.disk[number] = payload
                case fx.DropEvents(through, numbers):
                    for number in [n for n in self.disk if n <= through or n in numbers]:
                        del self.disk[number]
                case fx.NewLog(log_id, events):
                    self.log_ids.append(log_id)
                    self.disk = dict(events)
                case fx.Persist():
                    self.persisted += 1
                case fx.KeepTrust():
                    self.todo.append(effect)
                    if self.has_disk:
                        self.obey(self.core.trust_kept(self.moment))
                case fx.SampleTelemetry():
                    self.obey(self.core.heartbeat(self.moment, IDLE))
                case _:
                    self.todo.append(effect)
        return list(effects)

    def connect(self) -> list[fx.Effect]:
        return self.obey(self.core.connected(self.moment))

    def disconnect(self) -> list[fx.Effect]:
        return self.obey(self.core.disconnected(self.moment))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every deadline on the way."""
        end = self.moment.monotonic_s + seconds
        for _ in range(100_000):
            due = self.core.deadline_s(self.moment)
            if due > end:
                break
            self._turn_clock(max(due, self.moment.monotonic_s + 0.001))
            self.obey(self.core.tick(self.moment))
        self._turn_clock(end)

    def down(self, kind: DownKind, payload: bytes) -> list[fx.Effect]:
        topic = topics.down(AGENT.fleet, AGENT.agent_id, kind)
        return self.obey(self.core.message(self.moment, topic, payload))

    def to_fleet(self, kind: DownKind, payload: bytes) -> list[fx.Effect]:
        return self.obey(
            self.core.message(self.moment, topics.fleet_down(AGENT.fleet, kind), payload)
        )

    def send_desired(self, message: Desired) -> list[fx.Effect]:
        return self.down(DownKind.DESIRED, self.signers.sign(message))

    def send_grant(self, message: Grant) -> list[fx.Effect]:
        return self.down(DownKind.GRANT, self.signers.sign(message))

    def ack(self, through: int, log_id: UUID | None = None, rejected: Sequence[int] = ()) -> None:
        ack = Ack(
            log_id=log_id or self.core.outbox.log_id, through=through, rejected=list(rejected)
        )
        self.down(DownKind.ACK, codec.encode(ack))

    def taken(self, kind: UpKind) -> list[bytes]:
        """Return and forget what was published of a kind."""
        topic = topics.up(AGENT.fleet, AGENT.agent_id, kind)
        found = [payload for name, payload in self.published if name == topic]
        self.published = [pair for pair in self.published if pair[0] != topic]
        return found

    def heartbeats(self) -> list[Heartbeat]:
        return [codec.decode(Heartbeat, one) for one in self.taken(UpKind.HEARTBEAT)]

    def events(self) -> list[Event]:
        return [codec.decode(Event, one) for one in self.taken(UpKind.EVENT)]

    def progress(self) -> list[Progress]:
        return [codec.decode(Progress, one) for one in self.taken(UpKind.PROGRESS)]

    def key_requests(self) -> list[KeyRequest]:
        return [codec.decode(KeyRequest, one) for one in self.taken(UpKind.KEY_REQUEST)]

    def last(self, kind: type[fx.Effect]) -> Any:
        return next(one for one in reversed(self.todo) if isinstance(one, kind))

    def count(self, kind: type[fx.Effect]) -> int:
        return sum(isinstance(one, kind) for one in self.todo)

    def deploy(self, message: Desired) -> None:
        """Take a document all the way to succeeded."""
        self.send_desired(message)
        job = self.last(fx.Download).job
        assert message.package is not None
        digest = message.package.digest
        self.obey(self.core.downloaded(self.moment, job))
        self.obey(self.core.verified(self.moment, job, installed(digest)))
        request = self.key_requests()[-1]
        self.send_grant(grant(self.signers, request.request_id, package_digest=digest))
        self.obey(self.core.opened(self.moment, job))
        self.obey(self.core.activated(self.moment, job, {"engine": "none"}))

    def _turn_clock(self, monotonic_s: float) -> None:
        passed = timedelta(seconds=monotonic_s - self.moment.monotonic_s)
        self.moment = Moment(self.moment.system + passed, monotonic_s)
