"""A whole platform in this process: real front, hub and device listener, each on its own."""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from typer.testing import CliRunner

import api.serve
import broker.main
import hub.main
from api.settings import ApiSettings, ListenAddress
from broker.settings import BrokerSettings
from hub.settings import HubSettings
from simulators.simulation import Plan as SimulationPlan
from simulators.simulation import Simulation
from tensorguard.cli.main import ExplainedError, find_explained
from tensorguard.protocol.join import Join, parse_join
from tensorguard.services.enrollment.tokens import TokenTerms, create_token
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.fleets import create_fleet
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust_publishing import publish_next
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.patience import PATIENCE_S
from tests.postgres import Database

FLEET = "hospital-a"
TRUST_DOMAIN = "trust.example"
BY = Actor("user", "0195a1b2-0000-7000-8000-000000000001")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """The platform's database and directories, and its services as far as they run."""

    database: Database
    data_dir: Path
    sessions: SessionMaker
    kek: LocalKeyProvider
    mqtt_port: int = field(default_factory=free_port)
    device_port: int = field(default_factory=free_port)
    is_running: bool = False

    @property
    def root_keys(self) -> Path:
        return self.data_dir / "root-keys"

    @property
    def device_url(self) -> str:
        return f"https://127.0.0.1:{self.device_port}"

    @contextlib.asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator[None]:
        """Run services until the block ends; all of them unless some are named."""
        url = self.database.app_url
        mqtt, device = f"127.0.0.1:{self.mqtt_port}", ListenAddress("127.0.0.1", self.device_port)
        starts: dict[str, Callable[[asyncio.Event, Callable[[], None]], Any]] = {
            "broker": lambda stop, ready: broker.main.run(
                BrokerSettings(database_url=url, mqtt=mqtt), stop, ready
            ),
            "hub": lambda stop, ready: hub.main.run(
                HubSettings(database_url=url, data_dir=self.data_dir, mqtt=mqtt), stop, ready
            ),
            "api": lambda stop, ready: api.serve.run(
                ApiSettings(
                    database_url=SecretStr(url),
                    data_dir=self.data_dir,
                    http=ListenAddress("127.0.0.1", 0),
                    device=device,
                    mqtt=ListenAddress("127.0.0.1", self.mqtt_port),
                ),
                stop,
                ready,
            ),
        }
        wanted = names or tuple(starts)
        stops = {name: asyncio.Event() for name in wanted}
        readies = {name: asyncio.Event() for name in wanted}
        tasks = [
            asyncio.create_task(starts[name](stops[name], readies[name].set), name=name)
            for name in wanted
        ]
        self.is_running = True
        try:
            waiting = asyncio.gather(*(one.wait() for one in readies.values()))
            async with asyncio.timeout(PATIENCE_S):
                done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            yield
        finally:
            self.is_running = False
            for stop in stops.values():
                stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*tasks)

    async def join(self, uses: int = 1) -> Join:
        async with self.sessions.begin() as session:
            keyring = await Keyring.load(session, self.kek, only={"ca"})
            made = await create_token(
                session,
                keyring,
                FLEET,
                TokenTerms(ttl=timedelta(hours=1), max_uses=uses),
                device_url=self.device_url,
                by=BY,
                now=datetime.now(UTC),
            )
        return parse_join(made.join)

    async def publish(self, **changes: Any) -> int:
        """Publish the next bundle with this platform's root keys; return its version."""
        async with self.sessions.begin() as session:
            roots = load_root_directory(self.root_keys)
            now = datetime.now(UTC)
            return (await publish_next(session, roots, by=BY, now=now, **changes)).version

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        async with self.sessions() as session:
            return list((await session.execute(sa.text(statement), values)).all())

    async def until(self, statement: str, *, within_s: float = PATIENCE_S, **values: Any) -> Any:
        """The first column of a query as soon as it is true."""
        async with asyncio.timeout(within_s):
            while not (found := (await self.rows(statement, **values))[0][0]):  # noqa: ASYNC110  the database tells nobody
                await asyncio.sleep(0.05)
        return found

    async def online(self, count: int) -> None:
        statement = "SELECT count(*) = :count FROM agent_status WHERE presence = 'online'"
        await self.until(statement, count=count)

    @contextlib.asynccontextmanager
    async def agents(self, count: int, state: Path) -> AsyncIterator[Simulation]:
        """Agents with the real core, which heartbeat twice a second."""
        plan = SimulationPlan(
            agents=count, state=state, join=await self.join(count), interval_s=0.5, drain_s=2.0
        )
        simulation = Simulation(plan, say=lambda text: None)
        running = asyncio.create_task(simulation.run())
        try:
            await self.online(count)
            yield simulation
        finally:
            simulation.stop()
            await running

    async def command(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start `tensorguard …` on this platform."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TG_")}
        ours = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TG_DATABASE_URL": self.database.app_url,
            "TG_DATA_DIR": str(self.data_dir),
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tensorguard.cli", *arguments),
            env=kept | ours,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """Run a command to its end; its last JSON document, or its error.

        In this process, unless services run in it, whose logs would stand among what it prints.
        """
        if self.is_running:
            return await self._run_apart(*arguments, expect=expect)
        ours = {"TG_DATABASE_URL": self.database.app_url, "TG_DATA_DIR": str(self.data_dir)}
        said, error = await asyncio.to_thread(invoke, *arguments, "--json", environment=ours)
        assert (error is not None) is bool(expect), f"{said}{error}"
        if error is not None:
            return {"code": error.code, "message": error.message, "hint": error.hint}
        answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return answer

    async def _run_apart(self, *arguments: str, expect: int) -> dict[str, Any]:
        process = await self.command(*arguments, "--json")
        async with asyncio.timeout(60):
            said, complained = (part.decode() for part in await process.communicate())
        assert process.returncode == expect, said + complained
        text = complained if expect else said
        answer: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        return answer["error"] if expect else answer


