"""Hubs that read from a real NATS server into a real database: nothing lost, nothing twice."""

from uuid import uuid4

from tensorguard.protocol.topics import UpKind
from tests.integration.nats.streaming import Site, event, heartbeat


async def test_what_agents_publish_is_stored_once_in_order_and_acked(site: Site) -> None:
    agents = [await site.hub.add_agent() for _ in range(20)]
    log_id = uuid4()
    for agent_id in agents[:10]:  # before there is a stream: gone, as with any broker
        await site.publish(agent_id, UpKind.HEARTBEAT, heartbeat(1))
    hub = await site.start_hub()
    for agent_id in agents:
        await site.publish(agent_id, UpKind.HEARTBEAT, *(heartbeat(seq) for seq in range(2, 12)))
        await site.publish(agent_id, UpKind.EVENT, *(event(log_id, n) for n in range(1, 6)))
    await site.until_stored(100)
    assert await site.hub.value("SELECT count(*) FROM heartbeats") == 200
    await hub.end()
