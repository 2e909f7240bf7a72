"""Chores: floods and receipts told, fleet configs signed anew, old rows forgotten."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.dead_letters import forget_dead_letters
from hub.events import forget_keys
from hub.presence import disown_sessions, pause
from hub.work import Work
from tensorguard.services.certificates.superseding import forget_ended
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import AgentFlooding
from tensorguard.services.fleets.commands import expire_commands
from tensorguard.services.fleets.fleets import get_config_envelope
from tensorguard.services.hints import forget_hints
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.people.approvals import expire_approvals
from tensorguard.services.revocation.confirmations import confirm_revocations
from tensorguard.store.engine import SessionMaker
from tensorguard.store.tables import agent_requests

log = structlog.get_logger()
EVERY = timedelta(seconds=5)
FLOOD_TOLD_EVERY = timedelta(minutes=1)
ANSWERS_KEPT_FOR = timedelta(days=1)

_TAKE_FLOODS = sa.text("""
    WITH flood AS (
        SELECT b.agent_id, b.excess, b.excess_since, b.excess_sha256, a.fleet
        FROM agent_event_budgets b JOIN agents a ON a.id = b.agent_id
        WHERE b.excess > 0 AND b.excess_since <= :before
        ORDER BY b.agent_id LIMIT 500 FOR UPDATE OF b SKIP LOCKED
    )
    UPDATE agent_event_budgets b SET excess = 0, excess_since = NULL, excess_sha256 = NULL
    FROM flood WHERE b.agent_id = flood.agent_id
    RETURNING flood.*
""")


async def tell_floods(session: AsyncSession, now: datetime) -> int:
    """Turn the excess of each flooding agent into one ledger entry a minute; return how many."""
    rows = (await session.execute(_TAKE_FLOODS, {"before": now - FLOOD_TOLD_EVERY})).all()
    events = [
        AgentFlooding(
            by=Actor("service", "hub"),
            fleet=row.fleet,
            agent_id=row.agent_id,
            count=row.excess,
            digest=bytes(row.excess_sha256).hex(),
            since=row.excess_since,
            until=now,
        )
        for row in rows
    ]
    await ledger.record_many(session, events, now=now)
    return len(events)


class Upkeep:
    """Runs the chores, each in its own transaction."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        work: Work,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """Of several hubs the one that `leads` does what concerns all of them."""
        self._leads = leads
        self._sessions = sessions
        self._keyring = keyring
        self._work = work
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Do the chores every few seconds until `stop`; what fails is done at the next round."""
        while not stop.is_set():
            try:
                await self.step()
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("upkeep_failed", reason=str(getattr(error, "orig", error)))
            await pause(stop, EVERY.total_seconds())

    async def step(self) -> None:
        """Do every chore once: this hub's own, and those of all hubs where this one leads."""
        await self._work.tell_tallies()
        if self._leads():
            await self._step_for_all(self._clock())

    async def _step_for_all(self, now: datetime) -> None:
        async with self._sessions() as session, session.begin():
            await tell_floods(session, now)
        async with self._sessions() as session, session.begin():
            await confirm_revocations(session, now=now)
        async with self._sessions() as session, session.begin():
            await expire_approvals(session, now=now)
        async with self._sessions() as session, session.begin():
            await expire_commands(session, now=now)
        async with self._sessions() as session, session.begin():
            disowned = await disown_sessions(session, now)
        if disowned:
            log.info("sessions_disowned", agents=disowned)
        async with self._sessions() as session, session.begin():
            await forget_dead_letters(session, now)
            await forget_keys(session, now)
            expired = agent_requests.c.expires_at < now - ANSWERS_KEPT_FOR
            await session.execute(sa.delete(agent_requests).where(expired))
        async with self._sessions() as session, session.begin():
            await forget_hints(session, now=now)
        async with self._sessions() as session, session.begin():
            await forget_ended(session)
        for fleet in list(self._work.configs.revisions):
            async with self._sessions() as session, session.begin():
                await get_config_envelope(session, self._keyring, fleet, now=now)
