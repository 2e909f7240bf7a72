"""The stream's bounds: warned of before they bite, and what they drop is named and comes again."""

from uuid import uuid4

from structlog.testing import capture_logs

from hub import metrics
from hub.nats.watch import ALERT_AT, StreamWatch
from tensorguard.protocol.subjects import STREAM
from tensorguard.protocol.topics import UpKind
from tests.integration.streaming.hubs import Site, event
from tests.integration.streaming.test_many_hubs import numbers_in_the_ledger

BOUND_BYTES = 128 * 1024
EVENTS = 600  # of one agent: within its budget


async def test_a_stream_that_fills_is_warned_of_and_what_it_drops_is_named(site: Site) -> None:
    agent_id, log_id = await site.hub.add_agent(), uuid4()
    site.settings = type(site.settings)(partitions=1, max_bytes=BOUND_BYTES)
    await (await site.start_hub()).end()
    payloads = [event(log_id, number) for number in range(1, EVENTS + 1)]
    fills: list[float] = []
    with capture_logs() as logs:
        async with site.stream() as stream:
            watch = StreamWatch(stream)
            for first in range(0, EVENTS, 100):
                await site.publish(agent_id, UpKind.EVENT, *payloads[first : first + 100])
                last = first + 100

                async def is_kept(last: int = last) -> bool:
                    return (await stream.stream_info(STREAM)).state.last_seq == last

                await site.until(is_kept)
                fills.append(await watch.look())
            state = (await stream.stream_info(STREAM)).state
    names = [one["event"] for one in logs]
    assert fills == sorted(fills)
    assert fills[0] < 0.3
    assert 0.95 < fills[-1] <= 1.0
    warned_at = names.index("uplinks_fill_the_stream")
    assert warned_at < names.index("uplinks_discarded")
    assert logs[warned_at]["fill"] >= ALERT_AT
    assert sum(one["at_most"] for one in logs if one["event"] == "uplinks_discarded") == (
        state.first_seq - 1
    )
    assert metrics.UPLINK_LAG._value.get() == state.messages
    hub = await site.start_hub()
    await site.until_stored(state.messages)
    dropped = payloads[: state.first_seq - 1]  # no hub has acked them, so the agent repeats them
    for first in range(0, len(dropped), 100):
        await site.publish(agent_id, UpKind.EVENT, *dropped[first : first + 100])
        await site.until_stored(state.messages + min(first + 100, len(dropped)))
    [numbers] = (await numbers_in_the_ledger(site)).values()
    assert sorted(numbers) == list(range(1, EVENTS + 1))
    await hub.end()


async def test_a_hub_that_cannot_store_takes_in_no_more_than_its_bound(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(20)]
    log_id = uuid4()
    await (await site.start_hub()).end()
    for agent_id in agents:
        payloads = [event(log_id, number) for number in range(1, 101)]
        await site.publish(agent_id, UpKind.EVENT, *payloads)
    await site.until_kept(2_000)
    # Nobody stores what this one receives.
    async with site.source(intake_limit=80) as source, site.stream() as stream:

        async def is_full() -> bool:
            found = await stream.consumers_info(STREAM)
            return sum(one.num_ack_pending or 0 for one in found) == 80

        async def has_moved_on() -> bool:
            found = await stream.consumers_info(STREAM)
            return sum(one.num_pending or 0 for one in found) == 2_000 - 80 - 30

        await site.until(is_full)
        taken = await source.receive(30, 5)
        assert len(taken) == 30
        source.ack(taken)
        await site.until(has_moved_on)
        assert await is_full()
