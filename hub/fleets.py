"""What the hub knows of fleets: their signed config, and how often their agents report."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import fleet_configs


@dataclass(frozen=True, slots=True)
class FleetConfigs:
    """Every fleet's heartbeat interval, config revision and signed config document."""

    intervals: Mapping[str, timedelta]
    revisions: Mapping[str, int]
    envelopes: Mapping[str, bytes]

    @classmethod
    def none(cls) -> "FleetConfigs":
        """Return what is known before the first load."""
        return cls({}, {}, {})

    @classmethod
    async def load(cls, session: AsyncSession) -> "FleetConfigs":
        """Read all fleets: few rows, changed by people."""
        rows = (await session.execute(sa.select(fleet_configs))).all()
        return cls(
            {row.fleet: timedelta(seconds=row.heartbeat_interval_s) for row in rows},
            {row.fleet: row.revision for row in rows},
            {row.fleet: bytes(row.envelope) for row in rows},
        )
