"""Presence: online, late, offline. Written on transition only, by a sweep each second.

A heartbeat sets deadlines in `agent_state`; a front tells of connections that end. The sweep holds
both against `agent_status` and writes the few rows that differ: no index follows a heartbeat.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub import arrays
from hub.batch import From
from tensorguard.protocol.messages import FrontConnected, FrontDisconnected, Will
from tensorguard.services.hints import MAX_NAMED
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()
SWEEP_EVERY = timedelta(seconds=1)

_SWEEP = sa.text("""
    WITH seen AS (
        SELECT s.agent_id, s.package_digest,
            CASE WHEN t.disconnected_at >= s.received_at THEN 'offline'
                 WHEN s.offline_after <= :now THEN 'offline'
                 WHEN s.late_after <= :now THEN 'late'
                 ELSE 'online' END AS presence
        FROM agent_state s JOIN agent_status t ON t.agent_id = s.agent_id
        WHERE s.received_at IS NOT NULL
    ), moved AS (
        SELECT t.agent_id, seen.presence, seen.package_digest
        FROM seen JOIN agent_status t ON t.agent_id = seen.agent_id
        WHERE t.presence <> seen.presence OR t.running_digest IS DISTINCT FROM seen.package_digest
        ORDER BY t.agent_id FOR UPDATE OF t SKIP LOCKED
    ), changed AS (
        UPDATE agent_status t SET
            presence_since = CASE WHEN t.presence = moved.presence THEN t.presence_since
                                  ELSE :now END,
            presence = moved.presence,
            running_since = CASE WHEN t.running_digest IS NOT DISTINCT FROM moved.package_digest
                                 THEN t.running_since ELSE :now END,
            running_digest = moved.package_digest
        FROM moved WHERE t.agent_id = moved.agent_id
        RETURNING t.agent_id
    ), fleets AS (
        SELECT a.fleet, array_agg(a.id) AS ids
        FROM changed JOIN agents a ON a.id = changed.agent_id GROUP BY a.fleet
    ), told AS (
        INSERT INTO stream_events (kind, subject_id, fleet, at)
        SELECT 'agent', CAST(named.id AS text), fleets.fleet, :now
        FROM fleets CROSS JOIN LATERAL unnest(
            CASE WHEN cardinality(ids) <= :most_named THEN ids ELSE ARRAY[NULL::uuid] END
        ) AS named (id)
        UNION ALL SELECT 'overview', NULL, NULL, :now WHERE EXISTS (SELECT FROM changed)
    )
    SELECT count(*) FROM changed
""")
# News that is older than what is known, or comes twice, changes nothing.
_CONNECT = sa.text("""
    UPDATE agent_status t SET front_id = c.front_id, connected_at = c.at, disconnected_at = NULL
    FROM unnest(CAST(:agents AS uuid[]), CAST(:fronts AS text[]), CAST(:times AS timestamptz[]))
         AS c (agent_id, front_id, at)
    WHERE t.agent_id = c.agent_id
      AND (c.at > coalesce(greatest(t.connected_at, t.disconnected_at), '-infinity')
           -- told again by a front that was taken for gone
           OR c.at = t.connected_at AND t.front_id IS NULL AND t.disconnected_at IS NULL)
""")
_FIRST_CONNECT = sa.text("""
    UPDATE certificates SET first_connected_at = c.at
    FROM unnest(CAST(:serials AS text[]), CAST(:times AS timestamptz[])) AS c (serial, at)
    WHERE certificates.serial = c.serial AND certificates.first_connected_at IS NULL
    RETURNING certificates.agent_id
""")
# Only the front that holds the session may say that it ended: news of an old session, told late by
# another front, must not make an agent look dead. It comes after the session's last heartbeat, even
# where that was long on its way and is dated later.
_DISCONNECT = sa.text("""
    UPDATE agent_status t SET disconnected_at = greatest(c.at, s.received_at), front_id = NULL
    FROM unnest(CAST(:agents AS uuid[]), CAST(:fronts AS text[]), CAST(:times AS timestamptz[]))
         AS c (agent_id, front_id, at)
    LEFT JOIN agent_state s ON s.agent_id = c.agent_id
    WHERE t.agent_id = c.agent_id AND t.front_id = c.front_id AND t.connected_at <= c.at
