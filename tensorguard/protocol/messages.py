"""Every message between agent and platform as a frozen type; unknown fields are ignored.

Limits are part of the types, so that what decodes can be stored: strings hold no control characters
(PostgreSQL refuses NUL), integers stay below 2**53, numbers are finite, lists and maps are bounded.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

# `$` alone would let one newline at the end pass; `\Z` is no ECMAScript, as JSON Schema asks for.
_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
_SHA256 = r"^[0-9a-f]{64}$(?!\n)"
Timestamp = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Number = Annotated[int, Meta(ge=1, lt=2**53)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Text64 = Annotated[str, Meta(max_length=64, pattern=_LINE)]
Text200 = Annotated[str, Meta(max_length=200, pattern=_LINE)]
Reason = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Digest = Annotated[str, Meta(pattern=_SHA256)]
KeyId = Annotated[str, Meta(pattern=_SHA256)]
Tags = dict[
    Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$(?!\n)")],
    Annotated[str, Meta(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$(?!\n)")],
]

# What an agent may report; the ledger stores it as `agent.reported.<type>`.
EventType = Literal[
    "started",
    "stopped",
    "self-test",
    "model.decrypted",
    "model.activated",
    "model.inference",
    "decryption.failed",
    "activation.failed",
    "package.refused",
    "signature.refused",
    "policy.violation",
    "config.changed",
    "command.executed",
    "fell-back",
    "outbox.overflowed",
]


class Message(Struct, frozen=True, kw_only=True):
    """Base of every message."""


# Up


class PackageRef(Message, frozen=True, kw_only=True):
    """A package that an agent runs: `digest` is the SHA-256 of its manifest."""

    name: Text64
    version: Text64
    digest: Digest


class Accelerator(Message, frozen=True, kw_only=True):
    """One accelerator's load."""

    name: Text64
    util_percent: Percent
    memory_percent: Percent


class Position(Message, frozen=True, kw_only=True):
    """Where a stream of signed documents stands; compared as (epoch, revision)."""

    epoch: Count
    revision: Count


class Has(Message, frozen=True, kw_only=True):
    """What the agent holds of what was sent down; the hub re-sends whatever is behind."""

    desired: Position | None = None
    config: Count = 0
    trust: Count = 0


class LedgerSeen(Message, frozen=True, kw_only=True):
    """The newest ledger checkpoint that the agent has seen: epoch, tree size and root hash."""

    epoch: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 1
    size: Count
    root: Digest


class Heartbeat(Message, frozen=True, kw_only=True):
    """`heartbeat`: the agent lives, and this is how it does; (boot_count, seq) only rises."""

    boot_id: UUID
    boot_count: Count
    seq: Count
    sent_at: Timestamp
    status: Literal["ok", "degraded", "error"] = "ok"
    cpu_percent: Percent
    memory_percent: Percent
    disk_percent: Percent
    temperature_c: Annotated[float, Meta(ge=-274, le=2000)] | None = None
    accelerators: Annotated[list[Accelerator], Meta(max_length=16)] = []
    package: PackageRef | None = None
    agent_version: Text64
    metrics: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=64, pattern=_LINE)], float],
        Meta(max_length=32),
    ] = {}
    has: Has = Has()
    ledger: LedgerSeen | None = None


class EventHeader(Message, frozen=True, kw_only=True):
    """The part of an event that must be legible for it to be acked at all."""

    log_id: UUID
    number: Number
    oldest: Number


class Event(EventHeader, frozen=True, kw_only=True):
    """`event`: something security-relevant happened; kept by the agent until acked."""

    at: Timestamp
    type: EventType
    details: dict[str, Any] = {}


AgentProgress = Literal[
    "notified", "downloading", "verifying", "activating", "succeeded", "failed", "rejected"
]


class Progress(Message, frozen=True, kw_only=True):
    """`progress`: how far the agent is with a deployment."""

    deployment_id: UUID
    state: AgentProgress
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    reason: Reason | None = None
    at: Timestamp


