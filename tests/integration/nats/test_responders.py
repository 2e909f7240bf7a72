"""The auth callout when responders are slow, failing, gone, or asked by somebody else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.aio.msg import Msg
from nats.errors import Error, NoServersError

from broker.denyset import DenySet, Revocation
from broker.nats.front import NatsFront
from broker.nats.keys import CalloutKeys
from broker.nats.responder import QUEUE, SUBJECT
from tests.integration.broker.certificates import AgentCredentials, Credentials
from tests.integration.broker.wire import packet
from tests.integration.nats.server import answered
from tests.integration.nats.site import NatsSite, Node, nats_site

NOT_AUTHORIZED = 5
XKEY = "Nats-Server-Xkey"


async def try_to_connect(site: NatsSite, agent: AgentCredentials) -> int:
    wire = await site.open(agent)
    return await wire.connect(agent.client_id)


@contextlib.asynccontextmanager
async def responding(
    site: NatsSite, how: Callable[[NatsFront, Msg], Awaitable[None]]
) -> AsyncIterator[None]:
    """Another member of the fronts' queue group, which answers as it likes."""
    client = await site.node.server.connect(site.platform.service("broker"))

    async def answer(message: Msg) -> None:
        await how(site.front, message)

    await client.subscribe(SUBJECT, QUEUE, cb=answer)
    await client.flush()
    try:
        yield
    finally:
        await client.close()


async def answer_slowly(front: NatsFront, message: Msg) -> None:
    await asyncio.sleep(0.5)  # is what is tried
    sealed = front.responder.answer(message.data, (message.headers or {})[XKEY])
    assert sealed is not None
    await message.respond(sealed)


async def never_answer(front: NatsFront, message: Msg) -> None:
    """Hear it, and say nothing."""


async def answer_rubbish(front: NatsFront, message: Msg) -> None:
    await message.respond(b"xkv1 is no answer")


async def answer_with_other_keys(front: NatsFront, message: Msg) -> None:
    await message.respond(CalloutKeys.generate().seal(b"eyJ0", (message.headers or {})[XKEY]))


async def test_a_slow_responder_admits_and_refuses_all_the_same(site: NatsSite) -> None:
    agent, revoked = site.platform.agent(), site.platform.agent()
    await site.front.apply([Revocation(1, revoked.agent_id, None)])
    await site.stop_front()
    async with responding(site, answer_slowly):
        codes = await asyncio.gather(try_to_connect(site, agent), try_to_connect(site, revoked))
    assert codes == [0, NOT_AUTHORIZED]


@pytest.mark.parametrize("how", [never_answer, answer_rubbish, answer_with_other_keys])
async def test_a_failing_responder_lets_nobody_in_and_another_try_finds_one_that_works(
    site: NatsSite, how: Callable[[NatsFront, Msg], Awaitable[None]]
) -> None:
    agents = [site.platform.agent() for _ in range(2)]
    async with responding(site, how):
        async with asyncio.timeout(100):
            for agent in agents:
                while await try_to_connect(site, agent) != 0:
                    pass  # the server picks a responder by chance
    await site.present(len(agents))


async def test_without_any_responder_newcomers_are_refused_and_live_sessions_stay(
    site: NatsSite,
) -> None:
    present, newcomer = site.platform.agent(), site.platform.agent()
    hub, wire = await site.hub(), await site.agent(present)
    await site.stop_front()
    late = await site.open(newcomer)
    assert await late.connect(newcomer.client_id) == NOT_AUTHORIZED
    assert await hub.quiet(present, wire) == []
    await hub.publish(present.down("command"), b"{}")
    heard = await wire.hear()
    assert heard is not None
    assert heard.topic == present.down("command")


