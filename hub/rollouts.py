"""The rollout controller: one leader moves deployments on, each step a transaction of its own.

Leadership is an advisory lock that ends with the transaction, and every step takes it anew: a
leader that dies leaves nothing behind, and two can never work at the same time. Hubs that do not
lead the others do not try: the gates need not be counted by each of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.presence import pause
from tensorguard.rollouts.states import DeploymentState
from tensorguard.services.deployments import rollout
from tensorguard.services.deployments.deployments import add_candidates, get_deployment
from tensorguard.services.deployments.undeployable import pause_undeployable
from tensorguard.services.evidence.events import SYSTEM
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.deployments import Deployment, list_active
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()

TICK_EVERY = timedelta(seconds=1)
JOIN_EVERY = timedelta(seconds=5)
MAX_ACTIVE = 200


class RolloutController:
    """One of any number of controllers; whoever holds the lock for a transaction does its work."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        *,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
        batch_agents: int = rollout.BATCH_AGENTS,
    ) -> None:
        self._sessions = sessions
        self._keyring = keyring
        self._clock = clock
        self._leads = leads
        self._batch_agents = batch_agents
        self._watching_since = clock()
        self._joined_at: dict[UUID, datetime] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Move deployments on until `stop`; what fails is done at the next tick."""
        while not stop.is_set():
            try:
                if self._leads():
                    await self.step(stop)
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("rollout_step_failed", reason=str(getattr(error, "orig", error)))
            await pause(stop, TICK_EVERY.total_seconds())

    async def step(self, stop: asyncio.Event | None = None) -> None:
        """Do everything that is due, for every deployment that is not over."""
        async with self._sessions() as session, session.begin():
            if not await rollout.lead(session):
                return
            paused = await pause_undeployable(session, by=SYSTEM, now=self._clock())
            active = await list_active(session, MAX_ACTIVE)
        for deployment_id in paused:
            log.warning("deployment_paused", deployment=str(deployment_id), reason="undeployable")
        self._joined_at = {one.id: at for one in active if (at := self._joined_at.get(one.id))}
        for deployment in active:
            if stop is not None and stop.is_set():
                return
            try:
                if deployment.state is DeploymentState.RUNNING:
                    await self._roll_out(deployment.id, stop)
                else:
                    await self._withdraw(deployment.id, stop)
            except Exception as error:  # one deployment's trouble must not stop the others
                log.error(
                    "deployment_not_moved",
                    deployment=str(deployment.id),
                    error=getattr(error, "code", type(error).__name__),
                    reason=str(getattr(error, "orig", error)),
                )

    async def _roll_out(self, deployment_id: UUID, stop: asyncio.Event | None) -> None:
        await self._join(deployment_id)
        started = time.monotonic()
        assigned, last = 0, rollout.BEFORE_ALL
        while stop is None or not stop.is_set():
            async with self._leading(deployment_id, DeploymentState.RUNNING) as (session, found):
                if found is None:
                    return
                batch = await rollout.assign_next(
                    session,
                    self._keyring,
                    found,
                    now=self._clock(),
                    after=last,
                    limit=self._batch_agents,
                )
            assigned += len(batch)
            if len(batch) < self._batch_agents:
                break
            last = batch[-1]
        if assigned:
            took_ms = round((time.monotonic() - started) * 1000, 1)
            log.info(
                "agents_assigned", deployment=str(deployment_id), agents=assigned, took_ms=took_ms
            )
        async with self._leading(deployment_id, DeploymentState.RUNNING) as (session, found):
            if found is None:
                return
            now, since = self._clock(), self._watching_since
            await rollout.observe(session, found, now=now, watching_since=since)
            done = await rollout.complete(session, found, now=now, watching_since=since)
        if done:
            log.info("deployment_completed", deployment=str(deployment_id))

    async def _join(self, deployment_id: UUID) -> None:
        """Take in agents that have enrolled, or got a matching tag, since the start."""
        now = self._clock()
        if now - self._joined_at.get(deployment_id, now - JOIN_EVERY) < JOIN_EVERY:
            return
        self._joined_at[deployment_id] = now
        async with self._leading(deployment_id, DeploymentState.RUNNING) as (session, found):
            if found is not None and (joined := await add_candidates(session, found, now)):
                log.info("agents_joined", deployment=str(deployment_id), agents=joined)

    async def _withdraw(self, deployment_id: UUID, stop: asyncio.Event | None) -> None:
        while stop is None or not stop.is_set():
            async with self._leading(deployment_id, DeploymentState.ABORTED) as (session, found):
                if found is None:
                    return
                batch = await rollout.withdraw_next(
                    session, self._keyring, found, now=self._clock(), limit=self._batch_agents
                )
            if not batch:
                return

    @asynccontextmanager
    async def _leading(
        self, deployment_id: UUID, state: DeploymentState
    ) -> AsyncIterator[tuple[AsyncSession, Deployment | None]]:
        """One step's transaction: the deployment, locked, if we lead and it is still so."""
        async with self._sessions() as session, session.begin():
            found = None
            if await rollout.lead(session):
                locked = await get_deployment(session, deployment_id, lock=True)
                found = locked if locked.state is state else None
            yield session, found
