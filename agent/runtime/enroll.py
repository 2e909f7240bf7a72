"""Joining a platform by its join string (docs/protocol.md, Joining)."""

import hmac
import os
import platform
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core.backoff import REQUEST, Uniform
from agent.core.state import AgentState
from agent.errors import (
    AgentError,
    AlreadyEnrolled,
    BadAnswer,
    EnrollmentNotApproved,
    EnrollmentRefused,
    PinMismatch,
    PlatformBusy,
    Unreachable,
)
from agent.runtime import keys
from agent.runtime.https import Answer, request, unverified_context, verified_context
from agent.runtime.outbox_file import OutboxFile
from agent.runtime.statedir import AGENT_PEM, IDENTITY, OUTBOX, PENDING_KEY, TRUST, Home, StateDir
from agent.version import AGENT_VERSION, BUILD_TIME
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import AgentIdentity, spki_sha256, verify_peer
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import codec
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.join import Join
from tensorguard.protocol.messages import (
    DeviceEnrollRequest,
    Enrolled,
    EnrollmentPending,
    EnrollRequest,
    FleetConfig,
    Position,
)

MAX_CA_ANSWER_CERTIFICATES = 8
_LONGEST_WAIT_S = 300.0
_MAY_STOP = "You may stop this command: the same one continues, and nothing is used up."
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_HINTS = {
    "token-expired": "Mint a new enrollment token: this one has expired.",
    "token-exhausted": "Mint a new enrollment token: this one was used as often as it allows.",
    "token-revoked": "Mint a new enrollment token: this one was revoked.",
    "key-already-enrolled": "Remove the state directory, so that new keys are made.",
}


def refused(kind: str, detail: str, hint: str) -> EnrollmentRefused:
    """Return the refusal of a problem or an answer, with the hint that fits this command."""
    known = next((text for end, text in _HINTS.items() if kind.endswith(end)), None)
    return EnrollmentRefused(f"{kind}: {detail}", hint=known or hint or None)


@dataclass(frozen=True, slots=True)
class Joined:
    """What an enrollment gave, verified; `key_pem` and certificate belong together."""

    identity: AgentIdentity
    certificate: x509.Certificate
    trust: TrustStore
    config: FleetConfig
    mqtt_host: str
    mqtt_port: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long to wait for an operator's approval, by which clock, and whom to tell meanwhile."""

    most_s: float = 3600.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    uniform: Uniform = random.random
    say: Callable[[str], None] = lambda text: None


class Door(Protocol):
    """A way into a platform: whom it believes, and how it asks."""

    def fetch_anchor(self) -> x509.Certificate:
        """Return the platform CA that this device was told of. Raises: AgentError."""

    def ask(
        self, anchor: x509.Certificate, request: DeviceEnrollRequest, system: datetime
    ) -> Enrolled | EnrollmentPending:
        """Ask whoever proves to be under the anchor. Raises: AgentError, ProtocolError."""

    def device_url(self, answer: Enrolled) -> str:
        """Return the URL that packages come from. Raises: BadAnswer."""


def enroll(join: Join, directory: StateDir, name: str, waiting: Waiting | None = None) -> Joined:
    """Enrol this device with a join string. Raises: AgentError."""
    return enter(_TokenDoor(join), directory, name, waiting)


def enter(door: Door, directory: StateDir, name: str, waiting: Waiting | None = None) -> Joined:
    """Enrol this device and store everything it needs to run.

    Keys are on disk before anything is sent, so that the same command after a lost answer gets the
    same agent. Raises: AgentError.
    """
    waiting = waiting or Waiting()
    directory.prepare()
    with directory.locked():
        if directory.is_enrolled:
            raise AlreadyEnrolled(f"{directory.path} belongs to an enrolled agent")
        encryption_key = keys.get_or_make_encryption_key(directory)
        tls_key = keys.find_pending_key(directory) or keys.make_pending_key(directory)
        anchor = door.fetch_anchor()
        request = DeviceEnrollRequest(
            csr=keys.make_csr(tls_key),
            encryption_key=encryption_key.public_key().public_bytes_raw(),
            name=name,
            facts=collect_facts(),
        )
        answer = _ask(lambda: door.ask(anchor, request, waiting.now()), waiting)
        certified = check_answer(answer, anchor, waiting.now())
        if certified.certificate.public_key() != tls_key.public_key():
            raise BadAnswer("the certificate in the answer is not for this device's key")
        url = door.device_url(answer)
        _store(directory, url, name, certified, keys.private_pem(tls_key))
        return certified