class KeyRequest(Message, frozen=True, kw_only=True):
    """`key-request`: asks for the DEK of an assigned package; repeated with the same request_id."""

    request_id: UUID
    package_digest: Digest
    deployment_id: UUID


class CsrRequest(Message, frozen=True, kw_only=True):
    """`csr`: asks for a new certificate with a new key; repeated with the same request_id."""

    request_id: UUID
    csr: Annotated[str, Meta(max_length=8192)]
    reason: Literal["renewal", "move"]


class Reply(Message, frozen=True, kw_only=True):
    """`reply`: what became of a command."""

    command_id: UUID
    state: Literal["acknowledged", "done", "failed", "expired", "refused"]
    result: dict[str, Any] | None = None


class Will(Message, frozen=True, kw_only=True):
    """`will`: published by the broker when the agent's connection ends without DISCONNECT."""

    boot_id: UUID


# Up, from a broker front


class FrontConnected(Message, frozen=True, kw_only=True):
    """`connected`: a front has admitted an agent's connection."""

    fleet: str
    agent_id: UUID
    serial: str
    peer: str
    at: Timestamp


class FrontDisconnected(Message, frozen=True, kw_only=True):
    """`disconnected`: an agent's last connection at this front has ended."""

    fleet: str
    agent_id: UUID
    reason: Text200
    at: Timestamp


class FrontDenied(Message, frozen=True, kw_only=True):
    """`denied`: operations refused since the last report; no `agent_id` where none was proven."""

    operation: Literal["connect", "publish", "subscribe", "will", "retain", "oversize"]
    reason: Text200
    count: Number
    at: Timestamp
    fleet: str | None = None
    agent_id: UUID | None = None
    topic: Text200 | None = None


class FrontEnroll(Message, frozen=True, kw_only=True):
    """`enroll`: what a device says whose manufacturer's certificate (DER) the front has verified.

    The front vouches for the certificate and for the device's key, not for the `request`.
    """

    certificate: Annotated[bytes, Meta(max_length=8192)]
    request: bytes
    peer: str
    at: Timestamp


# Down


class Boot(Message, frozen=True, kw_only=True):
    """The start of an agent that the platform knows as its newest: id and count."""

    id: UUID
    count: Count


class Ack(Message, frozen=True, kw_only=True):
    """`ack`: every event of log_id up to `through` is committed; `rejected` will never be.

    The one after a connect also has the newest `boot` that the platform knows.
    """

    log_id: UUID
    through: Count
    rejected: list[Number] = []
    boot: Boot | None = None


class Checkpoint(Message, frozen=True, kw_only=True):
    """`checkpoint`: the newest ledger checkpoint as a C2SP signed note."""

    note: str


class TrustVersion(Message, frozen=True, kw_only=True):
    """`trust-version`: there is a trust bundle of this version: fetch it; believe nothing of it."""

    version: Number


class Signed(Message, frozen=True, kw_only=True):
    """Base of what travels in a DSSE envelope."""

    trust_domain: str
    issued_at: Timestamp
    expires_at: Timestamp


class ReleaseRef(Message, frozen=True, kw_only=True):
    """A release by name and version."""

    name: Text64
    version: Text64


class DesiredPackage(Message, frozen=True, kw_only=True):
    """Where to get the package and what it must be; `url` may be relative to device_url."""

    digest: Digest
    size: Count
    url: str


class Desired(Signed, frozen=True, kw_only=True):
    """`desired`: what this one agent should run; `package` null means: keep what runs."""

    agent_id: UUID
    deployment_id: UUID | None
    release: ReleaseRef | None
    package: DesiredPackage | None
    tags: Tags
    min_seq: Count
    allow_downgrade: bool
    epoch: Count
    revision: Count


class Grant(Signed, frozen=True, kw_only=True):
    """`grant`: a DEK sealed for this agent (`sealed`, 80 bytes), or `denied` with the reason."""

    agent_id: UUID
    request_id: UUID
    package_digest: Digest
    kid: KeyId | None = None
    exp: Count | None = None
    sealed: bytes | None = None
    denied: str | None = None


