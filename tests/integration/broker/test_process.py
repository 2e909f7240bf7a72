"""`tensorguard broker run` as an operator and a supervisor see it."""

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from broker.embedded.listener import listening_socket
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.broker.certificates import TRUST_DOMAIN, Platform
from tests.integration.broker.signer import running_signer
from tests.integration.broker.wire import Wire
from tests.patience import PATIENCE_S
from tests.postgres import Database


@dataclass
class BrokerProcess:
    """A running process and what it needs."""

    process: asyncio.subprocess.Process
    connection: psycopg.AsyncConnection[Any]

    async def address(self) -> tuple[str, int]:
        """Where it listens, by its own lease."""
        query = "SELECT address FROM broker_fronts WHERE lease_until > now()"
        async with asyncio.timeout(PATIENCE_S):
            while not (row := await (await self.connection.execute(query)).fetchone()):
                assert self.process.returncode is None, await self.said()
                await asyncio.sleep(0.05)
        host, _, port = row[0].rpartition(":")
        return host, int(port)

    async def said(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


@dataclass
class Home:
    """A database and a data directory, bootstrapped or not."""

    database: Database
    data_dir: Path
    connection: psycopg.AsyncConnection[Any]
    started: list[BrokerProcess]
    closing: AsyncExitStack

    async def bootstrap(self, *, signer: bool = True) -> Platform:
        """Do what the first start of the platform does, and answer fronts that ask."""
        engine = create_engine(self.database.app_url, service="test")
        kek = LocalKeyProvider.open_or_create(self.data_dir / KEK_FILE)
        async with session_maker(engine)() as session, session.begin():
            await bootstrap(
                session,
                kek=kek,
                trust_domain=TRUST_DOMAIN,
                root_dir=self.data_dir / "root",
                now=datetime.now(UTC),
                hash_with=lambda _: "no password",
            )
            authority = (await Keyring.load(session, kek, only={"ca"})).ca
        await engine.dispose()
        if signer:
            await self.start_signer()
        return Platform(self.data_dir, authority)

    async def start_signer(self, *hosts: str) -> Keyring:
        return await self.closing.enter_async_context(
            running_signer(self.database.app_url, self.data_dir, *hosts)
        )

    async def start(self, *more: str, **settings: str) -> BrokerProcess:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TG_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TG_DATABASE_URL": self.database.app_url,
            "TG_MQTT": "127.0.0.1:0",
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tensorguard.cli", "broker", "run", *more),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        self.started.append(BrokerProcess(process, self.connection))
        return self.started[-1]


@pytest.fixture
async def home(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Home]:
    async with (
        await psycopg.AsyncConnection.connect(
            fresh_database.superuser_url, autocommit=True
        ) as connection,
        AsyncExitStack() as closing,
    ):
        running = Home(fresh_database, tmp_path, connection, [], closing)
        yield running
        for broker in running.started:
            if broker.process.returncode is None:
                broker.process.kill()
                await broker.process.wait()


async def test_the_process_admits_an_agent_kicks_it_and_ends_cleanly(home: Home) -> None:
    platform = await home.bootstrap()
    agent = platform.agent()
    broker = await home.start()
    wire = await Wire.open(await broker.address(), agent.client_context(platform.ca_path))
    assert await wire.connect(agent.client_id) == 0
    await home.connection.execute(
        "INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)"
        " VALUES (%s, 'test', now(), 'test')",
        [agent.agent_id],
    )
    assert await wire.hear() is None
    other = platform.agent()
    wire = await Wire.open(await broker.address(), other.client_context(platform.ca_path))
    assert await wire.connect(other.client_id) == 0
    assert await broker.stop() == 0
    assert await wire.hear() is None
    leases = await home.connection.execute("SELECT count(*) FROM broker_fronts")
    assert await leases.fetchone() == (0,)
    assert "Traceback" not in await broker.said()


async def test_a_front_that_starts_after_a_revocation_refuses_from_its_first_moment(
    home: Home,
) -> None:
    platform = await home.bootstrap()
    agent = platform.agent()
    await home.connection.execute(
        "INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)"
        " VALUES (%s, 'test', now(), 'test')",
        [agent.agent_id],
    )
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    await home.start(TG_MQTT=f"127.0.0.1:{port}")
    context = agent.client_context(platform.ca_path)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                wire = await Wire.open(("127.0.0.1", port), context)
                break
            except OSError:
                await asyncio.sleep(0.005)
    # The first connection that it takes at all.
    assert await wire.connect(agent.client_id) == 5
    async with asyncio.timeout(PATIENCE_S):  # its lease's row follows
        while True:
            row = await home.connection.execute("SELECT applied_seq FROM broker_fronts")
            if (applied := await row.fetchone()) is not None:
                break
            await asyncio.sleep(0.005)
    assert applied == (1,)


async def test_the_hub_is_admitted_with_a_certificate_of_its_own(home: Home) -> None:
    platform = await home.bootstrap()
    broker = await home.start()
    wire = await Wire.open(await broker.address(), platform.hub.client_context(platform.ca_path))
    assert await wire.connect("hub-1") == 0
    assert await wire.subscribe("tg/v1/+/+/up/+", qos=1) == [1]


async def test_metrics_and_health_are_served_where_asked_for(home: Home) -> None:
    await home.bootstrap()
    with listening_socket("127.0.0.1", 0) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    broker = await home.start(TG_BROKER_METRICS=metrics)
    await broker.address()
    assert await get(f"http://{metrics}/healthz") == "ok\n"
    assert 'tensorguard_broker_connections{role="agent"} 0.0' in await get(
        f"http://{metrics}/metrics"
    )


async def test_two_listeners_count_beside_each_other(home: Home) -> None:
    await home.bootstrap()
    with listening_socket("127.0.0.1", 0) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    broker = await home.start(TG_BROKER_METRICS=metrics, TG_BROKER_ENROLL="127.0.0.1:0")
    await broker.address()
    counted = await get(f"http://{metrics}/metrics")
    for listener in ("tensorguard_broker", "tensorguard_broker_enroll"):
        assert f"{listener}_held_connections 0.0" in counted


async def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer = await asyncio.to_thread(opener.open, url, timeout=PATIENCE_S)
    return str(answer.read().decode())


async def test_killed_and_started_again_it_serves_again(home: Home) -> None:
    platform = await home.bootstrap()
    agent = platform.agent()
    first = await home.start()
    host, port = await first.address()
    os.kill(first.process.pid, signal.SIGKILL)
    await first.process.wait()
    await home.start(TG_MQTT=f"{host}:{port}")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                wire = await Wire.open((host, port), agent.client_context(platform.ca_path))
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert await wire.connect(agent.client_id) == 0


async def test_a_taken_port_is_a_clear_error(home: Home) -> None:
    await home.bootstrap()
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        broker = await home.start(TG_MQTT=f"127.0.0.1:{port}")
        assert await broker.process.wait() == 1
    said = await broker.said()
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "[listen-failed]" in said
    assert "Traceback" not in said


async def test_a_platform_that_was_never_started_is_a_clear_error(home: Home) -> None:
    LocalKeyProvider.open_or_create(home.data_dir / KEK_FILE)
    broker = await home.start()
    assert await broker.process.wait() == 1
    said = await broker.said()
    assert "[platform-not-initialised]" in said
    assert "Traceback" not in said


async def test_a_database_that_does_not_answer_is_a_clear_error(home: Home) -> None:
    with listening_socket("127.0.0.1", 0) as silent:
        port = silent.getsockname()[1]
    broker = await home.start(TG_DATABASE_URL=f"postgresql://tg_app@127.0.0.1:{port}/nothing")
    assert await broker.process.wait() == 1
    said = await broker.said()
    assert "[database-unreachable]" in said
    assert "Traceback" not in said
