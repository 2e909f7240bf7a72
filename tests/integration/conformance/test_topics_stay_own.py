"""What an agent may say and hear: exactly its own topics, tried with foreign clients."""

import asyncio
from datetime import timedelta

import pytest

from tests.integration.broker.certificates import AgentCredentials, Platform
from tests.integration.broker.conftest import run_program
from tests.integration.conformance.conftest import AnySite, OpenSite

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
    "tg/v1/_front/+/up/+",
    "$SYS/#",
    "$SYS/broker/clients/connected",
    "$share/g/tg/v1/hospital-a/{own}/down/#",
    "$share/hubs/tg/v1/+/+/up/+",
]
# Less than it may have: the embedded engine takes the protocol's own filters only, NATS any part.
NARROWER_FILTERS = [
    "tg/v1/hospital-a/{own}/down/+",
    "tg/v1/hospital-a/{own}/down/desired",
    "tg/v1/hospital-a/all/down/+",
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


def named(pattern: str, own: AgentCredentials, other: AgentCredentials) -> str:
    return pattern.format(own=own.agent_id, other=other.agent_id, upper=str(own.agent_id).upper())


async def mosquitto(site: AnySite, program: str, agent: AgentCredentials, *more: str) -> str:
    _, port = site.address
    return await run_program(
        *(program, "-h", "localhost", "-p", str(port), "--cafile", site.platform.ca_path),
        *("--cert", agent.certificate_path, "--key", agent.key_path, "-i", agent.client_id),
        *more,
    )


async def test_mosquitto_hears_its_own_and_its_fleets_messages_and_no_others(
    site: AnySite, platform: Platform
) -> None:
    agent, other = platform.agent(), platform.agent()
    hub = await site.hub()
    listening = asyncio.create_task(
        mosquitto(
            *(site, "mosquitto_sub", agent, "-v", "-C", "2"),
            *("-t", agent.down("#"), "-t", f"tg/v1/{agent.fleet}/all/down/#"),
        )
    )
    await hub.report("connected")
    elsewhere = [other.down("desired"), "tg/v1/hospital-b/all/down/config"]
    while not listening.done():  # nobody tells when its subscriptions are there
        for topic in [*elsewhere, agent.down("desired"), f"tg/v1/{agent.fleet}/all/down/config"]:
            await hub.publish(topic, topic.encode())
        await asyncio.wait([listening], timeout=0.1)
    said = await listening
    assert said.splitlines() == [
        "exit 0",
        f"{agent.down('desired')} {agent.down('desired')}",
        f"tg/v1/{agent.fleet}/all/down/config tg/v1/{agent.fleet}/all/down/config",
    ]


@pytest.mark.parametrize("pattern", FOREIGN_FILTERS)
async def test_a_foreign_filter_is_refused_by_suback(
    site: AnySite, platform: Platform, pattern: str
) -> None:
    agent, other = platform.agent(), platform.agent()
    wire = await site.open(agent)
    assert await wire.connect(agent.client_id) == 0
    own, foreign = agent.down("#"), named(pattern, agent, other)
    assert await wire.subscribe(own, foreign) == [0, 0x80]
    assert (await (await site.hub()).report("denied")).operation == "subscribe"


@pytest.mark.parametrize("pattern", NARROWER_FILTERS)
async def test_a_narrower_filter_brings_nothing_that_is_not_its_own(
    site: AnySite, platform: Platform, pattern: str
) -> None:
    agent, other = platform.agent(), platform.agent()
    hub, wire = await site.hub(), await site.open(agent)
    assert await wire.connect(agent.client_id) == 0
    (code,) = await wire.subscribe(named(pattern, agent, other))
    assert code == (0x80 if site.engine == "embedded" else 0)
    await hub.publish(other.down("desired"), b"{}")
    await hub.publish("tg/v1/hospital-b/all/down/config", b"{}")
    assert await wire.ping(), "a foreign message came"


async def test_mosquitto_sub_is_told_that_everything_is_not_for_it(
    site: AnySite, platform: Platform
) -> None:
    said = await mosquitto(site, "mosquitto_sub", platform.agent(), "-t", "#", "-W", "5")
    assert "subscription requests were denied" in said, said


@pytest.mark.parametrize("pattern", FOREIGN_TOPICS)
async def test_a_foreign_topic_reaches_nobody(
    site: AnySite, platform: Platform, pattern: str
) -> None:
    agent, other = platform.agent(), platform.agent()
    hub, wire, victim = await site.hub(), await site.agent(agent), await site.agent(other)
    topic = named(pattern, agent, other)
    await wire.publish(topic, b"forged")
    acked = await wire.hear()
    assert acked is not None
    assert acked.kind == 4
    assert await hub.quiet(agent, wire) == []
    assert await victim.ping(), "the other agent got a message"
    report = await hub.report("denied")
    assert (report.operation, report.agent_id, report.topic) == ("publish", agent.agent_id, topic)


@pytest.mark.parametrize("topic", ["#", "tg/v1/hospital-a/+/up/heartbeat", ""])
async def test_a_topic_that_is_no_topic_reaches_nobody(
    site: AnySite, platform: Platform, topic: str
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent)
    await wire.publish(topic)
    # The embedded engine acks it and passes nothing on; NATS ends the connection.
    if await wire.hear() is None:
        wire = await site.agent(agent)
    assert await hub.quiet(agent, wire) == []


async def test_a_retained_message_is_reported_and_never_retained(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    said = await mosquitto(
        *(site, "mosquitto_pub", agent, "-q", "1", "-r", "-t", agent.up("heartbeat"), "-m", "{}")
    )
    assert said.startswith("exit 0")
    assert (await hub.report("denied")).operation == "retain"
    await hub.leave()
    late, wire = await site.hub("hub-2"), await site.agent(agent)
    # The embedded engine drops it, NATS passes it on as any other; the hub of NATS reads it again.
    passed = [agent.up("heartbeat")] if site.engine == "nats" else []
    assert await late.quiet(agent, wire) == passed
    assert await site.retained() == 0


async def test_an_agent_may_publish_every_kind_of_its_own(
    site: AnySite, platform: Platform
) -> None:
    agent, hub = platform.agent(), await site.hub()
    wire = await site.agent(agent)
    kinds = ["heartbeat", "event", "progress", "key-request", "csr", "reply", "will"]
    for kind in kinds:
        await wire.publish(agent.up(kind), kind.encode())
    assert [(await hub.hear()).topic for _ in kinds] == [agent.up(kind) for kind in kinds]


async def test_who_keeps_trying_is_disconnected(open_site: OpenSite, platform: Platform) -> None:
    agent = platform.agent()
    async with open_site(denials_per_minute=5) as site:
        hub, wire = await site.hub(), await site.agent(agent)
        for _ in range(6):
            await wire.publish("anything", qos=0)
        assert await wire.hear() is None
        report = await hub.report("denied")
        assert (report.count, report.agent_id) == (6, agent.agent_id)


async def denied(site: AnySite, number: int) -> None:
    """Wait until the front knows of so many denied publishes."""
    labels = {"operation": "publish", "reason": "foreign-topic"}
    name = "tensorguard_broker_denied_total"
    await site.until(lambda: site.counted(name, **labels) == number, f"{number} are denied")


async def test_many_denials_become_one_report(open_site: OpenSite, platform: Platform) -> None:
    agent = platform.agent()
    async with open_site(report_every=timedelta(hours=1)) as site:
        hub, wire = await site.hub(), await site.agent(agent)
        for number in range(50):
            await wire.publish(f"anything/{number}", qos=0)
        await denied(site, 50)
        site.front.reports.flush()
        report = await hub.report("denied")
        assert (report.count, report.topic) == (50, "anything/49")


async def test_denials_wait_for_a_hub(open_site: OpenSite, platform: Platform) -> None:
    agent = platform.agent()
    async with open_site() as site:
        wire = await site.agent(agent)
        await wire.publish("anything", qos=0)
        assert await wire.ping()
        report = await (await site.hub()).report("denied")
        assert (report.count, report.agent_id) == (1, agent.agent_id)


async def test_denials_of_very_many_agents_are_counted_together(
    open_site: OpenSite, platform: Platform
) -> None:
    agents = [platform.agent() for _ in range(5)]
    async with open_site(denied_keys=2, report_every=timedelta(hours=1)) as site:
        hub = await site.hub()
        for number, agent in enumerate(agents, start=1):
            wire = await site.agent(agent)
            await wire.publish("anything", qos=0)
            await denied(site, number)
        site.front.reports.flush()
        reports = [await hub.report("denied") for _ in range(3)]
        assert {(it.agent_id, it.count) for it in reports} == {
            (agents[0].agent_id, 1),
            (agents[1].agent_id, 1),
            (None, 3),
        }
