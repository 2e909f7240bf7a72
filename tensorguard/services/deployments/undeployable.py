"""Pausing what is being rolled out and may not be any more."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.states import DeploymentState
from tensorguard.services.deployments.deployability import object_to
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.deployments.moving import move_deployment
from tensorguard.services.evidence.events import Actor, DeploymentPaused
from tensorguard.store.publishers import list_publishers
from tensorguard.store.tables import deployments, packages, releases


async def pause_undeployable(
    session: AsyncSession, *, by: Actor, now: datetime, publisher: str | None = None
) -> list[UUID]:
    """Pause each running deployment whose package may not be deployed now; return which.

    `publisher` asks for those alone whose package this publisher answers for. The reason is kept
    with the deployment and in the ledger. Call it whenever time has passed.
    """
    query = (
        sa.select(
            deployments.c.id,
            packages.c.name.label("package"),
            packages.c.withdrawn_at,
            packages.c.publisher_kid,
        )
        .join(releases, releases.c.id == deployments.c.release_id)
        .join(packages, packages.c.digest == releases.c.package_digest)
        .where(deployments.c.state == DeploymentState.RUNNING)
        .order_by(deployments.c.id)
    )
    if publisher is not None:
        query = query.where(packages.c.publisher_kid == publisher)
    running = (await session.execute(query)).all()
    known = {one.kid: one for one in await list_publishers(session)} if running else {}
    paused: list[UUID] = []
    for deployment_id, package, withdrawn_at, kid in running:
        objection = object_to(known[kid], package=package, withdrawn_at=withdrawn_at, now=now)
        if objection is None:
            continue
        deployment = await get_deployment(session, deployment_id, lock=True)
        if deployment.state is not DeploymentState.RUNNING:
            continue
        event = DeploymentPaused(by=by, deployment_id=deployment_id, reason=objection.message)
        await move_deployment(session, deployment, event, DeploymentState.PAUSED, now=now)
        paused.append(deployment_id)
    return paused
