"""What the core asks its runtime to do, in the order in which it must be done."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from tensorguard.pki.identity import AgentIdentity
from tensorguard.protocol.messages import Desired, Grant


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the MQTT session; answer with `connected` or `disconnected`.

    `certificate`: the one in use, or the newer one that was installed and is to be tried.
    """

    certificate: Literal["current", "next"] = "current"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the MQTT session with DISCONNECT; answer with `disconnected`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Send at QoS 1, not retained. Nothing has to be answered."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SampleTelemetry:
    """Measure the device; answer with `heartbeat`."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Write `core.state` to disk before anything that follows is done."""


@dataclass(frozen=True, slots=True)
class KeepEvent:
    """Write the event to the outbox on disk before it is published."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DropEvents:
    """Delete from the outbox on disk: all up to `through`, and those in `numbers`."""

    through: int
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NewLog:
    """Replace the outbox on disk by `events` (number, payload) under a new log_id, at once."""

    log_id: UUID
    events: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Download:
    """Fetch the package file; answer `downloading`, `downloaded` or `job_failed`."""

    job: int
    digest: str
    size_bytes: int
    url: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Do all of the opening order that needs no key; answer `verified` or `job_failed`."""

    job: int
    digest: str
    desired: Desired


@dataclass(frozen=True, slots=True)
class Open:
    """Decrypt with the DEK in the grant; answer `opened` or `job_failed`."""

    job: int
    digest: str
    desired: Desired
    grant: Grant


@dataclass(frozen=True, slots=True)
class Activate:
    """Try the package and make it the current one; answer `activated` or `job_failed`."""

    job: int
    digest: str


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop working on `job`; what is downloaded may stay. Nothing has to be answered."""

    job: int


@dataclass(frozen=True, slots=True)
class KeepTrust:
    """Write the trust bundle's envelope to disk; answer with `trust_kept` once it is there.

    Until then nothing is believed because of it, so that a restart never goes back.
    """

    envelope: bytes


@dataclass(frozen=True, slots=True)
class FetchTrust:
    """GET /device/v1/trust/{version}; answer with `trust_fetched`."""

    version: int


@dataclass(frozen=True, slots=True)
class MakeKey:
    """Make and keep a new P-256 key; answer with `csr_made`."""

    request_id: UUID


@dataclass(frozen=True, slots=True)
class InstallCertificate:
    """Keep this certificate and the key made for `request_id` beside the ones in use.

    It has to be of the platform's CA, for that key, and name `identity`. Answer with
    `certificate_installed` or `certificate_refused`.
    """

    request_id: UUID
    certificate: str
    identity: AgentIdentity


@dataclass(frozen=True, slots=True)
class PromoteCertificate:
    """The installed certificate has connected: it replaces the one in use, which may go."""


@dataclass(frozen=True, slots=True)
class AskRecovery:
    """Ask over HTTPS for a certificate in place of the ended one; answer `recovery_answered`."""

    request_id: UUID
    csr: str


@dataclass(frozen=True, slots=True)
class Diagnose:
    """Collect facts about the device; answer with `diagnosed`."""

    command_id: UUID


@dataclass(frozen=True, slots=True)
class CollectLogs:
    """Take the newest lines of the agent's own log; answer with `diagnosed`."""

    command_id: UUID


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop cleanly and start again."""


Effect = (
    Connect
    | Disconnect
    | Publish
    | SampleTelemetry
    | Persist
    | KeepEvent
    | DropEvents
    | NewLog
    | Download
    | Verify
    | Open
    | Activate
    | CancelJob
    | KeepTrust
    | FetchTrust
    | MakeKey
    | InstallCertificate
    | PromoteCertificate
    | AskRecovery
    | Diagnose
    | CollectLogs
    | Restart
)
