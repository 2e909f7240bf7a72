"""Two and more hubs at one stream: a fair share each, taken over and handed over without loss."""

import asyncio
import time
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.batch import Batch
from hub.nats.leases import Standing
from hub.work import Fence, Outcome, Work
from tensorguard.protocol.subjects import STREAM
from tensorguard.protocol.topics import UpKind
from tests.integration.streaming.hubs import LEASE, PARTITIONS, RunningHub, Site, event


class StuckWork(Work):
    """Work that stops for ever in the middle of a batch, or right behind its commit."""

    def __init__(self, work: Work, at_batch: int, *, committed: bool) -> None:
        self.__dict__.update(work.__dict__)
        self._left, self._committed = at_batch, committed
        self.stuck = asyncio.Event()

    async def store(self, batch: Batch, fence: Fence | None = None) -> Outcome:
        self._left -= 1
        if self._left > 0:
            return await super().store(batch, fence)
        if self._committed:
            await super().store(batch, fence)
        else:

            async def fence_and_stop(session: AsyncSession) -> None:
                assert fence is not None
                await fence(session)
                self.stuck.set()
                await asyncio.Event().wait()

            await super().store(batch, fence_and_stop)
        self.stuck.set()
        await asyncio.Event().wait()
        raise AssertionError


async def publish_events(site: Site, agents: list[UUID], log_id: UUID, first: int, to: int) -> None:
    for agent_id in agents:
        payloads = [event(log_id, number) for number in range(first, to + 1)]
        await site.publish(agent_id, UpKind.EVENT, *payloads)


async def numbers_in_the_ledger(site: Site) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for entry in await site.hub.entries("agent.reported."):
        found.setdefault(entry["subject"]["id"], []).append(entry["details"]["number"])
    return found


def test_the_quotas_of_all_hubs_are_all_partitions() -> None:
    for hubs in range(1, 20):
        quotas = [Standing(rank, hubs).quota(16) for rank in range(hubs)]
        assert sum(quotas) == 16
        assert max(quotas) - min(quotas) <= 1


async def test_hubs_share_fairly_and_hand_over_when_one_ends(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(12)]
    log_id = uuid4()
    first = await site.start_hub()
    publishing = asyncio.create_task(publish_events(site, agents, log_id, 1, 100))
    second = await site.start_hub()
    await site.until_share(second, PARTITIONS // 2)
    await site.until_share(first, PARTITIONS // 2)
    assert sorted(first.source.partitions + second.source.partitions) == list(range(PARTITIONS))
    assert [hub.source.leads for hub in (first, second)] == [True, False]
    await publishing
    began = time.monotonic()
    await first.end()
    await site.until_share(second, PARTITIONS)
    assert time.monotonic() - began < LEASE.total_seconds()  # released, not run out
    await publish_events(site, agents, log_id, 101, 110)
    await site.until_stored(110 * len(agents))
    stored = await numbers_in_the_ledger(site)
    assert {agent_id: sorted(numbers) for agent_id, numbers in stored.items()} == {
        str(agent_id): list(range(1, 111)) for agent_id in agents
    }
    assert second.source.leads
    await second.end()
    assert await site.hub.value("SELECT count(*) FROM hubs") == 0


async def kill_and_take_over(site: Site, *, committed: bool) -> None:
    agents = [await site.hub.add_agent() for _ in range(12)]
    log_id = uuid4()
    work = StuckWork(site.hub.work, 4, committed=committed)
    first = await site.start_hub(work=work)
    await publish_events(site, agents, log_id, 1, 60)
    await work.stuck.wait()
    await first.kill()
    second = await site.start_hub()
    await publish_events(site, agents, log_id, 61, 80)
    await site.until_stored(80 * len(agents))
    stored = await numbers_in_the_ledger(site)
    assert stored == {str(agent_id): list(range(1, 81)) for agent_id in agents}
    await second.end()


async def test_a_hub_killed_within_a_batch_is_taken_over_and_each_event_stored_once(
    site: Site,
) -> None:
    await kill_and_take_over(site, committed=False)


async def test_a_hub_killed_between_commit_and_ack_is_taken_over_and_each_event_stored_once(
    site: Site,
) -> None:
    await kill_and_take_over(site, committed=True)


async def test_a_hub_that_slept_beyond_its_lease_cannot_act_when_it_wakes(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(8)]
    log_id = uuid4()
    first = await site.start_hub()
    await publish_events(site, agents, log_id, 1, 10)
    await site.until_stored(80)
    stale = {number: intake.last_ack for number, intake in first.source._share._open.items()}
    # Asleep: nothing of it runs, its connection stays.
    first.source._share.step = asyncio.Event().wait  # type: ignore[assignment, method-assign]
    first.stop.set()
    await asyncio.sleep(LEASE.total_seconds() / 4)
    second = await site.start_hub()
    await site.until_share(second, PARTITIONS)
    async with site.stream() as stream:
        consumers = {one.name: one for one in await stream.consumers_info(STREAM)}
        assert len(consumers) == PARTITIONS
        for reply in stale.values():  # an ack of the old epoch
            if reply is not None:
                await stream._nc.publish(reply.decode())
        await stream._nc.flush()
        after = {one.name: one for one in await stream.consumers_info(STREAM)}
    assert {name: one.ack_floor for name, one in after.items()} == {
        name: one.ack_floor for name, one in consumers.items()
    }
    await publish_events(site, agents, log_id, 11, 20)
    await site.until_stored(160)
    await second.end()


async def test_a_hub_that_cannot_reach_nats_keeps_no_partitions(site: Site) -> None:
    first = await site.start_hub()
    second = await site.start_hub()
    await site.until_share(second, PARTITIONS // 2)
    # No server at this address from now on.
    first.source._urls = ["tls://localhost:1"]
    first.source._lost.set()
    await site.until_share(second, PARTITIONS)
    assert first.source.partitions == []
    await second.end()


async def test_a_rolling_restart_under_load_loses_nothing(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(10)]
    log_id = uuid4()
    hubs: list[RunningHub] = [await site.start_hub(), await site.start_hub()]

    async def publish() -> None:
        for number in range(1, 301):
            for agent_id in agents:
                await site.publish(agent_id, UpKind.EVENT, event(log_id, number))

    publishing = asyncio.create_task(publish())
    for hub in list(hubs):
        await hub.end()
        hubs.append(await site.start_hub())
    await publishing
    await site.until_stored(300 * len(agents), within_s=40)
    stored = await numbers_in_the_ledger(site)
    assert stored == {str(agent_id): list(range(1, 301)) for agent_id in agents}
    async with site.hub.sessions() as session:
        gaps = sa.text("SELECT count(*) FROM ledger_events WHERE type = 'events.gap'")
        assert (await session.execute(gaps)).scalar() == 0
    for hub in hubs[2:]:
        await hub.end()
