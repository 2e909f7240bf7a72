"""Who is refused again and again costs the front little, and nobody else their place."""

import asyncio
import socket
import ssl
from datetime import timedelta

import pytest

from broker.denyset import DenySet, Revocation
from tests.integration.broker.certificates import AgentCredentials, Platform
from tests.integration.broker.conftest import OpenSite, Site, run_program
from tests.integration.broker.wire import Wire
from tests.patience import PATIENCE_S

SOON = timedelta(milliseconds=200)


def denying(*agents: AgentCredentials) -> DenySet:
    denied = DenySet(stale_after=None)
    for number, agent in enumerate(agents, start=1):
        denied.add(Revocation(number, agent.agent_id, None))
    return denied


async def try_from(site: Site, agent: AgentCredentials, source: str) -> int | None:
    """The code of CONNACK; None where there was no handshake."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            streams = await asyncio.open_connection(
                *site.address,
                ssl=site.context(agent),
                server_hostname="localhost",
                local_addr=(source, 0),
            )
    except (OSError, ssl.SSLError):
        return None
    async with Wire(*streams) as wire:
        return await wire.connect(agent.client_id)


async def test_a_revoked_agent_that_keeps_coming_gets_no_handshake_and_others_do(
    open_site: OpenSite, platform: Platform
) -> None:
    revoked, good = platform.agent(), platform.agent()
    limits = {"refusal_burst": 3, "refusals_per_s": 0.0, "hold": SOON}
    async with open_site(denied=denying(revoked), **limits) as site:
        present = await site.agent(good)
        codes = [await try_from(site, revoked, "127.0.0.9") for _ in range(6)]
        assert codes == [5, 5, 5, None, None, None]
        assert site.counted("tensorguard_broker_handshakes_not_tried") == 3
        assert await try_from(site, platform.agent(), "127.0.0.10") == 0
        assert await present.ping()
        assert site.counted("tensorguard_broker_held_connections") == 0


async def test_a_foreign_client_that_is_left_hanging_ends_with_an_error(
    open_site: OpenSite, platform: Platform
) -> None:
    revoked = platform.agent()
    limits = {"refusal_burst": 1, "refusals_per_s": 0.0, "hold": SOON}
    async with open_site(denied=denying(revoked), **limits) as site:
        said = []
        for _ in range(2):
            said.append(
                await run_program(
                    *("mosquitto_pub", "-h", "localhost", "-p", str(site.address[1])),
                    *("--cafile", platform.ca_path, "--cert", revoked.certificate_path),
                    *("--key", revoked.key_path, "-i", revoked.client_id, "-V", "mqttv311"),
                    *("-t", revoked.up("heartbeat"), "-m", "{}"),
                )
            )
        assert said[0].startswith("exit 5"), said
        assert not said[1].startswith(("exit 0", "exit 5")), said


async def test_strangers_without_a_good_certificate_are_counted_too(
    open_site: OpenSite, platform: Platform
) -> None:
    expired = platform.agent(issued=timedelta(days=-2), lifetime=timedelta(days=1))
    limits = {"refusal_burst": 2, "refusals_per_s": 0.0, "hold": SOON}
    async with open_site(**limits) as site:
        for _ in range(4):
            wire = await site.open(expired) if _ < 2 else None
            if wire is not None:
                assert await wire.hear() is None
            else:
                with pytest.raises(OSError):  # noqa: PT011  the kernel's words differ
                    await site.open(expired)
        assert site.counted("tensorguard_broker_handshakes_failed_total", reason="expired") == 2


async def test_a_lost_or_slow_handshake_is_no_refusal(
    open_site: OpenSite, platform: Platform
) -> None:
    limits = {"refusal_burst": 1, "refusals_per_s": 0.0, "handshake_timeout": SOON}
    async with open_site(**limits) as site:
        for _ in range(3):
            socket.create_connection(site.address).close()
        with socket.create_connection(site.address) as silent:
            silent.settimeout(5)
            assert await asyncio.to_thread(silent.recv, 1) == b""
        await site.agent(platform.agent())


async def test_a_full_or_stale_front_makes_nobody_a_stranger(
    open_site: OpenSite, platform: Platform
) -> None:
    limits = {"connections": 1, "refusal_burst": 1, "refusals_per_s": 0.0}
    async with open_site(**limits) as site:
        await site.agent(platform.agent())
        late = platform.agent()
        assert [await try_from(site, late, "127.0.0.9") for _ in range(3)] == [3, 3, 3]


async def test_in_a_storm_a_kicked_agent_finds_no_handshake_and_a_newcomer_does(
    open_site: OpenSite, platform: Platform
) -> None:
    revoked = [platform.agent() for _ in range(3)]
    limits = {"storm_refusals_per_s": 0.0, "storm_refusal_burst": 1, "hold": SOON}
    async with open_site(**limits) as site:
        for number, agent in enumerate(revoked, start=1):
            assert await try_from(site, agent, f"127.0.1.{number}") == 0
            streams = await asyncio.open_connection(
                *site.address,
                ssl=site.context(agent),
                server_hostname="localhost",
                local_addr=(f"127.0.1.{number}", 0),
            )
            wire = Wire(*streams)
            assert await wire.connect(agent.client_id) == 0
            await site.front.apply([Revocation(number, agent.agent_id, None)])
            assert await wire.hear() is None
        codes = [
            await try_from(site, agent, f"127.0.1.{number}")
            for number, agent in enumerate(revoked, start=1)
        ]
        assert codes == [None, None, None]
        assert await try_from(site, platform.agent(), "127.0.2.1") == 0


async def test_a_superseded_certificate_does_not_count_against_its_successors_address(
    open_site: OpenSite, platform: Platform
) -> None:
    old = platform.agent()
    async with open_site(refusal_burst=1, refusals_per_s=0.0) as site:
        wire = await site.agent(old)
        serial = f"{old.certificate.serial_number:x}"
        await site.front.apply([Revocation(1, None, serial)])
        assert await wire.hear() is None
        await site.agent(platform.agent(agent_id=old.agent_id))


async def test_only_so_many_are_held_and_the_oldest_go(
    open_site: OpenSite, platform: Platform
) -> None:
    revoked = platform.agent()
    limits = {"refusal_burst": 1, "refusals_per_s": 0.0, "held": 5}
    async with open_site(denied=denying(revoked), **limits) as site:
        wire = await site.open(revoked)
        assert await wire.connect(revoked.client_id) == 5
        held = [socket.create_connection(site.address) for _ in range(12)]
        await site.until(
            lambda: site.counted("tensorguard_broker_handshakes_not_tried") == 12, "all were met"
        )
        assert site.counted("tensorguard_broker_held_connections") == 5
        for client in held[:7]:
            client.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(client.recv, 1)
        for client in held:
            client.close()
