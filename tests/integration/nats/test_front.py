"""smoke"""

from broker.denyset import Revocation
from tests.integration.nats.site import NatsSite


async def test_smoke(site: NatsSite) -> None:
    agent, other = site.platform.agent(), site.platform.agent()
    hub = await site.hub()
    wire = await site.agent(agent)
    await wire.publish(agent.up("heartbeat"), b"x")
    assert (await wire.hear()).kind == 4
    print(await hub.hear())
    print(await hub.report("connected"))
    await wire.publish(other.up("heartbeat"), b"x")
    assert (await wire.hear()).kind == 4
    print(await hub.report("denied"))
    assert await wire.subscribe("tg/v1/#") == [0x80]
    print(await hub.report("denied"))
    await hub.publish(agent.down("ack"), b"hello")
    print(await wire.hear())
    import time

    t = time.perf_counter()
    assert await site.front.apply([Revocation(1, agent.agent_id, None)]) == [1]
    print(time.perf_counter() - t)
    assert await wire.hear() is None
    print(await hub.report("disconnected"))
    again = await site.open(agent)
    assert await again.connect(agent.client_id) == 5
    print(await hub.report("denied"))
