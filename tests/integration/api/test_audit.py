"""The watch over routes itself: it would see a change without an event."""

import sqlalchemy as sa

from tensorguard.store import tables
from tests.integration.api.audit import SILENT, watching_routes
from tests.integration.api.clients import Api, new_slug


async def test_a_route_that_changes_data_without_an_event_is_caught(api: Api) -> None:
    change = sa.update(tables.users).values(name=new_slug())
    with watching_routes() as found:
        async with api.context.sessions() as session:
            session.info["route"] = SILENT
            await session.execute(change)
            await session.commit()
        await api.new_fleet()
    assert found == [f"{SILENT} changed ['users']"]
