"""What the agent believes: the trust bundle, and signed messages that its keys verify."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.core.effects import FetchTrust, KeepTrust
from agent.core.turn import Turn
from tensorguard.ledger.checkpoint import Checkpoint, VerifierKey, epoch_of, parse_checkpoint
from tensorguard.ledger.checkpoint import verify_checkpoint as verify_note
from tensorguard.ledger.errors import LedgerError
from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.pki.errors import BundleExpired, BundleRefused
from tensorguard.protocol import codec
from tensorguard.protocol.envelope import SIGNED_KINDS, open_signed
from tensorguard.protocol.errors import EnvelopeRefused, ProtocolError, UnknownSigner
from tensorguard.protocol.messages import Signed, TrustVersion

ASK_EVERY_S = 3600.0
HURRY_S = 5.0
ASK_AGAIN_S = 60.0  # at the earliest, however many unknown signers there are
RECORD_EVERY_S = 3600.0
_MAX_RECORDED = 64

T = TypeVar("T", bound=Signed)
Accept = Callable[[TrustStore, bytes, datetime], TrustStore]


class Belief:
    """The trust bundle, when to look for the next one, and what was refused."""

    __slots__ = ("_accept", "_caught_up", "_recorded", "_written", "asked_s", "due_s", "store")

    def __init__(self, store: TrustStore, accept: Accept = accept_next) -> None:
        self.store = store
        self.due_s = 0.0
        self.asked_s = 0.0
        self._accept = accept
        self._written: TrustStore | None = None
        self._caught_up = False
        self._recorded: dict[tuple[str, str], float] | None = None

    def start(self, turn: Turn) -> None:
        """Spread the hourly question over the hour."""
        self.asked_s = turn.mono_s - ASK_AGAIN_S
        self.due_s = turn.mono_s + ASK_EVERY_S * turn.uniform()

    def tick(self, turn: Turn) -> None:
        """Ask for the next bundle when it is time."""
        if turn.mono_s >= self.due_s:
            self._ask(turn)

    def hurry(self, turn: Turn) -> None:
        """Ask now, because something newer than the bundle may have to be believed."""
        if turn.mono_s >= self.asked_s + HURRY_S:
            self._ask(turn)

    def open(self, turn: Turn, type_: type[T], raw: bytes) -> T | None:
        """Return what a signed message says, or None; a refusal becomes an event.

        What is believed raises the time floor to its issued_at.
        """
        kind = SIGNED_KINDS[type_]
        try:
            message = open_signed(
                raw,
                type_,
                keys=self.store.keys_for(kind, turn.now),
                trust_domain=turn.identity.trust_domain,
                now=turn.now,
                agent_id=turn.identity.agent_id,
                fleet=turn.identity.fleet,
            )
        except (UnknownSigner, BundleExpired) as error:
            self.due_s = min(self.due_s, max(turn.mono_s, self.asked_s + ASK_AGAIN_S))
            self._record(turn, kind, error.code)
            return None
        except ProtocolError as error:
            self._record(turn, kind, error.code)
            return None
        if message.issued_at > turn.state.time_floor:
            turn.state.time_floor = message.issued_at
            turn.persist()
        return message

    def fetched(self, turn: Turn, raw: bytes | None) -> bool:
        """Have the next bundle written down (None: there is none, or nobody answered).

        Tell whether this was the end of a way on which there was something new to believe.
        """
        self.due_s = turn.mono_s + ASK_EVERY_S * (0.5 + turn.uniform())
        self._written = None
        if raw is not None:
            try:
                self._written = self._accept(self.store, raw, turn.now)
            except (BundleRefused, EnvelopeRefused, ProtocolError) as error:
                self._record(turn, "trust", error.code)
            else:
                turn.do(KeepTrust(raw))
                return False
        caught_up, self._caught_up = self._caught_up, False
        return caught_up

    def kept(self, turn: Turn) -> bool:
        """Believe what is on the disk now, and ask at once for the bundle after it."""
        if self._written is None:
            return False
        self.store, self._written = self._written, None
        self._caught_up = True
        turn.state.time_floor = max(turn.state.time_floor, self.store.bundle.issued_at)
        turn.persist()
        self._ask(turn)
        return True

    def told(self, turn: Turn, payload: bytes) -> None:
        """Look for what `trust-version` says there is; to be lied to costs one request."""
        try:
            hint = codec.decode(TrustVersion, payload)
        except ProtocolError:
            return
        if hint.version > self.store.version:
            self.hurry(turn)

    def verify_checkpoint(self, turn: Turn, note: str) -> Checkpoint | None:
        """Return a checkpoint that a ledger key of our platform has signed, or None."""
        try:
            origin = parse_checkpoint(note).origin
            if not origin.startswith(f"{turn.identity.trust_domain}/ledger/"):
                return None
            epoch_of(origin)
            publics = [
                key.public for key in self.store.bundle.keys.ledger if turn.now < key.not_after
            ]
            keys = [VerifierKey(origin, Ed25519PublicKey.from_public_bytes(p)) for p in publics]
            return verify_note(note, keys)
        except LedgerError as error:
            self._record(turn, "checkpoint", error.code)
            return None

    def _ask(self, turn: Turn) -> None:
        self.asked_s = turn.mono_s
        self.due_s = turn.mono_s + ASK_EVERY_S
        turn.do(FetchTrust(self.store.version + 1))

    def _record(self, turn: Turn, kind: str, code: str) -> None:
        # One an hour for each kind and reason: whoever can send rubbish must not fill the outbox.
        if self._recorded is None:
            self._recorded = {}
        last = self._recorded.get((kind, code))
        if last is not None and turn.mono_s - last < RECORD_EVERY_S:
            return
        if len(self._recorded) >= _MAX_RECORDED:
            return
        self._recorded[(kind, code)] = turn.mono_s
        turn.record("signature.refused", {"what": kind, "code": code})
