"""Answers services that ask for a certificate, in every process that holds the CA's key."""

import asyncio
import random
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Final

import structlog

from tensorguard.services.certificates.service_certificates import (
    REQUESTED,
    answer_requests,
    forget_requests,
)
from tensorguard.services.keys.following import wait_for_notice
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, listening

log = structlog.get_logger()
POLL_EVERY: Final = timedelta(seconds=1)
_RETRY_S: Final = 2.0


class Certifier:
    """Certifies for the platform's `hosts` and nobody else's; of several, each request gets one."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        database_url: str,
        hosts: Collection[str],
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._keyring = keyring
        self._database_url = database_url
        self._hosts = hosts
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`; a database that is away is waited for."""
        while not stop.is_set():
            try:
                async with listening(self._database_url, REQUESTED) as connection:
                    while not stop.is_set():
                        await self.step()
                        await wait_for_notice(connection, stop, POLL_EVERY)
            except Exception as error:  # what cannot be answered now is asked again
                reason = f"{type(error).__name__}: {error}"[:300]
                log.warning("service_certificates_not_answered", reason=reason)
                await asyncio.sleep(random.uniform(0.1, _RETRY_S))  # noqa: S311  spreads load only

    async def step(self) -> int:
        """Answer what is open; return how many."""
        now = self._clock()
        async with self._sessions.begin() as session:
            answered = await answer_requests(session, self._keyring, hosts=self._hosts, now=now)
            if answered:
                await forget_requests(session, now=now)
        if answered:
            log.info("service_certificates_answered", count=answered)
        return answered
