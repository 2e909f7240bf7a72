"""The loop that moves committed events into the ledger's tree and signs checkpoints."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random

import structlog

from tensorguard.ledger.checkpoint import Signer
from tensorguard.services.evidence.sequencing import (
    BATCH_EVENTS,
    CHECKPOINT_EVERY,
    sequence,
    sign_latest,
)
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger(__name__)

INTERVAL = timedelta(milliseconds=150)
LONGEST_PAUSE = timedelta(seconds=30)


class Sequencer:
    """One of any number of sequencers: whoever holds the lock for a transaction does its work."""

    def __init__(
        self,
        sessions: SessionMaker,
        *,
        trust_domain: str,
        signers: Callable[[], Sequence[Signer]],
        clock: Callable[[], datetime],
        random: Random,
        interval: timedelta = INTERVAL,
        checkpoint_every: timedelta = CHECKPOINT_EVERY,
        batch_events: int = BATCH_EVENTS,
    ) -> None:
        """`signers` are asked for at each checkpoint: all of them sign it."""
        self._sessions = sessions
        self._trust_domain = trust_domain
        self._signers = signers
        self._clock = clock
        self._random = random
        self._interval = interval
        self._checkpoint_every = checkpoint_every
        self._batch_events = batch_events
        self._unsigned = True
        self._look_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Sequence and sign until `stop`; no error ends it, each makes it wait longer."""
        failures = 0
        while not stop.is_set():
            try:
                busy = await self.step()
                pause = timedelta(0) if busy else self._interval
                failures = 0
            except Exception as error:  # whatever is wrong, the ledger must go on once it is over
                failures += 1
                pause = self._back_off(failures)
                log.error(
                    "sequencing_failed",
                    error=getattr(error, "code", type(error).__name__),
                    reason=str(getattr(error, "orig", error)),  # without the statement's parameters
                    failures=failures,
                    retry_s=pause.total_seconds(),
                )
            await _wait(stop, pause)

    async def step(self) -> bool:
        """Sequence one batch and sign if it is time; tell whether more events may be waiting."""
        started = time.monotonic()
        async with self._sessions() as session, session.begin():
            events = await sequence(session, limit=self._batch_events)
        if events:
            took_ms = round((time.monotonic() - started) * 1000, 1)
            log.debug("entries_sequenced", events=events, took_ms=took_ms)
            self._unsigned = True
        if self._unsigned or started >= self._look_at:
            await self._sign()
        return events == self._batch_events

    async def _sign(self) -> None:
        """Sign what is committed; now and then also what another sequencer left unsigned."""
        self._look_at = time.monotonic() + self._checkpoint_every.total_seconds()
        async with self._sessions() as session, session.begin():
            checkpoint = await sign_latest(
                session,
                trust_domain=self._trust_domain,
                signers=self._signers(),
                now=self._clock(),
                every=self._checkpoint_every,
            )
        if checkpoint is not None:
            self._unsigned = False
            log.debug("checkpoint_signed", size=checkpoint.size, root=checkpoint.root.hex())

    def _back_off(self, failures: int) -> timedelta:
        """Full jitter, from the interval up to half a minute."""
        doublings: int = 2 ** min(failures, 16)
        ceiling = min(LONGEST_PAUSE, self._interval * doublings)
        return self._interval + ceiling * self._random.random()


async def _wait(stop: asyncio.Event, pause: timedelta) -> None:
    try:
        async with asyncio.timeout(pause.total_seconds()):
            await stop.wait()
    except TimeoutError:
        return