def invoke(
    name: str, *arguments: str, environment: dict[str, str]
) -> tuple[str, ExplainedError | None]:
    """Run a subcommand in this process; what it printed, and the error of ours that ended it."""
    done = CliRunner().invoke(
        importlib.import_module(f"tensorguard.cli.{name}").app, arguments, env=environment
    )
    if done.exception is None:
        return done.stdout, None
    error = find_explained(done.exception)
    if error is None:
        raise done.exception
    return done.stdout, error


async def kill_after(process: asyncio.subprocess.Process, step: str) -> list[str]:
    """kill -9 as soon as a command says that it has done a step; return the steps it said."""
    assert process.stdout is not None
    seen = []
    async with asyncio.timeout(60):
        while line := await process.stdout.readline():
            seen.append(json.loads(line)["step"])
            if seen[-1] == step:
                process.send_signal(signal.SIGKILL)
                break
        await process.wait()
    return seen


@contextlib.asynccontextmanager
async def new_site(database: Database, data_dir: Path) -> AsyncIterator[Site]:
    """An initialised platform with one fleet; nothing runs yet."""
    async with AsyncExitStack() as stack:
        engine = create_engine(database.app_url, service="test", pool_size=4)
        stack.push_async_callback(engine.dispose)
        kek = LocalKeyProvider.open_or_create(data_dir / KEK_FILE)
        site = Site(database, data_dir, session_maker(engine), kek)
        site.root_keys.mkdir(mode=0o700)
        async with site.sessions.begin() as session:
            now = datetime.now(UTC)
            await bootstrap(
                session,
                kek=kek,
                trust_domain=TRUST_DOMAIN,
                root_dir=site.root_keys,
                now=now,
                hash_with=lambda _: "no password",
            )
            keyring = await Keyring.load(session, kek)
            await create_fleet(
                session,
                keyring,
                slug=FLEET,
                name="A",
                by=BY,
                now=now,
                heartbeat_interval_s=1,
            )
        yield site
