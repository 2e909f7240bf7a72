"""Answers about compliance."""

from datetime import datetime

from api.views import View
from tensorguard.services.compliance.bands import Band
from tensorguard.store.standing import Reason


class ReasonView(View):
    """How many agents have a reason; `compliance=<reason>` finds them in the list of agents."""

    reason: Reason
    agents: int


class BandView(View):
    """How many agents are in a band, and why: the gravest reason first."""

    band: Band
    agents: int
    reasons: list[ReasonView]


class FleetStandingView(View):
    """How the agents of a fleet stand; the gravest band first, none that is empty."""

    fleet: str
    name: str
    agents: int
    bands: list[BandView]


class SunburstView(View):
    """Fleet → band → reason; each agent that is active or revoked is counted once.

    `bands` are of all fleets together. The fleets with the most agents come first, at most 200 of
    them: `more_fleets` have `more_agents`. `as_of`: when the agents were counted.
    """

    as_of: datetime
    bands: list[BandView]
    fleets: list[FleetStandingView]
    more_fleets: int
    more_agents: int
