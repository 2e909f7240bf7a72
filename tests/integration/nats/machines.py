"""A platform of many machines, on this one: nodes with a front each, hubs, an api, PostgreSQL.

Every part is a process of its own that can be killed and started again.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.nats.keys import CalloutKeys
from tensorguard.cli.first_start import ensure_platform
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.migrate import upgrade
from tests.integration.platform.conftest import operator_of
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import clean_environment, command, free_ports
from tests.integration.platform.waiting import wait_until

LOCAL = "127.0.0.1"
_READY = {
    "nats": "nats_server_ready",
    "front": "front_started",
    "hub": "hub_ready",
    "api": "api_ready",
}


class Service:
    """One process with its log; `start` returns when it has said that it serves."""

    def __init__(self, name: str, arguments: tuple[str, ...], settings: dict[str, str], log: Path):
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environment = clean_environment() | settings
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        self._starts = len(self.records(self._event))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command(*self._arguments),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, within_s: float = 120.0) -> None:
        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.tail()
            return len(self.records(self._event)) > self._starts

        wait_until(ready, f"{self.name} is ready", within_s=within_s)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def kill(self) -> None:
        """kill -9, of the keeper's server too."""
        assert self._process is not None
        for record in self.records("nats_server_ready")[-1:]:
            with _gone():
                _kill(int(record["pid"]))
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def _event(self) -> str:
        return _READY[self.name.partition("-")[0]]

    def records(self, event: str) -> list[dict[str, Any]]:
        """What it has logged of this kind."""
        if not self.log.exists():
            return []
        needle = f'"event": "{event}"'
        lines = [
            line for line in self.log.read_text(errors="replace").splitlines() if needle in line
        ]
        return [json.loads(line) for line in lines]

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


class Balancer:
    """One address for the agents; each connection goes to a node that takes it."""

    def __init__(self, port: int, targets: list[int]) -> None:
        self._port = port
        self._targets = targets
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        opening = asyncio.start_server(self._carry, LOCAL, self._port, backlog=4096)
        asyncio.run_coroutine_threadsafe(opening, self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for target in random.sample(self._targets, len(self._targets)):
            try:
                there, onwards = await asyncio.open_connection(LOCAL, target)
                break
            except OSError:
                continue
        else:
            writer.transport.abort()
            return
        pumps = [_pump(reader, onwards), _pump(there, writer)]
        await asyncio.wait(
            [asyncio.ensure_future(one) for one in pumps], return_when=asyncio.FIRST_COMPLETED
        )
        for one in (writer, onwards):
            one.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(16384):
            sink.write(data)
            await sink.drain()
    except OSError:
        return


@dataclass
class Machines:
    """The running platform; services by name: `nats-1`, `front-1`, `hub-1`, `api`."""

    data: Path
    postgres: EmbeddedPostgres
    services: dict[str, Service]
    url: str
    operator: Operator = field(init=False)

    def kill_postgres(self) -> None:
        """kill -9; nothing starts it again but `start_postgres`."""
        assert self.postgres.pid is not None
        _kill(self.postgres.pid)

    def start_postgres(self) -> None:
        asyncio.run(_start_again(self.postgres))


async def _start_again(postgres: EmbeddedPostgres) -> None:
    await postgres.stop()
    await postgres.start()


@contextmanager
def running_machines(folder: Path, *, nodes: int = 3, hubs: int = 2) -> Iterator[Machines]:
    """Start all of it; the folder must be one that PostgreSQL's user may pass through."""
    data = folder / "data"
    data.mkdir(mode=0o711)
    keys = folder / "nats-keys.json"
    CalloutKeys.generate().store(keys)
    postgres = EmbeddedPostgres(data / "postgres")
    with ExitStack() as stack:
        asyncio.run(postgres.start())
        stack.callback(lambda: asyncio.run(postgres.stop()))
        upgrade(postgres.owner_url)
        asyncio.run(ensure_platform(postgres.app_url, data, trust_domain="chaos.example"))
        ports = free_ports(3 + 3 * nodes)
        people, device, public = ports[:3]
        listens = [ports[3 + 3 * index : 6 + 3 * index] for index in range(nodes)]
        balancer = Balancer(public, [mqtt for _, mqtt, _ in listens])
        balancer.start()
        stack.callback(balancer.stop)
        common = {
            "TG_DATABASE_URL": postgres.app_url,
            "TG_DATA_DIR": str(data),
            "TG_TRUST_DOMAIN": "chaos.example",
            "TG_PUBLIC_HOST": f"{LOCAL},localhost",
            "TG_HTTP": f"{LOCAL}:{people}",
            "TG_DEVICE": f"{LOCAL}:{device}",
            "TG_MQTT": f"{LOCAL}:{public}",
            "TG_BROKER_ENGINE": "nats",
            "TG_NATS_KEYS": str(keys),
            "TG_NATS_REPLICAS": str(min(3, nodes)),
            "TG_NATS_URL": ",".join(f"tls://localhost:{port}" for port, _, _ in listens),
        }
        services = _services(folder, common, listens, hubs)
        for service in services.values():
            stack.callback(service.stop)
            service.launch()
        for service in services.values():
            service.wait_ready()
        machines = Machines(data, postgres, services, f"http://{LOCAL}:{people}")
        machines.operator = operator_of(_Reachable(data, machines.url))  # type: ignore[arg-type]  # all that it looks at
        yield machines


@dataclass(frozen=True)
class _Reachable:
    data: Path
    url: str


def _services(
    folder: Path, common: dict[str, str], listens: list[list[int]], hubs: int
) -> dict[str, Service]:
    found: dict[str, Service] = {}

    def add(name: str, *arguments: str, **settings: str) -> None:
        found[name] = Service(name, arguments, common | settings, folder / f"{name}.log")

    routes = ",".join(f"localhost:{route}" for _, _, route in listens)
    add("api", "api", "run")
    for number, (port, mqtt, route) in enumerate(listens, 1):
        home = folder / f"node-{number}"
        add(
            *(f"nats-{number}", "broker", "nats-server"),
            TG_NATS_NODE=f"node-{number}",
            TG_NATS_DATA=str(home),
            TG_NATS_LISTEN=f"{LOCAL}:{port}",
            TG_MQTT=f"{LOCAL}:{mqtt}",
            TG_NATS_CLUSTER_LISTEN=f"{LOCAL}:{route}",
            TG_NATS_ROUTES=routes,
        )
        add(
            *(f"front-{number}", "broker", "run"),
            TG_BROKER_FRONT_ID=f"front-{number}",
            TG_NATS_URL=f"tls://localhost:{port}",
            TG_NATS_LOG=str(home / "nats.log"),
        )
    for number in range(1, hubs + 1):
        add(f"hub-{number}", "hub", "run")
    return found


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
