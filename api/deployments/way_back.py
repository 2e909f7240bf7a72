"""`/api/v1/deployments/{id}/previous`: what a rollback gives back to whom."""

from typing import Annotated
from uuid import UUID

from api.access import Requires
from api.routing import Session, new_router
from api.views import View
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.way_back import Previous, list_previous

router = new_router("/api/v1/deployments/{deployment_id}", "deployments")
Reader = Annotated[Caller, Requires(Permission.DEPLOYMENTS_READ)]


class PreviousView(View):
    """How many agents go back to which package; null: they had none, and keep what they run."""

    package_digest: str | None
    name: str | None
    version: str | None
    agents: int


class PreviousListView(View):
    """Every agent that was told of the deployment, by what it ran before."""

    items: list[PreviousView]


@router.get("/previous")
async def list_previous_packages(
    caller: Reader, session: Session, deployment_id: UUID
) -> PreviousListView:
    """Tell what a rollback gives back to whom, what concerns the most agents first."""
    await get_deployment(session, deployment_id)
    found = await list_previous(session, deployment_id)
    return PreviousListView(items=[_view(one) for one in found])


def _view(previous: Previous) -> PreviousView:
    digest = previous.package_digest
    return PreviousView(
        package_digest=None if digest is None else digest.hex(),
        name=previous.name,
        version=previous.version,
        agents=previous.agents,
    )
