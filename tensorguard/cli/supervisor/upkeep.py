"""Keeps the database's partitions ahead and rolls heartbeats up, as its owner: no service may."""

import asyncio
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from tensorguard.cli.supervisor.output import Output
from tensorguard.store.errors import StoreError
from tensorguard.store.maintenance import maintain

EVERY = timedelta(minutes=10)


async def keep_maintained(owner_url: str, output: Output, *, every: timedelta = EVERY) -> None:
    """Run the maintenance again and again until cancelled; what fails is tried in the next."""
    while True:
        await asyncio.sleep(every.total_seconds())
        try:
            done = await asyncio.to_thread(maintain, owner_url)
        except (StoreError, SQLAlchemyError) as error:
            output.say("maintenance_failed", level="error", reason=str(error)[:300])
            continue
        if done.made or done.dropped:
            output.say("partitions_moved", made=done.made, dropped=done.dropped)
        if done.rolled_up.too_late:
            output.say("heartbeats_came_too_late", level="warning", minutes=done.rolled_up.too_late)
