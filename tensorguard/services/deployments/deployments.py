"""Deployments: what people ask for. How they move is in moving.py, the controller's part beside."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.selector import parse_selector
from tensorguard.rollouts.stages import SALT_BYTES
from tensorguard.rollouts.states import DeploymentState
from tensorguard.rollouts.strategy import Strategy, dump_strategy, parse_strategy
from tensorguard.services.deployments import membership
from tensorguard.services.deployments.membership import Preview, audience_of, strategy_of
from tensorguard.services.deployments.release_errors import DeploymentNotFound
from tensorguard.services.deployments.releases import check_release, get_release
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, DeploymentCreated
from tensorguard.store.deployments import Deployment, find_deployment
from tensorguard.store.ids import new_id
from tensorguard.store.packages import Release
from tensorguard.store.tables import deployments, fleets

_ANY_DRAW = bytes(SALT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be deployed, to whom, how, and when: `start_at` None is as soon as it is started.

    `salt`: the draw of lots that a preview has shown; None draws anew.
    """

    release_id: UUID
    fleets: Sequence[str]
    selector: str = ""
    strategy: Strategy = field(default_factory=Strategy)
    start_at: datetime | None = None
    salt: bytes | None = None


async def create_deployment(
    session: AsyncSession, plan: Plan, *, by: Actor, now: datetime
) -> Deployment:
    """Write down a deployment as a draft: nobody gets anything before `start_deployment`.

    Raises: ReleaseNotFound, PackageWithdrawn, PublisherNotInForce, FleetNotFound, BadSelector,
        BadStrategy.
    """
    release, slugs = await _check_plan(session, plan, now)
    deployment_id = new_id()
    await session.execute(
        sa.insert(deployments).values(
            id=deployment_id,
            release_id=release.id,
            fleets=slugs,
            selector=plan.selector,
            strategy=dump_strategy(plan.strategy),
            state=DeploymentState.DRAFT,
            salt=plan.salt or secrets.token_bytes(SALT_BYTES),
            created_at=now,
            created_by=by.id,
            start_at=plan.start_at,
        )
    )
    event = DeploymentCreated(
        by=by,
        fleet=slugs[0] if len(slugs) == 1 else None,
        deployment_id=deployment_id,
        release_id=release.id,
        package_digest=release.package_digest,
        fleets=slugs,
        selector=plan.selector,
        allow_downgrade=plan.strategy.allow_downgrade,
        percents=[stage.percent for stage in plan.strategy.stages],
        on_failure=plan.strategy.on_failure,
        start_at=plan.start_at,
    )
    await ledger.record(session, event, now=now)
    return await get_deployment(session, deployment_id)


async def preview_deployment(session: AsyncSession, plan: Plan, *, now: datetime) -> Preview:
    """Return who would get the release if this started now, and who not, and why.

    Raises: ReleaseNotFound, PackageWithdrawn, PublisherNotInForce, FleetNotFound, BadSelector,
        BadStrategy, StageTooSmall.
    """
    release, slugs = await _check_plan(session, plan, now)
    audience = await membership.make_audience(
        session,
        release.package_digest,
        slugs,
        plan.selector,
        plan.salt or _ANY_DRAW,
        plan.strategy.stratify,
    )
    return await membership.preview(session, audience, plan.strategy)


async def preview_draft(session: AsyncSession, deployment: Deployment) -> Preview:
    """Return what `preview_deployment` does, by the deployment's own draw of lots.

    Raises: StageTooSmall.
    """
    audience = await audience_of(session, deployment)
    return await membership.preview(session, audience, strategy_of(deployment))


async def get_deployment(
    session: AsyncSession, deployment_id: UUID, *, lock: bool = False
) -> Deployment:
    """Return the deployment with this id. Raises: DeploymentNotFound."""
    deployment = await find_deployment(session, deployment_id, lock=lock)
    if deployment is None:
        raise DeploymentNotFound(f"there is no deployment {deployment_id}")
    return deployment


async def _check_plan(
    session: AsyncSession, plan: Plan, now: datetime
) -> tuple[Release, list[str]]:
    release = await get_release(session, plan.release_id)
    await check_release(session, release, now)
    parse_selector(plan.selector)
    parse_strategy(dump_strategy(plan.strategy))
    return release, await _check_fleets(session, plan.fleets)


async def _check_fleets(session: AsyncSession, slugs: Sequence[str]) -> list[str]:
    wanted = sorted(set(slugs))
    if not wanted:
        raise FleetNotFound("a deployment names at least one fleet")
    query = sa.select(fleets.c.slug).where(fleets.c.slug.in_(wanted))
    known = set((await session.execute(query)).scalars())
    if missing := [slug for slug in wanted if slug not in known]:
        raise FleetNotFound(f"there is no fleet {missing[0][:80]!r}")
    return wanted
