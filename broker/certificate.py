"""The front's certificate, asked for from whoever holds the CA's key: no such key is here."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import CertificateRefused, FrontError
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import ServiceIdentity, authority_key_id, verify_peer
from tensorguard.services.certificates.certificates import PresentedCertificate
from tensorguard.services.certificates.service_certificates import ANSWERED, OPEN_FOR, REQUESTED
from tensorguard.services.keys.following import wait_for_notice
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import listening
from tensorguard.store.ids import new_id

_log = structlog.get_logger()
_SERVICE: Final = "broker"
_POLL_EVERY: Final = timedelta(milliseconds=500)
_SAY_EVERY_S: Final = 10.0
# How long a running front waits for one answer, before it asks anew a little later.
_ANSWER_WITHIN_S: Final = 30.0
_RETRY_S: Final = (1.0, 60.0)
_LONGEST_WAIT_S: Final = 3600.0  # the clock may be set while we wait

_ASK = """
    INSERT INTO service_certificates (id, service, instance, csr, hosts, requested_at)
    VALUES (%s, %s, %s, %s, %s, %s)
"""
_READ = "SELECT certificate, refusal FROM service_certificates WHERE id = %s"
Connection = psycopg.AsyncConnection[Any]


class FrontCertificate(PresentedCertificate):
    """Asks for its certificate through the database; the hub and the api answer."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        *,
        instance: str,
        hosts: Sequence[str],
        clock: Callable[[], datetime],
    ) -> None:
        super().__init__(clock)
        self._database_url = database_url
        self._keyring = keyring
        self._instance = instance
        self._hosts = list(dict.fromkeys(hosts))
        self._hasten = asyncio.Event()

    async def obtain(self, stop: asyncio.Event) -> bool:
        """Ask, and wait until somebody answers; False if `stop` came first.

        Raises: CertificateRefused, psycopg.Error.
        """
        asked_at = self._clock()
        while not stop.is_set():
            if await self._ask(stop, within_s=OPEN_FOR.total_seconds(), since=asked_at):
                return True
        return False

    def hasten(self) -> None:
        """Look soon whether another CA issues now."""
        self._hasten.set()

    async def keep_renewed(self, stop: asyncio.Event) -> None:
        """Ask anew at two thirds of each certificate's life, and when another CA issues.

        While nobody answers, the present certificate serves on.
        """
        failures = 0
        while not stop.is_set():
            await self._wait(stop, self._pause_s(failures))
            if stop.is_set():
                return
            try:
                if not self._is_due():
                    failures = 0
                    continue
                if not await self._ask(stop, within_s=_ANSWER_WITHIN_S, since=self._clock()):
                    failures += 1
                    continue
            except (psycopg.Error, OSError, TimeoutError, FrontError) as error:
                failures += 1
                _log.error("certificate_not_renewed", error=str(error) or type(error).__name__)
                continue
            failures = failures + 1 if self._is_due() else 0

    def _pause_s(self, failures: int) -> float:
        if failures:
            first, most = _RETRY_S
            return random.uniform(first / 2, min(most, first * 2.0 ** min(failures, 10)))  # noqa: S311  spreads load only
        left_s = (self.renew_at - self._clock()).total_seconds()
        return min(max(left_s, 0.0), _LONGEST_WAIT_S)

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(one.wait()) for one in (stop, self._hasten)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._hasten.clear()

    def _is_due(self) -> bool:
        """Whether two thirds of its life are over, or another CA than its own issues."""
        is_of_another = self._keyring.issuing != authority_key_id(self.certificate)
        return is_of_another or self._clock() >= self.renew_at

    async def _ask(self, stop: asyncio.Event, *, within_s: float, since: datetime) -> bool:
        """Ask with a new key, and present the answer; False if there is none in time.

        Raises: CertificateRefused, psycopg.Error.
        """
        private_key = ec.generate_private_key(ec.SECP256R1())
        request_id = new_id()
        async with listening(self._database_url, ANSWERED) as connection:
            row = (request_id, _SERVICE, self._instance, _csr(private_key), self._hosts)
            await connection.execute(_ASK, (*row, self._clock()))
            await connection.execute("SELECT pg_notify(%s, %s)", (REQUESTED, str(request_id)))
            pem = await self._read(connection, request_id, stop, within_s=within_s, since=since)
        if pem is None:
            return False
        certificate = self._checked(pem, private_key)
        self.present(private_key, certificate, self._clock())
        _log.info(
            "certificate_obtained",
            ca=authority_key_id(certificate).hex(),
            not_after=certificate.not_valid_after_utc.isoformat(),
        )
        return True

    async def _read(
        self,
        connection: Connection,
        request_id: UUID,
        stop: asyncio.Event,
        *,
        within_s: float,
        since: datetime,
    ) -> str | None:
        loop = asyncio.get_running_loop()
        give_up_at, say_at = loop.time() + within_s, loop.time() + _POLL_EVERY.total_seconds()
        while not stop.is_set() and loop.time() < give_up_at:
            found = await (await connection.execute(_READ, (request_id,))).fetchone()
            if found is not None and found[1] is not None:
                raise CertificateRefused(f"the front is not certified: {found[1]}")
            if found is not None and found[0] is not None:
                return str(found[0])
            if loop.time() >= say_at:
                say_at = loop.time() + _SAY_EVERY_S
                waited_s = round((self._clock() - since).total_seconds())
                _log.warning(
                    "certificate_awaited",
                    message="waiting for a hub or an api, which hold the CA's key, to answer",
                    waited_s=waited_s,
                )
            await wait_for_notice(connection, stop, _POLL_EVERY)
        return None

    def _checked(self, pem: str, private_key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """The certificate, if agents will believe it to be this front's."""
        trust = self._keyring.trust
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            leaf = certificate.public_bytes(Encoding.DER)
            peer = verify_peer(leaf, trust.cas, trust.trust_domain, self._clock())
        except (PkiError, ValueError) as error:
            raise CertificateRefused(f"the answer is not to be believed: {error}") from None
        if peer.identity != ServiceIdentity(trust.trust_domain, _SERVICE):
            raise CertificateRefused("the answer is a certificate of another service")
        if certificate.public_key() != private_key.public_key():
            raise CertificateRefused("the answer is a certificate for another key")
        return certificate


def _csr(private_key: ec.EllipticCurvePrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")
