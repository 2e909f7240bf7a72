"""What is sent down without being asked for: new desired documents, changed configs, checkpoints.

State in the database decides, NOTIFY only wakes, polling each second is the floor. A document that
is lost on the way, or whose hub dies after marking it, goes again at the agent's next heartbeat. Of
several hubs one sends each: the one that has marked it.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import sqlalchemy as sa
import structlog

from hub.downlink import Downlinks
from hub.fleets import FleetConfigs
from hub.presence import pause
from hub.uplink import UplinkSource
from hub.work import Work
from tensorguard.protocol.messages import Checkpoint
from tensorguard.protocol.topics import DownKind
from tensorguard.store.engine import SessionMaker, listening

log = structlog.get_logger()
POLL_EVERY = timedelta(seconds=1)
CHECKPOINT_EVERY = timedelta(minutes=10)
FIRST_CHECKPOINT_AFTER = timedelta(seconds=15)
"""So long somebody in a new fleet is there before it is told: the others come at the same time."""
DOCUMENTS_AT_ONCE = 500
CHANNEL = "tg_desired"

_TAKE = sa.text("""
    WITH next AS (
        SELECT d.agent_id FROM agent_desired d
        JOIN agent_status s ON s.agent_id = d.agent_id AND s.presence <> 'offline'
        WHERE d.sent_at IS NULL AND d.expires_at > :now
        ORDER BY d.agent_id LIMIT :most FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE agent_desired d SET sent_at = :now
    FROM next JOIN agents a ON a.id = next.agent_id
    WHERE d.agent_id = next.agent_id
    RETURNING d.agent_id, a.fleet, d.envelope
""")
# Whoever commits one of these tells the fleet, and no other hub does.
_NOTE_FLEETS = sa.text("""
    INSERT INTO fleet_notices (fleet) SELECT fleet FROM fleet_configs ON CONFLICT DO NOTHING
""")
_TAKE_CONFIGS = sa.text("""
    WITH changed AS (
        SELECT n.fleet, c.revision, c.envelope
        FROM fleet_notices n JOIN fleet_configs c ON c.fleet = n.fleet
        WHERE c.revision > n.config_revision ORDER BY n.fleet FOR UPDATE OF n SKIP LOCKED
    )
    UPDATE fleet_notices n SET config_revision = changed.revision
    FROM changed WHERE n.fleet = changed.fleet RETURNING changed.fleet, changed.envelope
""")
_TAKE_CHECKPOINTS = sa.text("""
    WITH due AS (
        SELECT fleet FROM fleet_notices AS notice
        WHERE checkpoint_at <= :before AND (checkpoint_at > '-infinity' OR EXISTS (
            SELECT FROM agents JOIN agent_status AS status ON status.agent_id = agents.id
            WHERE agents.fleet = notice.fleet AND status.presence IN ('online', 'late')
              AND status.presence_since <= :settled))
        ORDER BY fleet FOR UPDATE SKIP LOCKED
    )
    UPDATE fleet_notices n SET checkpoint_at = :now FROM due WHERE n.fleet = due.fleet
    RETURNING n.fleet
""")
_CHECKPOINT = sa.text("""
    SELECT note FROM ledger_checkpoints WHERE epoch = (SELECT epoch FROM platform)
    ORDER BY tree_size DESC LIMIT 1
""")


class Outbox:
    """Hands to the front what the database says is due."""

    def __init__(
        self,
        sessions: SessionMaker,
        source: UplinkSource,
        work: Work,
        *,
        database_url: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._source = source
        self._work = work
        self._database_url = database_url
        self._clock = clock
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; a database that is away is waited for."""
        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(self._listen(stop), name="outbox-listener")
            while not stop.is_set():
                try:
                    await self.step()
                except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                    log.error("outbox_step_failed", reason=str(getattr(error, "orig", error)))
                await self._sleep(stop)
            listener.cancel()

    async def step(self) -> int:
        """Send everything that is due; return how many documents went.

        What cannot be sent is left to hubs that can.
        """
        await self.reload_configs()
        if not self._source.connected.is_set():
            return 0
        await self._send_configs()
        sent = 0
        while batch := await self._send_documents():
            sent += batch
            if batch < DOCUMENTS_AT_ONCE:
                break
        await self._send_checkpoints()
        return sent

    async def reload_configs(self) -> None:
        """Take over the fleets' configs as they are now."""
        async with self._sessions() as session:
            self._work.configs = await FleetConfigs.load(session)

    async def _send_configs(self) -> None:
        downlinks = Downlinks()
        async with self._sessions() as session, session.begin():
            await session.execute(_NOTE_FLEETS)
            for row in await session.execute(_TAKE_CONFIGS):
                downlinks.to_fleet(row.fleet, DownKind.CONFIG, bytes(row.envelope))
        self._source.publish(downlinks.items)

    async def _send_documents(self) -> int:
        downlinks = Downlinks()
        async with self._sessions() as session, session.begin():
            values = {"now": self._clock(), "most": DOCUMENTS_AT_ONCE}
            for row in await session.execute(_TAKE, values):
                downlinks.to_agent(row.fleet, row.agent_id, DownKind.DESIRED, bytes(row.envelope))
        if downlinks.items:
            dropped = self._source.publish(downlinks.items)
            log.info("desired_sent", documents=len(downlinks.items), dropped=dropped)
        return len(downlinks.items)

    async def _send_checkpoints(self) -> None:
        now, downlinks = self._clock(), Downlinks()
        async with self._sessions() as session, session.begin():
            note = (await session.execute(_CHECKPOINT)).scalar()
            if note is None:
                return
            values = {
                "now": now,
                "before": now - CHECKPOINT_EVERY,
                "settled": now - FIRST_CHECKPOINT_AFTER,
            }
            for fleet in (await session.execute(_TAKE_CHECKPOINTS, values)).scalars():
                downlinks.to_fleet(fleet, DownKind.CHECKPOINT, Checkpoint(note=note))
        self._source.publish(downlinks.items)

    async def _listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with listening(self._database_url, CHANNEL) as connection:
                    self._woken.set()
                    async for _ in connection.notifies():
                        self._woken.set()
            except psycopg.Error as error:
                log.warning("outbox_not_listening", reason=str(error))
                await pause(stop, POLL_EVERY.total_seconds())

    async def _sleep(self, stop: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(
                waits,
                timeout=POLL_EVERY.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for wait in waits:
                wait.cancel()
        self._woken.clear()
