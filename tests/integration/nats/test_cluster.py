"""Three real nodes: who opens a route and who does not, what survives the loss of one."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client

from broker.nats.keys import CalloutKeys
from tensorguard.pki.identity import ServiceIdentity
from tests.integration.broker.certificates import TRUST_DOMAIN, Credentials, Platform
from tests.integration.nats.cluster import running_cluster
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


async def names(connection: Client) -> set[str]:
    """Which servers the cluster consists of, as one of them sees it."""
    inbox = connection.new_inbox()
    found: set[str] = set()
    subscription = await connection.subscribe(inbox)
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
        assert await names(watcher) == everyone
        for name, credentials in strangers.items():
            before = len(victim.log_path.read_text())
            async with intruding(tmp_path / name, route_port, credentials, platform.ca_path):
                await until_in(victim.log_path, before, "Failure")
                assert await names(watcher) == everyone, name
        friend = platform.service("broker")
        async with (
            intruding(tmp_path / "friend", route_port, friend, platform.ca_path),
            asyncio.timeout(PATIENCE_S),
        ):
            while await names(watcher) != everyone | {"intruder"}:
                pass
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
