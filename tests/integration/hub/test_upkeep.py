"""Chores of the hub that nobody asks for."""

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