@dataclass(frozen=True, slots=True)
class _TokenDoor:
    """HTTPS with an enrollment token."""

    join: Join

    def fetch_anchor(self) -> x509.Certificate:
        return fetch_anchor(self.join)

    def ask(
        self, anchor: x509.Certificate, request: DeviceEnrollRequest, system: datetime
    ) -> Enrolled | EnrollmentPending:
        body = EnrollRequest(token=self.join.token, **msgspec.structs.asdict(request))
        return read_answer(send(self.join, anchor, body, system))

    def device_url(self, answer: Enrolled) -> str:
        return self.join.url.rstrip("/")


def fetch_anchor(join: Join) -> x509.Certificate:
    """Fetch the CA that the join string pins, over a connection that carries nothing else.

    Raises: Unreachable, PinMismatch.
    """
    answer = request(unverified_context(), join.url, "/device/v1/ca")
    for pem in _PEM.findall(answer.body)[:MAX_CA_ANSWER_CERTIFICATES]:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError:
            continue
        if hmac.compare_digest(spki_sha256(certificate), join.ca):
            return certificate
    raise PinMismatch("the CA at the device URL is not the one that the join string names")


def collect_facts() -> dict[str, Any]:
    """What the device says of itself at enrollment."""
    return {
        "os": platform.system().lower(),
        "os_release": platform.release()[:64],
        "arch": platform.machine(),
        "hostname": platform.node()[:200],
        "timezone": _timezone(),
        "cpus": os.cpu_count() or 1,
        "agent_version": AGENT_VERSION,
        "python": platform.python_version(),
        "accelerators": [],
    }


def send(join: Join, anchor: x509.Certificate, body: EnrollRequest, system: datetime) -> Answer:
    """Send the enrollment, with the token, to whoever proves to be under the pinned CA.

    Raises: Unreachable, NotTheServer.
    """
    behind = system < BUILD_TIME
    return request(
        verified_context([certificate_pem(anchor)], clock_is_behind=behind),
        join.url,
        "/device/v1/enroll",
        method="POST",
        body=codec.encode(body),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
        agent_time=BUILD_TIME if behind else None,
    )


def check_answer(answer: Enrolled, anchor: x509.Certificate, system: datetime) -> Joined:
    """Verify everything in an answer against the pinned CA. Raises: BadAnswer."""
    try:
        trust = TrustStore.open_first(msgspec.json.encode(answer.trust))
        if spki_sha256(anchor) not in {spki_sha256(ca) for ca in trust.cas}:
            raise BadAnswer("the trust bundle has not the CA that the join string names")
        leaf = x509.load_pem_x509_certificate(answer.certificate.encode())
        identity = AgentIdentity(trust.trust_domain, answer.fleet, answer.agent_id)
        now = max(system, BUILD_TIME, leaf.not_valid_before_utc, trust.bundle.issued_at)
        peer = verify_peer(leaf.public_bytes(Encoding.DER), trust.cas, trust.trust_domain, now)
        if peer.identity != identity:
            raise BadAnswer("the certificate names another agent than the answer")
        config = open_signed(
            msgspec.json.encode(answer.config),
            FleetConfig,
            keys=trust.keys_for("config", now),
            trust_domain=trust.trust_domain,
            now=now,
            fleet=answer.fleet,
        )
    except (PkiError, ProtocolError) as error:
        raise BadAnswer(f"{error.code}: {error.message}") from error
    except ValueError:
        raise BadAnswer("the certificate in the answer cannot be read") from None
    return Joined(identity, leaf, trust, config, answer.mqtt.host, answer.mqtt.port)


