"""Revocations as they are committed, and the lease that says this front has applied them.

NOTIFY wakes, polling is the floor. What cannot be read for five seconds makes the deny set stale,
and a stale front admits nobody (denyset.py).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import structlog

from broker.denyset import STALE_AFTER, DenySet, Revocation
from broker.errors import FrontError
from tensorguard.store.engine import listening

_log = structlog.get_logger()
CHANNEL: Final = "tg_revocations"
POLL_EVERY: Final = timedelta(milliseconds=500)
RENEW_EVERY: Final = timedelta(seconds=1)
# Longer than this without an answer is no answer: the next try may find another server.
_ANSWER_WITHIN_S: Final = 3.0
_ROWS_AT_ONCE: Final = 1000
_RETRY_S: Final = 1.0

_NEW = """
    SELECT seq, agent_id, serial, not_after FROM revocations WHERE seq > %s ORDER BY seq LIMIT %s
"""
_RECEIPT = """
    INSERT INTO revocation_receipts (seq, front_id, denied_at, disconnected, disconnected_at)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT (seq, front_id) DO NOTHING
"""
_RENEW = """
    INSERT INTO broker_fronts (id, address, started_at, lease_until, applied_seq)
    VALUES (%(id)s, %(address)s, %(started_at)s, %(lease_until)s, %(applied_seq)s)
    ON CONFLICT (id) DO UPDATE SET address = excluded.address, started_at = excluded.started_at,
        lease_until = excluded.lease_until, applied_seq = excluded.applied_seq
"""
_RELEASE = "DELETE FROM broker_fronts WHERE id = %s AND started_at = %s"

Connection = psycopg.AsyncConnection[Any]
Apply = Callable[[Sequence[Revocation]], Awaitable[list[int]]]


class Lease:
    """Keeps one front's deny set complete, and its row in `broker_fronts` alive."""

    def __init__(
        self,
        database_url: str,
        front_id: str,
        denied: DenySet,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database_url = database_url
        self._front_id = front_id
        self._denied = denied
        self._clock = clock
        self._started_at = clock()
        self._renewed_at: datetime | None = None
        # Behind the deny set while a front denies already and could not end sessions yet.
        self._applied_seq = 0
        # What was done and is not written yet; kept over a lost connection.
        self._receipts: list[tuple[object, ...]] = []

    async def load(self) -> None:
        """Read every revocation there is; before this the front must not listen.

        First the row that owes: what is committed between this reading and the first lease would
        otherwise have a receipt without this front in it.
        Raises: psycopg.Error, TimeoutError.
        """
        async with listening(self._database_url) as connection:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._write(connection, address="", until=self._clock())
            while rows := await self._read(connection):
                for revocation in rows:
                    self._denied.add(revocation)
                self._applied_seq = rows[-1].seq
            self._denied.confirm()
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._write(connection, address="", until=self._clock())
        _log.info("deny_set_loaded", applied_seq=self._denied.applied_seq)

    async def run(self, stop: asyncio.Event, *, address: str, apply: Apply) -> None:
        """Apply what is new until `stop`, then give the lease back; survives a lost database.

        `apply` denies, ends live connections and returns how many for each; where it raises a
        FrontError there is no receipt and no lease, and the same is applied again.
        """
        while not stop.is_set():
            try:
                async with listening(self._database_url, CHANNEL) as connection:
                    await self._follow(connection, stop, address, apply)
            except (psycopg.Error, OSError, TimeoutError, FrontError) as error:
                reason = error.code if isinstance(error, FrontError) else type(error).__name__
                _log.warning("deny_set_not_followed", error=reason)
                await asyncio.sleep(random.uniform(0.1, _RETRY_S))  # noqa: S311  spreads load only

    async def _follow(
        self,
        connection: Connection,
        stop: asyncio.Event,
        address: str,
        apply: Apply,
    ) -> None:
        self._renewed_at = None
        if self._receipts:
            await self._write_receipts(connection)
        while not stop.is_set():
            applied = await self._apply_new(connection, apply)
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._renew(connection, address, at_once=applied)
            async for _ in connection.notifies(timeout=POLL_EVERY.total_seconds(), stop_after=1):
                break
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await connection.execute(_RELEASE, (self._front_id, self._started_at))

    async def _apply_new(self, connection: Connection, apply: Apply) -> bool:
        found = False
        while rows := await self._read(connection):
            found = True
            denied_at = self._clock()
            ended = await apply(rows)
            ended_at = self._clock()
            self._receipts += [
                (row.seq, self._front_id, denied_at, count, ended_at if count else None)
                for row, count in zip(rows, ended, strict=True)
                if row.agent_id is not None  # of a certificate nobody asks for one
            ]
            self._applied_seq = rows[-1].seq
            _log.info("revocations_applied", count=len(rows), up_to=rows[-1].seq)
            await self._write_receipts(connection)
        self._denied.confirm()
        self._denied.forget(self._clock())
        return found

    async def _write_receipts(self, connection: Connection) -> None:
        async with asyncio.timeout(_ANSWER_WITHIN_S), connection.cursor() as cursor:
            await cursor.executemany(_RECEIPT, self._receipts)
        self._receipts.clear()

    async def _read(self, connection: Connection) -> list[Revocation]:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            query = await connection.execute(_NEW, (self._applied_seq, _ROWS_AT_ONCE))
            return [Revocation(*row) for row in await query.fetchall()]

    async def _renew(self, connection: Connection, address: str, *, at_once: bool) -> None:
        now = self._clock()
        if not at_once and self._renewed_at and now - self._renewed_at < RENEW_EVERY:
            return
        await self._write(connection, address=address, until=now + STALE_AFTER)
        self._renewed_at = now

    async def _write(self, connection: Connection, *, address: str, until: datetime) -> None:
        values = {
            "id": self._front_id,
            "address": address,
            "started_at": self._started_at,
            "lease_until": until,
            "applied_seq": self._applied_seq,
        }
        await connection.execute(_RENEW, values)
