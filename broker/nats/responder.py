"""The part of a front that answers a server's auth callout: who may come in, and as whom."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, cast

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.msg import Msg

from broker.denyset import DenySet
from broker.errors import ConnectRefused
from broker.nats.errors import BadCallout
from broker.nats.jwt import Request, User, admission, read_request, refusal
from broker.nats.keys import CalloutKeys, NotSealedForUs
from broker.nats.link import LOST
from broker.nats.metrics import NatsMetrics
from broker.nats.permissions import user_of
from broker.reports import Operation, Reports
from broker.rights import (
    IDENTIFIER_REJECTED,
    NOT_AUTHORIZED,
    SERVER_UNAVAILABLE,
    check_standing,
)
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import AgentIdentity, Peer, verify_peer

_log = structlog.get_logger()
SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "fronts"
_XKEY_HEADER: Final = "Nats-Server-Xkey"
# The server waits for 5 s (configuration.py): what has waited here for longer is asked again.
_PATIENCE_S: Final = 4.0
_WAITING: Final = 1000
_SAY_EVERY_S: Final = 10.0


class Responder:
    """Answers requests one after the other; those that wait too long, or too many, go unanswered.

    An answer is the work of under a millisecond, so that more than one at once would gain nothing.
    """

    def __init__(
        self,
        keys: CalloutKeys,
        trust_domain: str,
        cas: Callable[[], Sequence[x509.Certificate]],
        denied: DenySet,
        reports: Reports,
        metrics: NatsMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._keys = keys
        self._trust_domain = trust_domain
        self._cas = cas
        self._denied = denied
        self._reports = reports
        self._metrics = metrics
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[float, Msg]] = asyncio.Queue(_WAITING)
        self._said_at = float("-inf")

    async def take(self, message: Msg) -> None:
        """Queue a request as it comes from the node."""
        try:
            self._waiting.put_nowait((time.monotonic(), message))
        except asyncio.QueueFull:
            self._count_unanswered("overloaded")

    async def run(self) -> None:
        """Answer what is queued, until cancelled."""
        while True:
            came_at, message = await self._waiting.get()
            if time.monotonic() - came_at > _PATIENCE_S:
                self._count_unanswered("overdue")
                continue
            try:
                answer = self.answer(message.data, (message.headers or {}).get(_XKEY_HEADER))
                if answer is not None:
                    await message.respond(answer)
            except LOST:
                self._count_unanswered("node-lost")
            except Exception:  # one request must not end the answers to all others
                self._count_unanswered("error")
                _log.exception("callout_failed")
            self._metrics.callout_s.observe(time.monotonic() - came_at)
            await asyncio.sleep(0)

    def answer(self, sealed: bytes, server_xkey: str | None) -> bytes | None:
        """Return the sealed answer; None to what is nobody of ours, or to be tried later."""
        now = self._clock()
        try:
            token = self._keys.open(sealed, server_xkey or "")
            request = read_request(token, self._keys.issuer, now)
            if request.server_xkey != server_xkey:
                raise BadCallout("a request that another server has sealed")
        except (NotSealedForUs, BadCallout) as error:
            self._count_unanswered("unreadable", error=error.message)
            return None
        try:
            verdict = admission(self._keys, request, self._admit(request, now), now)
            result = "admitted"
        except ConnectRefused as refused:
            if refused.return_code == SERVER_UNAVAILABLE:
                # Its only refusal means "never", said at once; silence ends in the same, but late,
                # which agents take for what it is: another time.
                self._metrics.callouts.labels(refused.message).inc()
                return None
            verdict, result = refusal(self._keys, request, now), refused.message
        self._metrics.callouts.labels(result).inc()
        return self._keys.seal(verdict, request.server_xkey)

    def _admit(self, request: Request, now: datetime) -> User:
        peer: Peer | None = None
        try:
            if request.kind != "mqtt":
                # A client of NATS itself would be under none of MQTT's rules.
                raise ConnectRefused("not-mqtt", return_code=NOT_AUTHORIZED)
            peer = self._verify(request.leaf, now)
            user = user_of(peer)
            if request.client_id != _client_id_of(peer):
                raise ConnectRefused("foreign-client-id", return_code=IDENTIFIER_REJECTED)
            check_standing(peer, self._denied)
        except ConnectRefused as refused:
            operation = cast("Operation", refused.operation)
            self._reports.denied(operation, refused.message, peer.identity if peer else None)
            raise
        return user

    def _verify(self, leaf: str | None, now: datetime) -> Peer:
        if leaf is None:
            raise ConnectRefused("no-certificate", return_code=NOT_AUTHORIZED)
        try:
            der = x509.load_pem_x509_certificate(leaf.encode()).public_bytes(Encoding.DER)
            return verify_peer(der, self._cas(), self._trust_domain, now)
        except PkiError as error:
            raise ConnectRefused(error.code, return_code=NOT_AUTHORIZED) from error
        except ValueError as error:
            raise ConnectRefused("bad-certificate", return_code=NOT_AUTHORIZED) from error

    def _count_unanswered(self, result: str, **facts: str) -> None:
        self._metrics.callouts.labels(result).inc()
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            _log.warning("callout_unanswered", reason=result, **facts)


def _client_id_of(peer: Peer) -> str | None:
    identity = peer.identity
    return identity.common_name if isinstance(identity, AgentIdentity) else None
