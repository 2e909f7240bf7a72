"""A whole platform in one loop, on real sockets and a real database, with a clock to turn.

Real agents run beside it in threads of their own. The servers' certificates are made before the
clock is turned, because TLS libraries look at the machine's.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from pydantic import SecretStr

from agent.core.clock import Moment
from agent.runtime.enroll import Waiting, enroll
from agent.runtime.service import AgentService
from agent.runtime.service import now as system_moment
from agent.runtime.statedir import StateDir
from api.context import ApiContext, open_context
from api.serve import serving
from api.settings import ApiSettings, ListenAddress
from broker.denyset import DenySet
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from broker.lease import Lease
from broker.nats.front import NatsFront
from hub.ingest import Ingest
from hub.mqtt_uplink import MqttUplink
from hub.outbox import Outbox
from hub.presence import PresenceSweeper
from hub.settling import Settler
from hub.upkeep import Upkeep
from hub.uplink import UplinkSource
from hub.work import Work
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.protocol.join import parse_join
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.people.passwords import hash_password
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.maintenance import maintain
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.api.clients import Api, new_slug
from tests.integration.identity.nats_parts import (
    nats_front,
    nats_uplink,
    publish_down,
    running_node,
)
from tests.integration.nats.server import RunningServer
from tests.patience import PATIENCE_S
from tests.postgres import Database

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
LONG = timedelta(days=200)
AGE = timedelta(days=60)


each_engine = pytest.mark.parametrize("engine", ["embedded", "nats"], indirect=True)


class Clock:
    """The machine's clock, and how far a test has turned it."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def moment(self) -> Moment:
        """Both clocks as an agent reads them."""
        moment = system_moment()
        return Moment(moment.system + self.offset, moment.monotonic_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A real agent in a thread."""

    directory: StateDir
    agent_id: UUID
    service: AgentService
    thread: threading.Thread

    async def stop(self) -> None:
        self.service.stop()
        await asyncio.to_thread(self.thread.join, PATIENCE_S)
        assert not self.thread.is_alive()


@dataclass
class Stack:
    """The parts of the platform, and what a test does with them."""

    database: Database
    folder: Path
    clock: Clock
    keyring: Keyring
    sessions: SessionMaker
    settings: ApiSettings
    kek: LocalKeyProvider
    context: ApiContext
    api: Api
    agents: list[Running] = field(default_factory=list)
    node: RunningServer | None = None
    front: Front | None = None
    work: Work | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    # Parts

    @asynccontextmanager
    async def running_front(self, front_id: str = "front-1") -> AsyncIterator[Front]:
        """A front with its deny set from the database; `crash` in the block is not needed."""
        denied = DenySet()
        front: Front | NatsFront
        if self.node is None:
            front = self._embedded_front(front_id, denied)
        else:
            front = nats_front(self.node, self.keyring, front_id, denied, self.clock)
        # What only one of them has is asked by tests of that engine alone.
        self.front = cast("Front", front)
        lease = Lease(self.database.app_url, front_id, denied, clock=self.clock)
        await lease.load()
        await front.start()
        stop = asyncio.Event()
        following = asyncio.create_task(lease.run(stop, address="-", apply=front.apply))
        try:
            yield self.front
        finally:
            stop.set()
            await following
            await front.shutdown()
            self.front = None

    def _embedded_front(self, front_id: str, denied: DenySet) -> Front:
        certificate = ServiceCertificate(
            self.keyring.ca,
            ServiceIdentity(self.keyring.trust_domain, "broker"),
            hosts=["127.0.0.1", "localhost"],
        )
        cas = [self.keyring.ca.certificate]
        tls = certificate.server_context(cas)
        return Front(
            FrontSetup(
                front_id=front_id,
                host="127.0.0.1",
                port=self.settings.mqtt.port,
                trust_domain=self.keyring.trust_domain,
                tls=lambda: tls,
                cas=lambda: cas,
                denied=denied,
                limits=Limits(
                    report_every=timedelta(milliseconds=50), sweep_every=timedelta(milliseconds=50)
                ),
                clock=self.clock,
            )
        )

    def _uplink_source(self) -> UplinkSource:
        certificate = ServiceCertificate(
            self.keyring.ca, ServiceIdentity(self.keyring.trust_domain, "hub"), lifetime=LONG
        )
        tls = certificate.client_context([self.keyring.ca.certificate])
        if self.node is not None:
            return nats_uplink(self.node, tls, self.sessions)
        return MqttUplink(
            host="127.0.0.1",
            port=self.settings.mqtt.port,
            client_id="hub-1",
            tls=tls,
            clock=self.clock,
            intake_limit=1000,
            downlink_limit=1000,
        )

    async def say_down(self, topic: str, payload: bytes) -> None:
        """Say something to an agent, in a hub's place."""
        if self.node is None:
            assert self.front is not None
            await self.front.router.deliver_down(topic, payload)
        else:
            await publish_down(self.node, self.keyring, topic, payload)

    def live_agents(self) -> set[str]:
        """The agents that the front holds sessions of."""
        front: Front | NatsFront | None = self.front
        if isinstance(front, NatsFront):
            return {str(one.agent.agent_id) for one in front.list_own().values()}
        assert front is not None
        return {one.client_id for one in front.registry.list_all()}

    @asynccontextmanager
    async def running_hub(self) -> AsyncIterator[Work]:
        """A hub with the loops that these tests need, connected."""
        source = self._uplink_source()
        self.work = work = Work(self.sessions, self.keyring, self.kek, self.clock)
        outbox = Outbox(
            self.sessions, source, work, database_url=self.database.app_url, clock=self.clock
        )
        await outbox.reload_configs()
        loops: list[Callable[[asyncio.Event], Any]] = [
            Ingest(source, work, batch_messages=200, flush_after_s=0.02).run,
            outbox.run,
            Settler(self.sessions, self.keyring, work.new_connections, self.clock).run,
            PresenceSweeper(self.sessions, self.clock).run,
            Upkeep(self.sessions, self.keyring, work, self.clock).run,
        ]
        stop = asyncio.Event()
        async with source, asyncio.TaskGroup() as tasks:
            for loop in loops:
                tasks.create_task(loop(stop))
            async with asyncio.timeout(PATIENCE_S):
                await source.connected.wait()
            try:
                yield work
            finally:
                stop.set()

    # Agents

    async def enroll(self, fleet: str, name: str = "device") -> tuple[StateDir, UUID]:
        """Join as a device does, over HTTPS."""
        made = await self.api.admin.post(
            f"/api/v1/fleets/{fleet}/enrollment-tokens", json={"ttl_s": 600}
        )
        assert made.status_code == 201, made.text
        directory = StateDir(self.folder / f"{name}-{next(self._numbers)}")
        join = parse_join(made.json()["join"])
        waiting = Waiting(now=self.clock)
        joined = await asyncio.to_thread(enroll, join, directory, name, waiting)
        return directory, joined.identity.agent_id

    def start(self, directory: StateDir, agent_id: UUID) -> Running:
        """Run the agent of a directory."""
        service = AgentService(directory, self.clock.moment)
        service.core._uniform = lambda: 0.01  # whatever is waited for at random: hardly
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        running = Running(directory, agent_id, service, thread)
        self.agents.append(running)
        return running

    async def turn_clock(self, by: timedelta) -> None:
        """Let time have passed, with the partitions that upkeep would have made meanwhile."""
        self.clock.offset += by
        await asyncio.to_thread(maintain, self.database.owner_url, self.clock())

    async def new_fleet(self) -> str:
        """A fleet whose agents report each second."""
        slug = new_slug()
        made = await self.api.admin.post(
            "/api/v1/fleets", json={"slug": slug, "name": slug, "heartbeat_interval_s": 1}
        )
        assert made.status_code == 201, made.text
        return slug

    async def new_agent(self, fleet: str) -> Running:
        """Enrol, start, and wait until the agent is online."""
        running = self.start(*await self.enroll(fleet))
        await self.until_presence(running.agent_id, "online")
        return running

    def renew_now(self, running: Running) -> None:
        """Let the core believe that two thirds of its certificate's life are over."""
        running.service.core._renewal._renew_at = self.clock() - timedelta(days=1)
        running.service._wake()

    # What there is

    async def agent(self, agent_id: UUID) -> dict[str, Any]:
        answer = await self.api.admin.get(f"/api/v1/agents/{agent_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        async with self.sessions() as session:
            return list((await session.execute(sa.text(statement), values)).all())

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until an async condition holds; return what it found."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not (found := await condition()):  # noqa: ASYNC110  the database tells nobody
                    await asyncio.sleep(0.03)
                return found
        raise AssertionError(what)

    async def until_presence(self, agent_id: UUID, presence: str) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            found = await self.agent(agent_id)
            return found if found["presence"] == presence else None

        found: dict[str, Any] = await self.until(reached, f"{agent_id} is not {presence}")
        return found

    async def until_superseded(self, agent_id: UUID, count: int) -> list[dict[str, Any]]:
        """Wait until so many certificates of an agent are superseded; all, the newest first."""

        async def reached() -> list[dict[str, Any]] | None:
            certificates = (await self.agent(agent_id))["certificates"]
            done = [one for one in certificates if one["superseded_at"]]
            return certificates if len(done) == count else None

        found: list[dict[str, Any]] = await self.until(reached, f"not {count} are superseded")
        return found


@asynccontextmanager
async def running_stack(
    database: Database, folder: Path, engine_name: str = "embedded"
) -> AsyncIterator[Stack]:
    """A platform without front and hub, which a test starts and ends as it likes."""
    clock = Clock()
    data = folder / "data"
    data.mkdir()
    engine = create_engine(database.app_url, service="test", pool_size=8)
    sessions = session_maker(engine)
    kek = LocalKeyProvider.open_or_create(data / KEK_FILE)
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="tensorguard.local",
            root_dir=data,
            now=clock() - AGE,
            hash_with=lambda password: hash_password(password, CHEAP),
        )
    async with sessions() as session:
        keyring = await Keyring.load(session, kek)
    closing = AsyncExitStack()
    node = await closing.enter_async_context(running_node(folder, keyring, engine_name))
    mqtt_port = free_port() if node is None else node.mqtt_port
    settings = ApiSettings(
        database_url=SecretStr(database.app_url),
        data_dir=data,
        http=ListenAddress("127.0.0.1", 0),
        device=ListenAddress("127.0.0.1", free_port()),
        mqtt=ListenAddress("127.0.0.1", mqtt_port),
        database_connections=4,
    )
    devices = folder / "devices"
    devices.mkdir()
    async with (
        closing,
        open_context(settings, clock=clock, hasher=CHEAP) as context,
        serving(context),
        Api(context) as api,
    ):
        stack = Stack(database, devices, clock, keyring, sessions, settings, kek, context, api)
        stack.node = node
        try:
            yield stack
        finally:
            for running in stack.agents:
                await running.stop()
    await engine.dispose()