@pytest.mark.parametrize("user", [None, "spiffe://test.example/service/hub", "AGENTS", "SYS"])
@pytest.mark.parametrize("who", ["agent", "api"])
async def test_nobody_enters_as_a_client_of_nats_itself(
    site: NatsSite, who: str, user: str | None
) -> None:
    platform = site.platform
    credentials: Credentials = platform.agent() if who == "agent" else platform.service("api")
    options = {"user": user, "password": ""} if user else {}
    with pytest.raises((Error, NoServersError)):
        await answered(site.node.server, credentials, **options)
    assert site.counted("tensorguard_broker_callouts_total", result="not-mqtt") >= 1
    assert site.agents == 0


@pytest.mark.parametrize("service", ["hub", "broker"])
async def test_a_service_is_no_mqtt_client(site: NatsSite, service: str) -> None:
    wire = await site.open(site.platform.service(service))
    assert await wire.connect(service) == NOT_AUTHORIZED


async def test_a_user_name_in_connect_makes_nobody_a_service(site: NatsSite) -> None:
    agent, other = site.platform.agent(), site.platform.agent()
    wire = await site.open(agent)
    assert await wire.connect(agent.client_id, user="spiffe://test.example/service/hub") == 0
    assert await wire.subscribe("tg/v1/#", other.down("#"), "$JS/#") == [0x80, 0x80, 0x80]


async def test_a_server_of_another_platform_gets_no_answer(site: NatsSite) -> None:
    """It has other keys: what it seals for ours it cannot sign, and what it signs is not for us."""
    theirs = CalloutKeys.generate()
    for sealed in (b"", b"eyJ0", CalloutKeys.generate().seal(b"eyJ0", theirs.xkey)):
        assert site.front.responder.answer(sealed, theirs.xkey) is None
    assert site.front.responder.answer(b"", None) is None
    assert site.counted("tensorguard_broker_callouts_total", result="unreadable") == 4


async def test_who_was_admitted_by_another_front_and_is_denied_goes_when_a_front_starts(
    node: Node,
) -> None:
    agent, bystander = node.platform.agent(), node.platform.agent()
    async with nats_site(node) as first:
        wire, witness = await first.agent(agent), await first.agent(bystander)
        await first.stop_front()
        denied = DenySet(stale_after=None)
        denied.add(Revocation(1, agent.agent_id, None))
        async with nats_site(node, denied=denied) as second:
            assert await wire.hear() is None
            assert await witness.ping()
            assert second.counted("tensorguard_broker_kicks_total", result="ended") == 1
            wire = await first.open(bystander)
            wire.abort()
            witness.abort()


async def test_of_two_fronts_that_end_the_same_sessions_each_counts_its_own(node: Node) -> None:
    agents = [node.platform.agent() for _ in range(20)]
    revocations = [Revocation(seq, one.agent_id, None) for seq, one in enumerate(agents, start=1)]
    async with nats_site(node) as first, nats_site(node) as second:
        wires = [await first.agent(agent) for agent in agents]
        for site in (first, second):
            await site.present(len(agents))
        fronts = (first.front, second.front)
        counts = await asyncio.gather(*(front.apply(revocations) for front in fronts))
        assert [await wire.hear() for wire in wires] == [None] * len(agents)
    # A server that is asked twice in the same moment may say to both that it was they.
    assert all(one + other >= 1 for one, other in zip(*counts, strict=True))
    assert sum(map(sum, counts)) <= len(agents) + 2


def test_keys_of_the_platform_are_not_shown() -> None:
    keys = CalloutKeys.generate()
    assert repr(keys) == f"CalloutKeys({keys.issuer})"


async def test_a_session_that_has_gone_is_not_counted_and_no_reason_to_wait(site: NatsSite) -> None:
    agent = site.platform.agent()
    wire = await site.agent(agent)
    await site.present(1)
    ((place, session),) = site.front.list_own().items()
    await wire.say(packet(0xE0))
    await site.present(0)
    site.front.sessions.add(place, session)  # as if its end had not been told yet
    assert await site.front.apply([Revocation(1, agent.agent_id, None)]) == [0]
    assert site.counted("tensorguard_broker_kicks_total", result="gone-already") == 1
    site.front.sessions.remove(place)