""")
# A front that is gone told nothing of the ends of its sessions: they are nobody's, and the deadline
# of the heartbeat decides. One that began anew under its name does not hold what was there before.
_DISOWN = sa.text("""
    WITH gone AS (
        SELECT t.agent_id FROM agent_status t
        WHERE t.front_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM broker_fronts f
            WHERE f.id = t.front_id AND f.lease_until > :now AND f.started_at <= t.connected_at)
        ORDER BY t.agent_id FOR UPDATE SKIP LOCKED
    )
    UPDATE agent_status t SET front_id = NULL FROM gone WHERE t.agent_id = gone.agent_id
""")
_WILL = sa.text("""
    UPDATE agent_status t SET disconnected_at = w.at
    FROM unnest(CAST(:agents AS uuid[]), CAST(:boots AS uuid[]), CAST(:times AS timestamptz[]))
         AS w (agent_id, boot_id, at)
    JOIN agent_state s ON s.agent_id = w.agent_id AND s.boot_id = w.boot_id
    WHERE t.agent_id = w.agent_id AND t.front_id IS NULL
""")


async def store_connections(
    session: AsyncSession,
    connected: Sequence[tuple[str, FrontConnected]],
    disconnected: Sequence[tuple[str, FrontDisconnected]],
    wills: Sequence[From[Will]],
) -> list[UUID]:
    """Write down which front holds which agent, and which connections ended.

    Returns the agents that have connected with a certificate for the first time.
    """
    new: list[UUID] = []
    if connected:
        by_time = sorted(connected, key=lambda news: news[1].at)
        newest = {message.agent_id: (front, message) for front, message in by_time}
        rows = [newest[agent_id] for agent_id in sorted(newest)]
        await session.execute(_CONNECT, _columns(rows))
        first = {message.serial: message.at for _, message in reversed(by_time)}
        serials = {
            "serials": arrays.of_text(sorted(first)),
            "times": arrays.of_plain(first[serial] for serial in sorted(first)),
        }
        new = sorted((await session.execute(_FIRST_CONNECT, serials)).scalars())
    if disconnected:
        ends = sorted(disconnected, key=lambda news: news[1].at)
        ended = {(message.agent_id, front): (front, message) for front, message in ends}
        await session.execute(_DISCONNECT, _columns([ended[key] for key in sorted(ended)]))
    if wills:
        last = sorted({one.agent_id: one for one in wills}.items())
        columns = {
            "agents": arrays.of_plain(agent_id for agent_id, _ in last),
            "boots": arrays.of_plain(one.message.boot_id for _, one in last),
            "times": arrays.of_plain(one.received_at for _, one in last),
        }
        await session.execute(_WILL, columns)
    return new


async def disown_sessions(session: AsyncSession, now: datetime) -> int:
    """Forget who holds the sessions of fronts whose lease has ended; return how many.

    What such an agent's own heartbeats say stays: it is offline at their deadline, if not back.
    """
    result = await session.execute(_DISOWN, {"now": now})
    return int(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def _columns(
    rows: Sequence[tuple[str, FrontConnected]] | Sequence[tuple[str, FrontDisconnected]],
) -> dict[str, str]:
    return {
        "agents": arrays.of_plain(message.agent_id for _, message in rows),
        "fronts": arrays.of_text(front for front, _ in rows),
        "times": arrays.of_plain(message.at for _, message in rows),
    }


class PresenceSweeper:
    """Brings agent_status up to what heartbeats and fronts say, once a second."""

    def __init__(
        self,
        sessions: SessionMaker,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """Of several hubs the one that `leads` sweeps; two at a time would do no harm."""
        self._sessions = sessions
        self._clock = clock
        self._leads = leads

    async def sweep(self) -> int:
        """Write every transition that is due, with its hints; return how many there were."""
        async with self._sessions() as session, session.begin():
            values = {"now": self._clock(), "most_named": MAX_NAMED}
            return int((await session.execute(_SWEEP, values)).scalar_one())

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until `stop`; a sweep that fails is tried again at the next tick."""
        while not stop.is_set():
            try:
                moved = await self.sweep() if self._leads() else 0
                if moved:
                    log.info("presence_moved", agents=moved)
            except sa.exc.SQLAlchemyError as error:
                log.error("presence_sweep_failed", reason=str(getattr(error, "orig", error)))
            await pause(stop, SWEEP_EVERY.total_seconds())


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or less if `stop` comes first."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
