"""Coming back after the certificate's end: over HTTPS, by proof of the old key."""

from uuid import UUID

from agent.core.backoff import RECOVERY
from agent.core.certificates import Certificates
from agent.core.effects import AskRecovery, InstallCertificate
from agent.core.renewal import CertificateRenewal
from agent.core.turn import Turn

# A clock that is known to be wrong cannot tell that the certificate has ended: refusals can.
_REFUSED_OFTEN = 3
_ANSWER_WITHIN_S = 120.0
_AFTER_REFUSAL_S = 6 * 3600.0


class CertificateRecovery:
    """Asks with the open renewal's csr while no certificate is good, ever more slowly."""

    __slots__ = ("_ask_s", "_attempt", "_certificates", "_renewal", "due_s")

    def __init__(self, certificates: Certificates, renewal: CertificateRenewal) -> None:
        self._certificates = certificates
        self._renewal = renewal
        self._ask_s = 0.0
        self._attempt = 0
        self.due_s: float | None = None

    def tick(self, turn: Turn, *, refusals: int) -> None:
        """Ask if it is time; `refusals`: how often the broker could not be reached in a row."""
        if not self._is_lost(turn, refusals) or turn.mono_s < self._ask_s:
            return
        renewal = turn.state.renewal
        if renewal is None or renewal.csr is None:
            self._ask_s = turn.mono_s + RECOVERY.first_s
            self._renewal.make_key(turn)
            return
        self._ask_s = turn.mono_s + _ANSWER_WITHIN_S
        turn.do(AskRecovery(renewal.request_id, renewal.csr))

    def key_made(self, turn: Turn) -> None:
        """There is something to ask with: soon, if it is needed."""
        self._ask_s = turn.mono_s + RECOVERY.least_s * turn.uniform()

    def plan(self, turn: Turn, *, refusals: int) -> None:
        """Set when `tick` has something to do."""
        self.due_s = self._ask_s if self._is_lost(turn, refusals) else None

    def connected(self) -> None:
        """There is nothing to recover."""
        self._attempt = 0
        self._ask_s = 0.0

    def answered(
        self, turn: Turn, request_id: UUID, certificate: str | None, *, refused: bool
    ) -> None:
        """Have a certificate installed, or wait: longest after a refusal."""
        renewal = turn.state.renewal
        if renewal is None or renewal.request_id != request_id:
            return
        if certificate is not None:
            identity = self._certificates.current.identity
            turn.do(InstallCertificate(request_id, certificate, identity))
            return
        wait_s = RECOVERY.delay_s(self._attempt, turn.uniform)
        if refused:
            wait_s = _AFTER_REFUSAL_S * (0.5 + turn.uniform())
        self._attempt += 1
        self._ask_s = turn.mono_s + wait_s

    def _is_lost(self, turn: Turn, refusals: int) -> bool:
        if turn.online:
            return False
        unsure = turn.moment.system < turn.state.time_floor
        return self._certificates.have_ended(turn.now) or (unsure and refusals >= _REFUSED_OFTEN)
