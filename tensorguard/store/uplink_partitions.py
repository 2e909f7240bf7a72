"""The partitions of the uplinks' stream, as the hubs have found or made them."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession


async def find_partitions(session: AsyncSession) -> int | None:
    """Return how many partitions the stream has; None before a hub has ever connected to it."""
    count = sa.text("SELECT count(*) FROM uplink_partitions")
    return (await session.execute(count)).scalar_one() or None
