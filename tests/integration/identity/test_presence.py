"""Presence through crashes: of a front, of a hub, of both at once."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from tests.integration.identity.stack import Stack, each_engine
from tests.patience import PATIENCE_S

DEADLINE = timedelta(minutes=2, seconds=5)


async def front_of(stack: Stack, agent_id: UUID) -> str | None:
    rows = await stack.rows("SELECT front_id FROM agent_status WHERE agent_id = :id", id=agent_id)
    front: str | None = rows[0].front_id
    return front


async def test_sessions_of_a_front_that_died_are_offline_at_the_heartbeat_deadline(
    parts: Stack,
) -> None:
    fleet = await parts.new_fleet()
    async with AsyncExitStack() as broken:
        front = await broken.enter_async_context(parts.running_front())
        async with parts.running_hub():
            running = await parts.new_agent(fleet)
            await parts.until(lambda: _held(parts, running.agent_id), "nobody holds the session")
        # Its process is gone: no report, no release of the lease, and the agent with it.
        front.reports._offer = lambda *_: False  # type: ignore[method-assign] # it says nothing
        await running.stop()
        parts.agents.clear()
    async with parts.sessions.begin() as session:
        await session.execute(
            sa.text(
                "INSERT INTO broker_fronts (id, address, started_at, lease_until, applied_seq)"
                " VALUES ('front-1', '-', now() - interval '1 hour', now() - interval '1 s', 0)"
                " ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
            )
        )
    async with parts.running_front("front-2"), parts.running_hub():
        await parts.until(lambda: _not_held(parts, running.agent_id), "a dead front holds it")
        assert (await parts.agent(running.agent_id))["presence"] == "online"
        await parts.turn_clock(DEADLINE)
        await parts.until_presence(running.agent_id, "offline")


async def _held(stack: Stack, agent_id: UUID) -> bool:
    return await front_of(stack, agent_id) is not None


async def _not_held(stack: Stack, agent_id: UUID) -> bool:
    return await front_of(stack, agent_id) is None


@each_engine
async def test_a_front_that_starts_anew_gets_its_agents_back_and_they_are_online(
    parts: Stack,
) -> None:
    fleet = await parts.new_fleet()
    async with parts.running_front(), parts.running_hub():
        running = await parts.new_agent(fleet)
        before = (await parts.rows("SELECT connected_at FROM agent_status"))[0].connected_at
    async with parts.running_front(), parts.running_hub():

        async def back() -> bool:
            [row] = await parts.rows("SELECT front_id, connected_at FROM agent_status")
            # Sessions of a NATS node go on while its front is started again.
            is_new = row.connected_at > before or parts.node is not None
            return row.front_id == "front-1" and is_new

        await parts.until(back, "the new connection is not known")
        await parts.until_presence(running.agent_id, "online")
        await running.stop()
        parts.agents.clear()


@each_engine
async def test_what_happens_without_a_hub_is_right_when_one_is_back(parts: Stack) -> None:
    fleet = await parts.new_fleet()
    async with parts.running_front():
        async with parts.running_hub():
            stays, goes = await asyncio.gather(parts.new_agent(fleet), parts.new_agent(fleet))
        comes = parts.start(*await parts.enroll(fleet))
        await goes.stop()

        async def two_live() -> bool:
            return parts.live_agents() == {str(stays.agent_id), str(comes.agent_id)}

        await parts.until(two_live, "the front does not hold those two")
        async with parts.running_hub():
            await parts.until_presence(comes.agent_id, "online")
            await parts.until_presence(goes.agent_id, "offline")
            assert (await parts.agent(stays.agent_id))["presence"] == "online"
            [certificate] = (await parts.agent(comes.agent_id))["certificates"]
            assert certificate["first_connected_at"] is not None
        for one in (stays, comes):
            await one.stop()
        parts.agents.clear()


async def test_an_agent_that_went_while_front_and_hub_were_down_is_offline_at_its_deadline(
    parts: Stack,
) -> None:
    fleet = await parts.new_fleet()
    async with parts.running_front(), parts.running_hub():
        running = await parts.new_agent(fleet)
        assert parts.front is not None
        parts.front.reports._offer = lambda *_: False  # type: ignore[method-assign] # tells nothing
        await running.stop()
        parts.agents.clear()
    async with parts.running_front(), parts.running_hub():
        await parts.until(lambda: _not_held(parts, running.agent_id), "the old session is held")
        await parts.turn_clock(DEADLINE)
        await parts.until_presence(running.agent_id, "offline")


async def test_an_agent_that_is_stopped_while_it_connects_leaves_no_session(parts: Stack) -> None:
    fleet = await parts.new_fleet()
    async with parts.running_front() as front:
        directory, agent_id = await parts.enroll(fleet)
        assert front._listener is not None
        context, begun = front._listener._tls, asyncio.Event()

        def stop_it() -> ssl.SSLContext:
            parts.agents[0].service.stop()
            time.sleep(0.2)  # its thread gets to stop while ours keeps its handshake waiting
            begun.set()
            return context()

        front._listener._tls = stop_it
        running = parts.start(directory, agent_id)
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        await running.stop()

        async def nobody() -> bool:
            return not front.registry.list_all()

        await parts.until(nobody, "a session outlives its agent")
        parts.agents.clear()
