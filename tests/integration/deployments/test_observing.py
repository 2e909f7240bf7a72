"""What the tables are presumed to show is what the pure rules say of each agent."""

import itertools
from datetime import timedelta

import sqlalchemy as sa

from tensorguard.rollouts.presumption import Seen, Watch, presume
from tensorguard.rollouts.states import AgentState
from tensorguard.rollouts.strategy import Strategy
from tensorguard.services.deployments.observing import FIRST, observe
from tensorguard.store import tables
from tensorguard.store.deployments import list_deployment_agents
from tests.integration.deployments.builders import START, Platform

A = AgentState
AGES_S = (0, 119, 121, 1799, 1801)


async def test_sql_and_rules_agree_on_who_is_lost_late_or_silent(platform: Platform) -> None:
    fleet = await platform.add_fleet("f")
    cases = list(itertools.product((A.NOTIFIED, A.DOWNLOADING, A.ACTIVATING), AGES_S, AGES_S))
    cases += [(A.SUCCEEDED, 0, age) for age in AGES_S]
    agents = [await platform.add_agent(fleet) for _ in cases]
    deployment = await platform.start(await platform.release(), fleet, strategy=Strategy())
    platform.clock.advance(hours=1)
    now, watch = platform.clock.now, Watch(heard_since=START, clock_since=START)
    row, state = tables.deployment_agents, tables.agent_state
    expected = {}
    async with platform.sessions.begin() as session:
        for agent, (known, began_s, heard_s) in zip(agents, cases, strict=True):
            since, heard_at = now - timedelta(seconds=began_s), now - timedelta(seconds=heard_s)
            started_at = since if known is not A.NOTIFIED else None
            await session.execute(
                sa.update(row)
                .where(row.c.agent_id == agent)
                .values(
                    state=known,
                    stage=0,
                    assigned_at=since,
                    notified_at=since,
                    started_at=started_at,
                )
            )
            await session.execute(
                sa.update(state).where(state.c.agent_id == agent).values(received_at=heard_at)
            )
            seen = Seen(
                state=known,
                notified_at=since,
                started_at=started_at,
                heard_at=heard_at,
                interval=timedelta(seconds=10),
                soaks=True,
            )
            presumed = presume(seen, timeouts=Strategy().timeouts, watch=watch, now=now)
            expected[agent] = presumed or (known, "")
    await platform.do(observe, deployment, watch=watch, now=now)
    found = await platform.do(list_deployment_agents, deployment.id, limit=len(agents))
    assert {one.agent_id: (one.state, one.reason) for one in found} == expected


async def test_many_agents_are_looked_at_a_part_at_a_time_and_none_is_left_out(
    platform: Platform,
) -> None:
    fleet = await platform.add_fleet("f")
    agents = sorted([await platform.add_agent(fleet) for _ in range(5)])
    deployment = await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    await platform.send()
    watch = Watch(heard_since=START, clock_since=START)
    after, seen = FIRST, []
    for _ in range(3):
        after = await platform.do(
            observe, deployment, watch=watch, now=platform.clock.now, after=after, limit=2
        )
        rows = await platform.do(list_deployment_agents, deployment.id, limit=9)
        seen.append([row.agent_id for row in rows if row.state is A.NOTIFIED])
    assert [sorted(one) for one in seen] == [agents[:2], agents[:4], agents]
    assert after == FIRST
