"""The rollout controller: one leader moves deployments on, each step a transaction of its own.

Leadership is an advisory lock that ends with the transaction, and every step takes it anew: a
leader that dies leaves nothing behind, and two can never work at the same time. Hubs that do not
lead the others do not try: the gates need not be counted by each of them.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.presence import pause
from tensorguard.rollouts.decisions import Move
from tensorguard.rollouts.errors import RolloutError
from tensorguard.rollouts.presumption import Watch
from tensorguard.rollouts.states import DeploymentState
from tensorguard.services.deployments import assignment, moving, observing, rollout
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.deployments.membership import follow_members
from tensorguard.services.errors import ServiceError
from tensorguard.services.evidence.events import SYSTEM
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.deployments import Deployment, list_active
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()

TICK_EVERY = timedelta(seconds=1)
TURN_S = 2.0
"""So long one deployment may give out documents: the gates of the others must not wait for it."""
JOIN_EVERY = timedelta(seconds=5)
MAX_ACTIVE = 200
MAX_JUMP = timedelta(seconds=5)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class RolloutController:
    """One of any number of controllers; whoever holds the lock for a transaction does its work."""

    def __init__(
        self,
        sessions: SessionMaker,
        keyring: Keyring,
        *,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
        batch_agents: int = assignment.BATCH_AGENTS,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """`monotonic`, in seconds, shows when the clock jumps and a turn is over; None: never."""
        self._sessions = sessions
        self._keyring = keyring
        self._clock = clock
        self._leads = leads
        self._batch_agents = batch_agents
        self._monotonic = monotonic
        self._watch = Watch(heard_since=clock(), clock_since=NEVER)
        self._read_at = (clock(), 0.0 if monotonic is None else monotonic())
        self._joined_at: dict[UUID, datetime] = {}
        self._observed: dict[UUID, UUID] = {}
        self._has_more = False

    async def run(self, stop: asyncio.Event) -> None:
        """Move deployments on until `stop`; what fails is done at the next tick."""
        while not stop.is_set():
            self._has_more = False
            try:
                if self._leads():
                    await self.step(stop)
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.error("rollout_step_failed", reason=str(getattr(error, "orig", error)))
            await pause(stop, 0.0 if self._has_more else TICK_EVERY.total_seconds())

    async def step(self, stop: asyncio.Event | None = None) -> None:
        """Do everything that is due, for every deployment that is not over."""
        self._check_clock()
        async with self._sessions() as session, session.begin():
            if not await rollout.lead(session):
                return
            active = await list_active(session, MAX_ACTIVE)
        self._joined_at = {one.id: at for one in active if (at := self._joined_at.get(one.id))}
        self._observed = {one.id: to for one in active if (to := self._observed.get(one.id))}
        for deployment in active:
            if stop is not None and stop.is_set():
                return
            try:
                await self._move(deployment, stop)
            except Exception as error:  # one deployment's trouble must not stop the others
                log.error(
                    "deployment_not_moved",
                    deployment=str(deployment.id),
                    error=getattr(error, "code", type(error).__name__),
                    reason=str(getattr(error, "orig", error)),
                )

    async def _move(self, deployment: Deployment, stop: asyncio.Event | None) -> None:
        match deployment.state:
            case DeploymentState.SCHEDULED:
                await self._start(deployment)
            case DeploymentState.RUNNING:
                await self._roll_out(deployment.id, stop)
            case DeploymentState.PAUSED:
                await self._watch_paused(deployment.id)
            case DeploymentState.ROLLING_BACK:
                await self._roll_back(deployment.id, stop)
            case _:
                await self._withdraw(deployment.id, stop)

    async def _start(self, deployment: Deployment) -> None:
        now = self._clock()
        if deployment.start_at is not None and deployment.start_at > now:
            return
        try:
            async with self._leading(deployment.id, DeploymentState.SCHEDULED) as (session, found):
                if found is not None:
                    await moving.start_deployment(session, found.id, by=SYSTEM, now=now)
        except (RolloutError, ServiceError) as error:
            # It may go away: tried again at each tick, and said once.
            async with self._leading(deployment.id, DeploymentState.SCHEDULED) as (session, found):
                if found is not None and await moving.note_obstacle(
                    session, found, error.message, now
                ):
                    log.warning("deployment_not_started", deployment=str(found.id), code=error.code)

    async def _roll_out(self, deployment_id: UUID, stop: asyncio.Event | None) -> None:
        await self._join(deployment_id)
        started = time.monotonic()
        assigned, last, ends_s = 0, assignment.BEFORE_ALL, self._turn_ends_s()
        while self._may_go_on(stop, ends_s):
            async with self._leading(deployment_id, DeploymentState.RUNNING) as (session, found):
                if found is None:
                    return
                if await rollout.find_trouble(session, found, self._clock()) is not None:
                    break  # nobody else gets it; what follows says why
                batch = await assignment.assign_next(
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
            now = self._clock()
            await self._observe(session, found, now)
            decision = await rollout.decide_next(session, found, watch=self._watch, now=now)
        if decision.move is not Move.WAIT:
            log.info(
                "deployment_moved",
                deployment=str(deployment_id),
                move=decision.move,
                reason=decision.reason,
            )

    async def _join(self, deployment_id: UUID) -> None:
        """Take in agents that have enrolled, or got a matching tag, since the start."""
        now = self._clock()
        if now - self._joined_at.get(deployment_id, now - JOIN_EVERY) < JOIN_EVERY:
            return
        self._joined_at[deployment_id] = now
        async with self._leading(deployment_id, DeploymentState.RUNNING) as (session, found):
            if found is None:
                return
            joined, gone = await follow_members(session, found, now)
        if joined or gone:
            log.info("members_changed", deployment=str(deployment_id), joined=joined, gone=gone)

    async def _watch_paused(self, deployment_id: UUID) -> None:
        """Who had begun goes on, and is watched; nobody else begins."""
        async with self._leading(deployment_id, DeploymentState.PAUSED) as (session, found):
            if found is not None:
                await self._observe(session, found, self._clock())

    async def _observe(self, session: AsyncSession, found: Deployment, now: datetime) -> None:
        """Look at the next agents; who follows another leader begins with the first."""
        after = self._observed.get(found.id, observing.FIRST)
        self._observed[found.id] = await observing.observe(
            session, found, watch=self._watch, now=now, after=after
        )

    async def _roll_back(self, deployment_id: UUID, stop: asyncio.Event | None) -> None:
        last, ends_s = assignment.BEFORE_ALL, self._turn_ends_s()
        while self._may_go_on(stop, ends_s):
            state = DeploymentState.ROLLING_BACK
            async with self._leading(deployment_id, state) as (session, found):
                if found is None:
                    return
                batch = await assignment.return_next(
                    session,
                    self._keyring,
                    found,
                    now=self._clock(),
                    after=last,
                    limit=self._batch_agents,
                )
            if len(batch) < self._batch_agents:
                break
            last = batch[-1]
        async with self._leading(deployment_id, DeploymentState.ROLLING_BACK) as (session, found):
            if found is None:
                return
            now = self._clock()
            await observing.observe_rollback(session, found, watch=self._watch, now=now)
            done = await rollout.finish_rollback(session, found, watch=self._watch, now=now)
        if done:
            log.info("deployment_rolled_back", deployment=str(deployment_id))

    async def _withdraw(self, deployment_id: UUID, stop: asyncio.Event | None) -> None:
        ends_s = self._turn_ends_s()
        while self._may_go_on(stop, ends_s):
            async with self._leading(deployment_id, DeploymentState.ABORTED) as (session, found):
                if found is None:
                    return
                batch = await assignment.withdraw_next(
                    session, self._keyring, found, now=self._clock(), limit=self._batch_agents
                )
            if not batch:
                return

    def _turn_ends_s(self) -> float:
        """Return until when one deployment has its turn, on the monotonic clock."""
        return math.inf if self._monotonic is None else self._monotonic() + TURN_S

    def _may_go_on(self, stop: asyncio.Event | None, ends_s: float) -> bool:
        """Tell whether another batch has its turn; where the time is up the next step goes on."""
        if stop is not None and stop.is_set():
            return False
        if self._monotonic is not None and self._monotonic() >= ends_s:
            self._has_more = True
            return False
        return True

    def _check_clock(self) -> None:
        """Notice a clock that was set: what seems long ago may have been a moment ago."""
        if self._monotonic is None:
            return
        now, now_s = self._clock(), self._monotonic()
        (then, then_s), self._read_at = self._read_at, (now, now_s)
        jump = now - then - timedelta(seconds=now_s - then_s)
        if abs(jump) > MAX_JUMP:
            log.warning("clock_jumped", by_s=round(jump.total_seconds(), 1))
            self._watch = Watch(heard_since=now, clock_since=now)

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
