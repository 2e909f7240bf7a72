"""Events to write, and the key that signs for them."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hub.sequencer import Sequencer
from tensorguard.ledger.checkpoint import VerifierKey
from tensorguard.services.evidence.events import Actor, AgentReported, FleetCreated

TRUST_DOMAIN = "example.org"
ORIGIN = f"{TRUST_DOMAIN}/ledger/1"
EPOCH = 1
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(ORIGIN, SIGNER.public_key())
AGENT = UUID("01900000-0000-7000-8000-00000000000a")

MakeSequencer = Callable[..., Sequencer]


def now() -> datetime:
    return datetime.now(UTC)


def fleet_created(slug: str = "hospital-a") -> FleetCreated:
    return FleetCreated(by=Actor("user", "u1"), fleet=slug)


def reported(number: int) -> AgentReported:
    return AgentReported(
        by=Actor("agent", str(AGENT)),
        fleet="hospital-a",
        agent_id=AGENT,
        reported="model.activated",
        log_id=AGENT,
        number=number,
        at=datetime(2026, 3, 4, tzinfo=UTC),
        data={"digest": "ab" * 32},
    )
