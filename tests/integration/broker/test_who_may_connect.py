"""Who gets in: nobody whom the platform CA has not certified, and nobody under a foreign name."""

import asyncio
import ssl
from datetime import timedelta

import pytest

from tests.integration.broker.certificates import Platform
from tests.integration.broker.conftest import OpenSite, Site
from tests.integration.broker.wire import Wire

IDENTIFIER_REJECTED, UNAVAILABLE, NOT_AUTHORIZED = 2, 3, 5


async def test_a_service_that_is_not_the_hub_is_refused(site: Site, platform: Platform) -> None:
    wire = await site.open(platform.service("api"))
    assert await wire.connect("api") == NOT_AUTHORIZED


async def test_a_session_ticket_is_no_way_around_the_certificate(
    site: Site, platform: Platform
) -> None:
    agent = platform.agent()
    context = site.context(agent)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    wire = await Wire.open(site.address, context)
    site.opened.append(wire)
    assert await wire.connect(agent.client_id) == 0
    session = wire.writer.get_extra_info("ssl_object").session
    assert not session.has_ticket


async def test_a_persistent_session_is_refused(site: Site, platform: Platform) -> None:
    agent = platform.agent()
    wire = await site.open(agent)
    assert await wire.connect(agent.client_id, clean=False) == NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("kind", "payload", "flags"),
    [
        ("heartbeat", b"{}", 0),
        ("will", b"{}", 0x20),
        ("will", b"{}", 0x10),
        ("will", b"x" * 1025, 0),
    ],
)
async def test_a_bad_will_is_refused(
    site: Site, platform: Platform, kind: str, payload: bytes, flags: int
) -> None:
    agent = platform.agent()
    wire = await site.open(agent)
    code = await wire.connect(agent.client_id, will=(agent.up(kind), payload), will_flags=flags)
    assert code == NOT_AUTHORIZED


async def test_a_full_front_refuses_newcomers_but_not_the_hub_nor_who_is_there(
    open_site: OpenSite, platform: Platform
) -> None:
    async with open_site(connections=2) as site:
        first, second, third = (platform.agent() for _ in range(3))
        await asyncio.gather(site.agent(first), site.agent(second))
        late = await site.open(third)
        assert await late.connect(third.client_id) == UNAVAILABLE
        await site.hub()
        await site.agent(first)


async def test_the_fronts_own_clock_decides_when_a_certificate_ends(
    site: Site, platform: Platform
) -> None:
    agent = platform.agent()
    site.clock.offset = timedelta(days=8).total_seconds()
    wire = await site.open(agent)
    assert await wire.connect(agent.client_id) == NOT_AUTHORIZED
    assert await wire.hear() is None
