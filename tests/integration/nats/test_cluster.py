"""Three real nodes: who opens a route and who does not, what survives the loss of one."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client
from nats.js.api import StreamConfig

from broker.nats.health import NodeSilent
from broker.nats.keys import CalloutKeys
from broker.nats.link import LOST
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.protocol.subjects import FRONT_UP, STREAM
from tests.integration.broker.certificates import TRUST_DOMAIN, Credentials, Platform
from tests.integration.nats.cluster import RunningCluster, running_cluster
from tests.integration.nats.server import free_ports, program
from tests.patience import PATIENCE_S


@asynccontextmanager
async def intruding(
    folder: Path, port: int, credentials: Credentials, ca_path: Path
) -> AsyncIterator[Path]:
    """A server that wants to be the cluster's fourth, with this certificate; yields its log."""
    await asyncio.to_thread(folder.mkdir)
    (own,) = free_ports(1)
    user = f"spiffe%3A%2F%2F{TRUST_DOMAIN}%2Fservice%2Fbroker"
    settings = {
        "server_name": "intruder",
        "listen": "127.0.0.1:-1",
        "log_file": str(folder / "log"),
        "cluster": {
            "name": "test",
            "listen": f"127.0.0.1:{own}",
            "routes": [f"tls://{user}:secret@localhost:{port}"],
            "tls": {
                "cert_file": str(credentials.certificate_path),
                "key_file": str(credentials.key_path),
                "ca_file": str(ca_path),
            },
        },
        # As in the cluster, so that it would have everything if it were let in.
        "system_account": "SYS",
        "accounts": {"SYS": {}, "AGENTS": {}, "PLATFORM": {}},
    }
    (folder / "conf").write_text(json.dumps(settings))
    process = await asyncio.to_thread(subprocess.Popen, [program(), "-c", folder / "conf"])
    try:
        yield folder / "log"
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def names(connection: Client, awaited: set[str]) -> set[str]:
    """Which servers the cluster consists of, as one of them sees it.

    Asks until those that are awaited have answered; whoever else is there has half a second.
    """
    inbox = connection.new_inbox()
    found: set[str] = set()
    subscription = await connection.subscribe(inbox)
    async with asyncio.timeout(PATIENCE_S):
        while not found >= awaited:  # a question passes by a route that has just been opened
            await connection.publish("$SYS.REQ.SERVER.PING", b"", reply=inbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    async for message in subscription.messages:
                        found.add(json.loads(message.data)["server"]["name"])
    await subscription.unsubscribe()
    return found


def with_name(platform: Platform, service: str, name: str) -> Credentials:
    """A service's certificate for a host name, such as the api has for devices."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = platform.authority.issue_service(
        key.public_key(),
        ServiceIdentity(TRUST_DOMAIN, service),
        datetime.now(UTC),
        dns_names=[name],
    )
    return Credentials(service, certificate, key, platform.directory)


async def test_only_a_broker_s_certificate_of_this_platform_opens_a_route(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    (tmp_path / "other").mkdir()
    other = Platform(tmp_path / "other")
    strangers = {
        "agent": platform.agent(),
        "hub": platform.hub,
        "api": with_name(platform, "api", "localhost"),
        "foreign": with_name(other, "broker", "localhost"),
    }
    async with running_cluster(tmp_path, platform, CalloutKeys.generate()) as cluster:
        victim = cluster.servers[0]
        assert victim.node.cluster is not None
        route_port = int(victim.node.cluster.listen.rpartition(":")[2])
        watcher = await victim.connect(cluster.broker)
        everyone = {"node-1", "node-2", "node-3"}
        assert await names(watcher, everyone) == everyone
        for name, credentials in strangers.items():
            before = len(victim.log_path.read_text())
            async with intruding(tmp_path / name, route_port, credentials, platform.ca_path):
                await until_in(victim.log_path, before, "Failure")
                assert await names(watcher, everyone) == everyone, name
        friend = platform.service("broker")
        async with intruding(tmp_path / "friend", route_port, friend, platform.ca_path):
            enlarged = everyone | {"intruder"}
            assert await names(watcher, enlarged) == enlarged
        await watcher.close()


async def until_in(path: Path, offset: int, text: str) -> None:
    """Wait for something that a server logs."""
    said = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while text not in said:
                said = (await asyncio.to_thread(path.read_text))[offset:]
                await asyncio.sleep(0.02)
    assert text in said, said


PROBE = "tgp.0.v1._front.f.up.connected"


async def store(front: Client, number: int, within_s: float = 30.0) -> None:
    """Have the stream take a front's report, however often it has to be tried."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                answer = await front.request(PROBE, str(number).encode(), timeout=2)
                if "seq" in json.loads(answer.data):
                    return
            except LOST:  # a leader that is gone, and none in its place yet
                await asyncio.sleep(0.1)


async def read(hub: Client) -> set[int]:
    """Everything that the stream holds."""
    stream = hub.jetstream(timeout=10)
    state = (await stream.stream_info(STREAM)).state
    numbers = range(state.first_seq, state.last_seq + 1)
    return {int((await stream.get_msg(STREAM, seq)).data or b"-1") for seq in numbers}


@asynccontextmanager
async def probed(folder: Path) -> AsyncIterator[tuple[RunningCluster, Platform]]:
    """Three nodes with the stream in three copies."""
    platform = Platform(folder)
    async with running_cluster(folder, platform, CalloutKeys.generate()) as cluster:
        hub = await cluster.servers[0].connect(platform.hub)
        config = StreamConfig(name=STREAM, subjects=[FRONT_UP], num_replicas=3)
        await hub.jetstream(timeout=20).add_stream(config)
        await hub.close()
        yield cluster, platform


@pytest.mark.deep
async def test_two_of_three_store_on_and_a_killed_one_comes_back(tmp_path: Path) -> None:
    async with probed(tmp_path) as (cluster, platform):
        front = await cluster.servers[0].connect(cluster.broker)
        stored: set[int] = set()
        for number in range(30):
            if number == 10:
                cluster.kill(2)
            if number == 20:
                await cluster.start(2)
                await cluster.until_healthy([2])
            began = time.monotonic()
            await store(front, number)
            if number in (10, 20):
                print(f"message {number} stored after {time.monotonic() - began:.1f} s")
            stored.add(number)
        hub = await cluster.servers[2].connect(platform.hub)
        assert await read(hub) == stored
        for client in (front, hub):
            await client.close()


@pytest.mark.deep
@pytest.mark.parametrize("silently", [False, True])
async def test_a_node_that_is_cut_off_stores_nothing_and_catches_up(
    silently: bool, tmp_path: Path
) -> None:
    async with probed(tmp_path) as (cluster, platform):
        inside = await cluster.servers[0].connect(cluster.broker)
        apart = await cluster.servers[2].connect(cluster.broker)
        await store(inside, 0)
        await cluster.cut(2, silently=silently)
        began = time.monotonic()
        await store(inside, 1, within_s=60)
        print(f"two of three store after {time.monotonic() - began:.1f} s")
        async with asyncio.timeout(90):
            while not await trouble(cluster, 2):  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.2)
        print(f"the third knows that it is alone after {time.monotonic() - began:.1f} s")
        with pytest.raises(TimeoutError):
            await store(apart, 100, within_s=3)
        began = time.monotonic()
        await cluster.heal()
        await cluster.until_healthy(within_s=120)
        print(f"whole again after {time.monotonic() - began:.1f} s")
        await store(apart, 2)
        hub = await cluster.servers[2].connect(platform.hub)
        assert {0, 1, 2} <= await read(hub)
        for client in (inside, apart, hub):
            await client.close()


async def trouble(cluster: RunningCluster, index: int) -> str:
    """What is wrong with a node, by its own words or by its silence."""
    try:
        return (await cluster.health(index)).trouble
    except NodeSilent as error:
        return error.message
