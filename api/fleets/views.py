"""Bodies and answers about fleets."""

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import Field, StringConstraints

from api.views import Body, Line, View
from tensorguard.protocol.topics import FLEET_PATTERN

Slug = Annotated[str, StringConstraints(pattern=FLEET_PATTERN, max_length=40)]
FleetPath = Annotated[str, Path(pattern=FLEET_PATTERN, max_length=40)]
Interval = Annotated[int, Field(ge=1, le=3600)]


class FleetCreate(Body):
    """A new fleet; the slug stands in topics and certificates and never changes."""

    slug: Slug
    name: Line
    heartbeat_interval_s: Interval = 10


class FleetUpdate(Body):
    """What may change of a fleet."""

    heartbeat_interval_s: Interval


class FleetView(View):
    """A fleet; the counts are of agents that were not revoked or rejected."""

    slug: str
    name: str
    created_at: datetime
    heartbeat_interval_s: int
    config_revision: int
    agents: int
    online: int
    late: int
    offline: int
    deployments_need_approval: bool
