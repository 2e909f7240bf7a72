"""What an agent may say and hear: exactly its own topics, tried with foreign clients."""

import pytest
from uuid6 import uuid7

from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import Site

FOREIGN_FILTERS = [
    "#",
    "+",
    "+/#",
    "/#",
    "tg/#",
    "tg/v1/+/+/up/+",
    "tg/v1/+/+/down/#",
    "tg/v1/hospital-a/+/down/#",
    "tg/v1/hospital-a/#",
    "tg/v1/hospital-b/all/down/#",
    "tg/v1/hospital-a/{other}/down/#",
    "tg/v1/hospital-a/{own}/#",
    "tg/v1/hospital-a/{own}/up/#",
    "tg/v1/hospital-a/{own}/down/+",
    "tg/v1/hospital-a/{own}/down/desired",
    "tg/v1/hospital-a/all/down/+",
    "tg/v1/_front/+/up/+",
    "$SYS/#",
    "$SYS/broker/clients/connected",
    "$share/g/tg/v1/hospital-a/{own}/down/#",
    "$share/hubs/tg/v1/+/+/up/+",
]
FOREIGN_TOPICS = [
    "tg/v1/hospital-a/{other}/up/heartbeat",
    "tg/v1/hospital-b/{own}/up/heartbeat",
    "tg/v1/hospital-a/{own}/up/other",
    "tg/v1/hospital-a/{own}/up/heartbeat/more",
    "tg/v1/hospital-a/{own}/up",
    "tg/v1/hospital-a/{own}/down/desired",
    "tg/v1/hospital-a/{other}/down/desired",
    "tg/v1/hospital-a/all/down/config",
    "tg/v1/_front/front-under-test/up/connected",
    "tg/v1/hospital-a/{own}/up/Heartbeat",
    "tg/v1/hospital-a/{upper}/up/heartbeat",
    "/tg/v1/hospital-a/{own}/up/heartbeat",
    "$SYS/broker/uptime",
    "$share/g/tg/v1/hospital-a/{own}/up/heartbeat",
    "anything",
]


@pytest.mark.parametrize(
    "pattern",
    ["tg/v1/hospital-a/{id}/up/heartbeat", "tg/v1/hospital-a/{id}/down/other", "#", "$SYS/x"],
)
async def test_a_hub_speaks_downward_only(site: Site, platform: Platform, pattern: str) -> None:
    hub, agent = await site.hub(), platform.agent()
    wire = await site.agent(agent)
    await hub.wire.publish(pattern.format(id=uuid7()))
    assert await hub.quiet(agent, wire) == []
    assert (
        site.counted("tensorguard_broker_denied_total", operation="publish", reason="foreign-topic")
        == 1
    )


@pytest.mark.parametrize("topic_filter", ["#", "tg/#", "$SYS/#", "tg/v1/+/+/down/#"])
async def test_a_hub_subscribes_to_nothing_but_its_filter(site: Site, topic_filter: str) -> None:
    hub = await site.hub()
    assert await hub.wire.subscribe(topic_filter) == [0x80]