def read_answer(answer: Answer) -> Enrolled | EnrollmentPending:
    """Tell what an answer means. Raises: EnrollmentRefused, BadAnswer."""
    if answer.status == 201:
        return codec.decode(Enrolled, answer.body)
    if answer.status == 202:
        return codec.decode(EnrollmentPending, answer.body)
    problem = answer.problem()
    if answer.status in (429, 503):
        raise PlatformBusy(
            f"the platform asks to come back later: {problem.detail}",
            retry_after_s=min(answer.retry_after_s or 1.0, _LONGEST_WAIT_S),
        )
    if answer.status >= 500:
        raise BadAnswer(
            f"the platform failed: {problem.detail}",
            hint="Run the same command again: nothing is lost.",
        )
    raise refused(problem.kind or str(answer.status), problem.detail, problem.hint)


def first_state(joined: Joined) -> AgentState:
    """The state of an agent that has just joined."""
    return AgentState(
        time_floor=max(
            BUILD_TIME,
            joined.certificate.not_valid_before_utc,
            joined.trust.bundle.issued_at,
            joined.config.issued_at,
        ),
        config=Position(epoch=joined.config.epoch, revision=joined.config.revision),
        heartbeat_interval_s=joined.config.heartbeat_interval_s,
    )


def _ask(ask: Callable[[], Enrolled | EnrollmentPending], waiting: Waiting) -> Enrolled:
    """Send the enrollment until it is decided, with the same keys each time.

    A platform that cannot be reached ends it only as long as it has not answered once.
    """
    began = waiting.clock()
    asked: EnrollmentPending | None = None
    failures = 0
    while True:
        try:
            answer = ask()
        except ProtocolError as error:
            raise BadAnswer(error.message) from error
        except (Unreachable, PlatformBusy) as error:
            if asked is None and isinstance(error, Unreachable):
                raise
            least_s = getattr(error, "retry_after_s", 0.0)
            wait_s = least_s + REQUEST.delay_s(failures, waiting.uniform)
            failures += 1
            problem: AgentError = error
        else:
            if isinstance(answer, Enrolled):
                return answer
            if asked is None:
                waiting.say(
                    f"Agent {answer.agent_id} waits for an operator's approval. {_MAY_STOP}"
                )
            asked, failures = answer, 0
            # Those who began to wait together do not come back together.
            wait_s = max(1.0, float(answer.poll_after_s)) * (1 + waiting.uniform() / 10)
            problem = EnrollmentNotApproved(
                f"agent {answer.agent_id} waits for an operator's approval"
            )
        wait_s = min(wait_s, _LONGEST_WAIT_S)
        waited_s = waiting.clock() - began
        if waited_s + wait_s > waiting.most_s:
            raise problem
        still = "" if waited_s < 1 else f" after {waited_s:.0f} s"
        waiting.say(f"{problem.message}{still}; asking again in {wait_s:.0f} s")
        waiting.sleep(wait_s)


def _store(directory: StateDir, url: str, name: str, joined: Joined, key_pem: bytes) -> None:
    home = Home(
        device_url=url,
        mqtt_host=joined.mqtt_host,
        mqtt_port=joined.mqtt_port,
        name=name,
    )
    directory.write(TRUST, joined.trust.envelope)
    directory.write(IDENTITY, msgspec.json.encode(home))
    directory.write_state(first_state(joined))
    OutboxFile(directory.path / OUTBOX).close()
    directory.write(AGENT_PEM, key_pem + certificate_pem(joined.certificate).encode())
    directory.remove(PENDING_KEY)


def _timezone() -> str:
    named = os.environ.get("TZ", "").lstrip(":")
    if named:
        return named[:64]
    try:
        target = Path("/etc/localtime").resolve()
        return str(target).split("zoneinfo/", 1)[1][:64]
    except (OSError, IndexError):
        return "UTC"