class CertificateIssued(Signed, frozen=True, kw_only=True):
    """`certificate`: the answer to a `csr`: PEM certificate, or `denied` with the reason."""

    agent_id: UUID
    request_id: UUID
    certificate: str | None = None
    denied: str | None = None


class Command(Signed, frozen=True, kw_only=True):
    """`command`: run once at most, before expires_at."""

    agent_id: UUID
    command_id: UUID
    kind: Literal["restart", "diagnostics", "collect-logs", "set-tags", "move"]
    arguments: dict[str, Any] = {}


class FleetConfig(Signed, frozen=True, kw_only=True):
    """`config`: how every agent of the fleet behaves; (epoch, revision) only rises."""

    fleet: str
    epoch: Count
    revision: Count
    heartbeat_interval_s: Annotated[int, Meta(ge=1, le=3600)]


# Trust bundle


class TrustedKey(Message, frozen=True, kw_only=True):
    """An Ed25519 key: kid = hex SHA-256 of the raw public key."""

    kid: KeyId
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    not_after: Timestamp


class TrustedKeys(Message, frozen=True, kw_only=True):
    """Which keys may sign which kind."""

    root: list[TrustedKey]
    desired: list[TrustedKey]
    grant: list[TrustedKey]
    command: list[TrustedKey]
    config: list[TrustedKey]
    ledger: list[TrustedKey]


class TrustedPublisher(Message, frozen=True, kw_only=True):
    """A key that may sign packages whose name matches one of `names` (`*` at the end: a prefix).

    It counts from `not_before`, or else at once, until `not_after`: when the package is opened.
    """

    kid: KeyId
    alg: Literal["ed25519"]
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    names: list[str]
    not_after: Timestamp
    not_before: Timestamp | UnsetType = UNSET


class TrustBundle(Signed, frozen=True, kw_only=True):
    """`trust`: the keys that an agent believes; signed by a threshold of root keys.

    `renew_within_s`: over how long agents spread the renewals by which they leave an older CA.
    """

    v: Literal[1] = 1
    version: Number
    ca: list[str]
    keys: TrustedKeys
    root_threshold: Number
    publishers: list[TrustedPublisher] = []
    renew_within_s: Annotated[int, Meta(ge=1, le=30 * 24 * 3600)] | UnsetType = UNSET


# Joining


class DeviceEnrollRequest(Message, frozen=True, kw_only=True):
    """`up/enroll`: proof of possession of the new key, and what the device says of itself."""

    csr: Annotated[str, Meta(max_length=1_100_000)]
    encryption_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    name: Text200
    facts: dict[str, Any] = {}


class EnrollRequest(DeviceEnrollRequest, frozen=True, kw_only=True):
    """`POST /device/v1/enroll`: the same, and the token that lets the device in."""

    token: Annotated[str, Meta(min_length=1, max_length=128)]


class MqttAddress(Message, frozen=True, kw_only=True):
    """Where the broker listens for agents."""

    host: str
    port: int


class Enrolled(Message, frozen=True, kw_only=True):
    """`201`: the agent's identity, its fleet's config and the trust bundle as DSSE envelopes."""

    agent_id: UUID
    fleet: str
    certificate: str
    mqtt: MqttAddress
    config: dict[str, Any]
    trust: dict[str, Any]
    device_url: str | None = None
    status: Literal["active"] = "active"


class EnrollmentPending(Message, frozen=True, kw_only=True):
    """`202`: an operator has to approve; ask again after `poll_after_s`."""

    agent_id: UUID
    poll_after_s: int
    status: Literal["pending"] = "pending"


class EnrollmentRefused(Message, frozen=True, kw_only=True):
    """Over MQTT, where there is no status code: `code` as in the problem of the HTTPS answer."""

    code: str
    detail: str
    hint: str
    status: Literal["refused"] = "refused"
