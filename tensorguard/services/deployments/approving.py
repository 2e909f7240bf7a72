"""Deployments that take a second person, because one of their fleets demands it."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.states import DeploymentState
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.deployments.moving import move_deployment, start_deployment
from tensorguard.services.deployments.release_errors import ApprovalOutdated
from tensorguard.services.deployments.releases import check_deployment
from tensorguard.services.errors import FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, DeploymentApprovalAsked, FleetApprovalSet
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller
from tensorguard.services.people.approval import JSON, ApprovalKind, Deciders
from tensorguard.store.deployments import Deployment
from tensorguard.store.tables import deployments, fleets


async def begin_deployment(
    session: AsyncSession, deployment_id: UUID, *, by: Caller, now: datetime
) -> Deployment:
    """Start a deployment, or ask for a second person where a fleet of it demands one.

    Asking again once nobody has decided in time asks anew. Raises: as `start_deployment`.
    """
    deployment = await get_deployment(session, deployment_id, lock=True)
    demanding = await _list_demanding(session, deployment)
    begun = deployment.state not in (DeploymentState.DRAFT, DeploymentState.AWAITING_APPROVAL)
    if begun or not demanding:
        return await start_deployment(session, deployment_id, by=by.actor, now=now)
    await check_deployment(session, deployment, now)
    approval = await approvals.ask(
        session,
        ApprovalKind.START_DEPLOYMENT,
        _request(deployment),
        fleet=demanding[0] if len(deployment.fleets) == 1 else None,
        by=by,
        now=now,
    )
    if approval.id == deployment.approval_id:
        return deployment
    await session.execute(
        sa.update(deployments)
        .where(deployments.c.id == deployment.id)
        .values(approval_id=approval.id)
    )
    reason = f"a second person has to agree for {', '.join(demanding)}"
    event = DeploymentApprovalAsked(
        by=by.actor, deployment_id=deployment.id, approval_id=approval.id, reason=reason
    )
    if deployment.state is DeploymentState.AWAITING_APPROVAL:
        await ledger.record(session, event, now=now)
        return await get_deployment(session, deployment.id)
    to = DeploymentState.AWAITING_APPROVAL
    return await move_deployment(session, deployment, event, to, now=now)


async def start_approved(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    """Start the deployment that a second person has agreed to, if it is still that one.

    Raises: ApprovalOutdated, and as `start_deployment`.
    """
    deployment = await get_deployment(session, UUID(request["deployment_id"]), lock=True)
    if _request(deployment) != dict(request):
        raise ApprovalOutdated("the deployment is not the one that was asked for")
    started = await start_deployment(
        session,
        deployment.id,
        by=deciders.requested_by,
        approved_by=deciders.approved_by,
        now=now,
    )
    return {"deployment_id": str(started.id), "state": str(started.state)}


async def require_approval(
    session: AsyncSession,
    fleet: str,
    *,
    required: bool,
    by: Actor,
    now: datetime,
    approved_by: Actor | None = None,
) -> None:
    """Have deployments to the fleet take a second person, or not any more.

    Raises: FleetNotFound.
    """
    changed = await session.execute(
        sa.update(fleets)
        .where(fleets.c.slug == fleet)
        .values(deployments_need_approval=required, revision=fleets.c.revision + 1)
        .returning(fleets.c.slug)
    )
    if changed.first() is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")
    event = FleetApprovalSet(
        by=by,
        fleet=fleet,
        required=required,
        approved_by=None if approved_by is None else approved_by.id,
    )
    await ledger.record(session, event, now=now)


async def _list_demanding(session: AsyncSession, deployment: Deployment) -> list[str]:
    query = sa.select(fleets.c.slug).where(
        fleets.c.slug.in_(deployment.fleets), fleets.c.deployments_need_approval
    )
    return list((await session.execute(query.order_by(fleets.c.slug))).scalars())


def _request(deployment: Deployment) -> dict[str, JSON]:
    """Return what is agreed to: everything that a deployment is made of."""
    strategy = msgspec.json.encode(deployment.strategy, order="sorted")
    start_at = deployment.start_at
    return {
        "deployment_id": str(deployment.id),
        "release": f"{deployment.release_name} {deployment.release_version}",
        "package_digest": deployment.package_digest.hex(),
        "fleets": list(deployment.fleets),
        "selector": deployment.selector,
        "strategy_sha256": hashlib.sha256(strategy).hexdigest(),
        "start_at": None if start_at is None else start_at.isoformat(),
    }
