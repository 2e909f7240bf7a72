"""Checkpoints that leave the building, and those that come back: files, a bucket, devices.

Before anything is sequenced the ledger is held against what is remembered outside; a ledger that is
older than that has been restored from too old a backup, and goes on only in a new epoch.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.echoes import Echoes
from hub.presence import pause
from tensorguard.ledger.checkpoint import Checkpoint, parse_checkpoint
from tensorguard.ledger.errors import BadCheckpoint, LedgerError
from tensorguard.services.evidence.bucket import CheckpointBucket
from tensorguard.services.evidence.checkpoint_file import read_note, write_note
from tensorguard.services.evidence.tree_queries import find_latest_checkpoint, get_epoch
from tensorguard.services.evidence.witnesses import (
    LedgerRestored,
    Seen,
    check_extends,
    find_fork,
    report_fork,
)
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()
EVERY: Final = timedelta(seconds=2)
BUCKET_EVERY: Final = timedelta(minutes=10)


class Witness:
    """Keeps what this host and the bucket remember, and holds echoes of devices against it."""

    def __init__(
        self,
        sessions: SessionMaker,
        echoes: Echoes,
        *,
        file: Path,
        bucket: CheckpointBucket | None,
        clock: Callable[[], datetime],
        bucket_every: timedelta = BUCKET_EVERY,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """Of several hubs the one that `leads` fills the bucket; each has its own file."""
        self._sessions = sessions
        self._echoes = echoes
        self._file = file
        self._bucket = bucket
        self._clock = clock
        self._bucket_every = bucket_every
        self._leads = leads
        self._written: str | None = None
        self._stored: str | None = None
        self._bucket_due: datetime | None = None
        self._epoch = 0

    async def check(self) -> None:
        """Compare the ledger with what is remembered outside, before anything is sequenced.

        Raises: LedgerRestored; LedgerError; BucketFailed, since what cannot be asked cannot agree.
        """
        async with self._sessions() as session:
            await check_extends(session, await self._remembered(session))

    async def _remembered(self, session: AsyncSession) -> list[Checkpoint]:
        found = []
        try:
            note = await asyncio.to_thread(read_note, self._file)
        except BadCheckpoint as error:
            # It protects from accidents: whoever can damage it could have removed it as well.
            log.warning("checkpoint_file_unreadable", path=str(self._file), reason=error.message)
            note = None
        if note is not None:
            found.append(parse_checkpoint(note))
        if self._bucket is not None:
            epoch = await get_epoch(session)
            last = await find_latest_checkpoint(session, epoch)
            size = 0 if last is None else last.tree_size
            newer = await asyncio.to_thread(self._bucket.find_newer, Seen(epoch, size, b""))
            if newer is not None:
                found.append(parse_checkpoint(newer))
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; what fails is tried again at the next round.

        Raises: LedgerRestored.
        """
        while not stop.is_set():
            try:
                await self.step()
            except LedgerRestored:
                raise  # under a running hub, whose next start would be refused as well
            except (sa.exc.SQLAlchemyError, psycopg.Error, LedgerError, OSError) as error:
                reason = str(getattr(error, "orig", error))
                log.error("checkpoint_not_kept", reason=reason)
            await pause(stop, EVERY.total_seconds())

    async def step(self) -> None:
        """Check what devices have said, and keep the newest checkpoint outside.

        Raises: LedgerRestored where it is none that follows the one before.
        """
        await self._check_echoes()
        async with self._sessions() as session:
            last = await find_latest_checkpoint(session, await get_epoch(session))
            if self._written is not None and (last is None or last.note != self._written):
                await check_extends(session, [parse_checkpoint(self._written)])
        if last is None:
            return
        if last.note != self._written:
            await asyncio.to_thread(write_note, self._file, last.note)
            self._written = last.note
        await self._fill_bucket(last.note)

    async def _fill_bucket(self, note: str) -> None:
        now = self._clock()
        if self._bucket is None or not self._leads() or note == self._stored:
            return
        if self._bucket_due is not None and now < self._bucket_due:
            return
        self._bucket_due = now + self._bucket_every
        key = await asyncio.to_thread(lambda bucket: bucket.put(note, now=now), self._bucket)
        self._stored = note
        log.info("checkpoint_stored", key=key)

    async def _check_echoes(self) -> None:
        async with self._sessions() as session:
            epoch = await get_epoch(session)
        if epoch != self._epoch:
            self._echoes.forget()
            self._epoch = epoch
        for seen, agent_id, fleet in self._echoes.waiting:
            async with self._sessions() as session, session.begin():
                fork = await find_fork(session, seen)
                told = fork is not None and await report_fork(
                    session, agent_id, fleet, fork, now=self._clock()
                )
            self._echoes.settle(seen)
            if fork is not None and told:
                log.error(
                    "ledger_fork_seen",
                    agent_id=str(agent_id),
                    epoch=seen.epoch,
                    size=seen.size,
                    reason=fork.reason,
                )
