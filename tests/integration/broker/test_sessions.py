"""One identity, one session: take-over, kick, last will, silence and expiry."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.denyset import Revocation
from broker.embedded.limits import Limits
from broker.session import End
from tensorguard.pki.identity import serial_text
from tests.integration.broker.certificates import AgentCredentials, Platform
from tests.integration.broker.conftest import OpenSite, Site
from tests.integration.broker.wire import packet


def revoke(agent: AgentCredentials) -> Revocation:
    return Revocation(1, agent.agent_id, None)


async def test_a_kick_ends_every_live_connection_of_the_agent_and_no_other(
    site: Site, platform: Platform
) -> None:
    agent, bystander = platform.agent(), platform.agent()
    hub = await site.hub()
    wire, witness = await site.agent(agent), await site.agent(bystander)
    # A take-over leaves one; a second is put there by hand, as a race would.
    (first,) = site.front.registry.list_denied(revoke(agent))
    second = await site.agent(agent)
    first.ended = None
    site.front.registry.add(first)
    assert await site.front.apply([revoke(agent)]) == [2]
    assert await second.hear() is None
    assert await wire.hear() is None
    assert await hub.quiet(bystander, witness) == []
    assert (await hub.report("disconnected")).reason == End.REVOKED
    again = await site.open(agent)
    assert await again.connect(agent.client_id) == 5


async def test_a_kick_does_not_let_the_will_speak(site: Site, platform: Platform) -> None:
    agent, bystander = platform.agent(), platform.agent()
    hub = await site.hub()
    wire = await site.agent(agent, will=(agent.up("will"), b"{}"))
    witness = await site.agent(bystander)
    await site.front.apply([revoke(agent)])
    assert await wire.hear() is None
    assert await hub.quiet(bystander, witness) == []


async def test_what_was_buffered_before_the_kick_is_not_passed_on(
    site: Site, platform: Platform
) -> None:
    agent, bystander = platform.agent(), platform.agent()
    hub, witness = await site.hub(), await site.agent(bystander)
    wire = await site.agent(agent)
    for _ in range(20):
        await wire.publish(agent.up("event"), b"late", qos=0)
    before = site.counted("tensorguard_broker_messages_total", direction="in", side="agent")
    await site.front.apply([revoke(agent)])
    assert await wire.hear() is None
    passed = await hub.quiet(bystander, witness)
    assert len(passed) == before


@pytest.mark.parametrize("keep_alive_s", [0, 65535])
async def test_no_keep_alive_is_longer_than_the_fronts(
    open_site: OpenSite, platform: Platform, keep_alive_s: int
) -> None:
    async with open_site(keep_alive=timedelta(milliseconds=100)) as site:
        wire = await site.agent(platform.agent(), keep_alive_s=keep_alive_s)
        assert await wire.hear() is None


async def test_a_session_ends_with_its_certificate(site: Site, platform: Platform) -> None:
    short, long = platform.agent(lifetime=timedelta(hours=1)), platform.agent()
    hub = await site.hub()
    wire, witness = await site.agent(short), await site.agent(long)
    site.clock.offset = timedelta(hours=1).total_seconds()
    assert await wire.hear() is None
    assert (await hub.report("disconnected")).reason == End.EXPIRED
    assert await witness.ping()


async def test_a_session_ends_within_a_second_of_its_certificate_by_the_real_clock(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent(lifetime=timedelta(seconds=3))
    async with open_site(sweep_every=Limits().sweep_every) as site:
        hub = await site.hub()
        wire = await site.agent(agent)
        assert await wire.hear() is None
        late = datetime.now(UTC) - agent.certificate.not_valid_after_utc
        assert timedelta(0) <= late < timedelta(seconds=1.2)
        assert (await hub.report("disconnected")).reason == End.EXPIRED
        again = await site.open(agent)
        assert await again.hear() is None, "TLS refuses it from then on"


async def test_stopping_the_front_ends_sessions_without_their_wills(
    open_site: OpenSite, platform: Platform
) -> None:
    agent = platform.agent()
    async with open_site() as site:
        hub = await site.hub()
        wire = await site.agent(agent, will=(agent.up("will"), b"{}"))
        await site.front.shutdown()
        assert await wire.hear() is None
        topics = []
        while (heard := await hub.wire.hear()) is not None:
            topics.append(heard.topic)
        assert agent.up("will") not in topics
        with pytest.raises(OSError):  # noqa: PT011  refused or reset
            await site.open(agent)


async def test_a_hub_that_joins_is_told_of_every_session_that_is_held_and_since_when(
    site: Site, platform: Platform
) -> None:
    agents = [platform.agent() for _ in range(3)]
    for agent in agents:
        await site.agent(agent)
    began = {one.client_id: one.admitted_at for one in site.front.registry.list_all()}
    for name in ("hub-1", "hub-2"):
        hub = await site.hub(name)
        told = [await hub.report("connected") for _ in agents]
        assert {str(one.agent_id): one.at for one in told} == began
        assert {one.serial for one in told} == {
            serial_text(agent.certificate.serial_number) for agent in agents
        }
        await hub.wire.say(packet(0xE0))
        await site.until(lambda: not site.front.router.has_hub, "the hub has left")


async def test_what_happened_without_a_hub_is_told_when_one_joins_the_newest_of_each_agent(
    site: Site, platform: Platform
) -> None:
    gone, back = platform.agent(), platform.agent()
    for agent in (gone, back):
        wire = await site.agent(agent)
        await wire.say(packet(0xE0))
        await site.until(lambda: site.front.registry.agents == 0, "the agent has left")
    await site.agent(back)
    hub = await site.hub()
    assert (await hub.report("disconnected")).agent_id == gone.agent_id
    assert (await hub.report("connected")).agent_id == back.agent_id
