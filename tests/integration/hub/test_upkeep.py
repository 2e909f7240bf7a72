"""Chores of the hub that nobody asks for."""

from uuid import uuid4

import sqlalchemy as sa

from hub.upkeep import Upkeep
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Role
from tensorguard.services.people.approvals import ApprovalKind
from tests.integration.hub.builders import Hub


async def test_what_nobody_has_decided_in_time_is_stored_as_expired(hub: Hub) -> None:
    caller = Caller(Actor("api-key", "01900000-0000-7000-8000-00000000000a"), Role.ADMIN)
    async with hub.sessions.begin() as session:
        asked = await approvals.ask(
            session,
            ApprovalKind.REVOKE_FLEET,
            {"reason": "stolen"},
            fleet="hospital-a",
            by=caller,
            now=hub.clock.now,
        )
    upkeep = Upkeep(hub.sessions, hub.keyring, hub.work, hub.clock)
    for minutes, state in ((14, "pending"), (1, "expired")):
        hub.clock.advance(minutes=minutes)
        await upkeep.step()
        async with hub.sessions() as session:
            # At the time of asking: what is stored, not what has become of it since.
            found = await approvals.get_approval(session, asked.id, now=asked.requested_at)
        assert found.state == state


async def test_keys_of_old_events_and_denials_of_ended_certificates_are_forgotten(hub: Hub) -> None:
    await hub.take(hub.event(await hub.add_agent(), uuid4(), 1))
    denied = sa.text(
        "INSERT INTO revocations (serial, reason, revoked_at, revoked_by, not_after)"
        " SELECT n, 'superseded', now(), 'hub', now() - interval '8 days'"
        " FROM generate_series(1, 3) AS n"
    )
    async with hub.sessions.begin() as session:
        await session.execute(denied)
    hub.clock.advance(days=30, seconds=1)
    await Upkeep(hub.sessions, hub.keyring, hub.work, hub.clock).step()
    assert await hub.value("SELECT count(*) FROM agent_events") == 0
    assert await hub.value("SELECT array_agg(serial) FROM revocations") == ["3"]
