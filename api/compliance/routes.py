"""`/api/v1/compliance`: how the fleets stand."""

from typing import Annotated, Final

from api.access import Requires
from api.compliance.views import BandView, FleetStandingView, SunburstView
from api.routing import Context, new_router
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/compliance", "compliance")
MOST_FLEETS: Final = 200


@router.get("/sunburst")
async def get_sunburst(
    caller: Annotated[Caller, Requires(Permission.OVERVIEW_READ)], context: Context
) -> SunburstView:
    """Return how many agents of each fleet are in which band, and why."""
    counted = await context.sunbursts.get()
    shown, rest = counted.fleets[:MOST_FLEETS], counted.fleets[MOST_FLEETS:]
    return SunburstView(
        as_of=counted.as_of,
        bands=[BandView.model_validate(one) for one in counted.bands],
        fleets=[FleetStandingView.model_validate(one) for one in shown],
        more_fleets=len(rest),
        more_agents=sum(one.agents for one in rest),
    )
