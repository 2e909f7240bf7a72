"""A new certificate with a new key: at two thirds of the old one's life, or when the CA changes."""

from datetime import datetime, timedelta
from uuid import UUID

from agent.core.backoff import REQUEST
from agent.core.effects import Disconnect, InstallCertificate, MakeKey
from agent.core.settings import Certified
from agent.core.state import Renewal
from agent.core.turn import Turn
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.identity import AgentIdentity, subject_key_id
from tensorguard.protocol.messages import CertificateIssued, CsrRequest
from tensorguard.protocol.topics import UpKind

_JITTER = 0.05  # of the lifetime, before or after two thirds
_RECONNECT_WITHIN_S = 60.0
_AFTER_DENIAL_S = 3600.0
_RETRY_NEXT_S = 3600.0
# Not before a quarter of the time: the new CA issues once all who are online know it.
_LEAVE_FROM = 0.25
_LEAVES_DOUBLED = 6


class CertificateRenewal:
    """Asks for a certificate in time, repeats the request, and has the answer installed."""

    __slots__ = (
        "_attempt",
        "_installing",
        "_issuer",
        "_leave_s",
        "_leaves",
        "_reconnect_s",
        "_reconnect_within_s",
        "_renew_at",
        "_send_s",
        "_wait_until_s",
    )

    def __init__(self, newest: Certified, uniform: float) -> None:
        self._issuer = newest.issuer
        self._leave_s: float | None = None
        self._leaves = 0
        self._reconnect_within_s = _RECONNECT_WITHIN_S
        self._attempt = 0
        self._installing = False
        self._send_s: float | None = None
        self._reconnect_s: float | None = None
        self._wait_until_s = 0.0
        self._renew_at = self._due(newest, uniform)

    def due_s(self, now: datetime, mono_s: float) -> float:
        """When `tick` has something to do, in monotonic seconds; `now` is agent time."""
        if self._reconnect_s is not None:
            return self._reconnect_s
        if self._send_s is not None:
            return self._send_s
        if self._installing:
            return mono_s + 3600.0
        due_s = mono_s + (self._renew_at - now).total_seconds()
        if self._leave_s is not None:
            due_s = min(due_s, self._leave_s)
        return max(due_s, self._wait_until_s)

    def believes(self, turn: Turn, trust: TrustStore) -> None:
        """Leave the certificate's CA in a while where the trust bundle names a newer one.

        It may not issue yet: each certificate of the older one that comes doubles the wait.
        """
        if self._issuer is None or self._issuer == subject_key_id(trust.newest_ca):
            self._leave_s, self._leaves = None, 0
            self._reconnect_within_s = _RECONNECT_WITHIN_S
            return
        if self._leave_s is not None:
            return
        within_s = trust.renew_within_s * 2.0 ** min(self._leaves, _LEAVES_DOUBLED)
        self._leave_s = turn.mono_s + within_s * (_LEAVE_FROM + (1 - _LEAVE_FROM) * turn.uniform())
        self._leaves += 1
        self._reconnect_within_s = min(_RECONNECT_WITHIN_S, trust.renew_within_s)

    def connected(self, turn: Turn, *, retry_next: bool) -> None:
        """Repeat an open request; a newer certificate that did not connect is tried again later."""
        self._reconnect_s = None
        if retry_next:
            self._reconnect_s = turn.mono_s + _RETRY_NEXT_S * (0.5 + turn.uniform())
        if turn.state.renewal is not None and turn.state.renewal.csr is not None:
            self._attempt = 0
            self._send(turn)

    def tick(self, turn: Turn) -> None:
        """Do what is due: begin, repeat, or reconnect with the new certificate."""
        if self._reconnect_s is not None:
            if turn.mono_s >= self._reconnect_s:
                self._reconnect_s = None
                if turn.online:
                    turn.do(Disconnect("renewed"))
        elif self._send_s is not None:
            if turn.mono_s >= self._send_s:
                self._send(turn)
        elif not self._installing and self.due_s(turn.now, turn.mono_s) <= turn.mono_s:
            self._begin(turn)

    def csr_made(self, turn: Turn, request_id: UUID, csr: str) -> None:
        """The new key is on disk, and this is its signing request."""
        renewal = turn.state.renewal
        if renewal is None or renewal.request_id != request_id:
            return
        turn.state.renewal = Renewal(request_id=request_id, csr=csr, fleet=renewal.fleet)
        turn.persist()
        self._attempt = 0
        self._send(turn)

    def answered(self, turn: Turn, answer: CertificateIssued) -> None:
        """Take a verified answer if it is to our open request."""
        renewal = turn.state.renewal
        if renewal is None or renewal.request_id != answer.request_id or self._installing:
            return
        self._send_s = None
        if answer.certificate is None:
            self._give_up(turn)
            return
        self._installing = True
        own = turn.identity
        named = AgentIdentity(own.trust_domain, renewal.fleet or own.fleet, own.agent_id)
        turn.do(InstallCertificate(answer.request_id, answer.certificate, named))

    def move(self, turn: Turn, fleet: str) -> None:
        """Ask for a certificate of another fleet, in place of whatever is being asked for."""
        renewal = turn.state.renewal
        if self._installing or (renewal is not None and renewal.fleet == fleet):
            return
        self._send_s = None
        self._begin(turn, fleet)

    def make_key(self, turn: Turn) -> None:
        """Begin, whatever the time is, unless a request is open."""
        if turn.state.renewal is None or turn.state.renewal.csr is None:
            self._begin(turn)

    def installed(self, turn: Turn, certified: Certified) -> None:
        """The new certificate is on disk: connect with it soon."""
        self._installing = False
        self._send_s = None
        self._issuer, self._leave_s = certified.issuer, None
        self._renew_at = self._due(certified, turn.uniform())
        self._wait_until_s = 0.0
        turn.state.renewal = None
        turn.state.time_floor = max(turn.state.time_floor, certified.not_before)
        turn.persist()
        self._reconnect_s = turn.mono_s + self._reconnect_within_s * turn.uniform()

    def refused(self, turn: Turn) -> None:
        """The runtime could not use the certificate: ask again later, with another key."""
        self._installing = False
        self._give_up(turn)

    def _begin(self, turn: Turn, fleet: str | None = None) -> None:
        known = turn.state.renewal
        if fleet is None and known is not None:
            if known.csr is not None:
                self._send(turn)
                return
            fleet = known.fleet  # its key was never made
        request_id = turn.new_id()
        turn.state.renewal = Renewal(request_id=request_id, fleet=fleet)
        turn.persist()
        # Until csr_made comes: should the runtime fail to make a key, this asks again.
        self._wait_until_s = turn.mono_s + 60.0
        turn.do(MakeKey(request_id))

    def _send(self, turn: Turn) -> None:
        renewal = turn.state.renewal
        if renewal is None or renewal.csr is None:
            self._send_s = None
            return
        if turn.online:
            request = CsrRequest(
                request_id=renewal.request_id,
                csr=renewal.csr,
                reason="renewal" if renewal.fleet is None else "move",
            )
            turn.publish(UpKind.CSR, request)
            self._attempt += 1
        self._send_s = turn.mono_s + REQUEST.delay_s(self._attempt, turn.uniform)

    def _give_up(self, turn: Turn) -> None:
        turn.state.renewal = None
        turn.persist()
        self._wait_until_s = turn.mono_s + _AFTER_DENIAL_S * (0.5 + turn.uniform())

    @staticmethod
    def _due(certified: Certified, uniform: float) -> datetime:
        life: timedelta = certified.not_after - certified.not_before
        return certified.not_before + life * (2 / 3 + _JITTER * (2 * uniform - 1))
