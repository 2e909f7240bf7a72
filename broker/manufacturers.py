"""The manufacturer CAs that are active now, as the database says.

NOTIFY wakes, polling is the floor. While they cannot be read for five seconds, nobody is let in.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
import structlog
from cryptography import x509

from broker.denyset import DenySet
from tensorguard.services.certificates.certificates import PresentedCertificate
from tensorguard.services.enrollment.manufacturers import CHANNEL
from tensorguard.store.engine import listening

_log = structlog.get_logger()
POLL_EVERY: Final = timedelta(seconds=1)
_ANSWER_WITHIN_S: Final = 3.0
_RETRY_S: Final = 1.0
# More than a platform registers; a context with as many takes a few milliseconds to make.
_MOST: Final = 1000

_ACTIVE = """
    SELECT certificate FROM manufacturer_cas WHERE state = 'active' AND not_after > %s
    ORDER BY id LIMIT %s
"""


class Manufacturers:
    """Whom the enrollment listener believes, and the TLS context that asks for them.

    With no active CA the context lets nobody in.
    """

    def __init__(
        self,
        database_url: str,
        certificate: PresentedCertificate,
        platform_cas: Callable[[], Sequence[x509.Certificate]],
        clock: Callable[[], datetime],
    ) -> None:
        self._database_url = database_url
        self._certificate = certificate
        self._platform_cas = platform_cas
        self._clock = clock
        # Nobody is revoked here; it only knows when it was last confirmed.
        self.denied = DenySet()
        self._chain = list(platform_cas())
        self._pems: list[str] = []
        self.cas: list[x509.Certificate] = []
        self.context = self._make_context()

    async def load(self) -> None:
        """Read them for the first time. Raises: psycopg.Error, TimeoutError."""
        async with listening(self._database_url) as connection:
            await self._read(connection)

    async def run(self, stop: asyncio.Event, changed: Callable[[], None]) -> None:
        """Follow changes until `stop` and call `changed` after each; survives a lost database."""
        while not stop.is_set():
            try:
                async with listening(self._database_url, CHANNEL) as connection:
                    await self._follow(connection, stop, changed)
            except (psycopg.Error, OSError, TimeoutError, ValueError) as error:
                _log.warning("manufacturers_not_followed", error=type(error).__name__)
                await asyncio.sleep(random.uniform(0.1, _RETRY_S))  # noqa: S311  spreads load only

    async def _follow(
        self,
        connection: psycopg.AsyncConnection[Any],
        stop: asyncio.Event,
        changed: Callable[[], None],
    ) -> None:
        while not stop.is_set():
            if await self._read(connection):
                changed()
            async for _ in connection.notifies(timeout=POLL_EVERY.total_seconds(), stop_after=1):
                break

    async def _read(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            query = await connection.execute(_ACTIVE, (self._clock(), _MOST))
            rows = await query.fetchall()
        pems, chain = [pem for (pem,) in rows], list(self._platform_cas())
        is_new = pems != self._pems or chain != self._chain
        if is_new:
            self.cas = [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]
            self._pems, self._chain = pems, chain
            self.context = self._make_context()
            _log.info("manufacturer_cas_changed", count=len(pems))
        self.denied.confirm()
        return is_new

    def _make_context(self) -> ssl.SSLContext:
        # The platform's CA is sent along: a device may know it by its pin alone.
        return self._certificate.server_context(self.cas, ours=False, chain=self._chain)
