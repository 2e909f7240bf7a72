"""`/api/v1/overview`: the whole platform in numbers."""

from datetime import datetime
from typing import Annotated

from api.access import Requires
from api.routing import Now, Session, new_router
from api.views import View
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store import overview

router = new_router("/api/v1/overview", "overview")


class AgentCounts(View):
    """Agents by status; the active ones also by presence and by trust."""

    by_status: dict[str, int]
    by_presence: dict[str, int]
    by_trust: dict[str, int]


class LedgerState(View):
    """How far the ledger is: `waiting` events are committed and have no place yet."""

    size: int
    waiting: int
    signed_at: datetime | None


class OverviewView(View):
    """How many there are of everything, and how the agents are."""

    fleets: int
    packages: int
    releases: int
    broker_fronts: int
    heartbeats_per_s: float
    deployments: dict[str, int]
    agents: AgentCounts
    ledger: LedgerState


@router.get("")
async def get_overview(
    caller: Annotated[Caller, Requires(Permission.OVERVIEW_READ)], session: Session, now: Now
) -> OverviewView:
    """Return the platform in numbers; what there is none of is left out of the maps."""
    totals = await overview.get_totals(session, now=now)
    return OverviewView(
        fleets=totals["fleets"],
        packages=totals["packages"],
        releases=totals["releases"],
        broker_fronts=totals["broker_fronts"],
        heartbeats_per_s=await overview.get_heartbeat_rate(session, now=now),
        deployments=await overview.count_deployments_by_state(session),
        agents=AgentCounts(
            by_status=await overview.count_agents_by_status(session),
            by_presence=await overview.count_agents_by_presence(session),
            by_trust=await overview.count_agents_by_trust(session),
        ),
        ledger=LedgerState(
            size=totals["ledger_size"],
            waiting=totals["ledger_unsequenced"],
            signed_at=totals["ledger_signed_at"],
        ),
    )
