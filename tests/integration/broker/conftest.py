"""A front on a free port, and the clients that try it."""

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import uvloop

from broker.denyset import DenySet
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.session import End
from tests.integration.broker.certificates import (
    TRUST_DOMAIN,
    AgentCredentials,
    Credentials,
    Platform,
)
from tests.integration.broker.clock import Clock
from tests.integration.broker.wire import Wire
from tests.integration.sites import FRONT_ID, REPORTS, Heard, Report
from tests.patience import PATIENCE_S

# Reports at once, so that no test waits for a second.
_LIMITS = Limits(report_every=timedelta(milliseconds=20), sweep_every=timedelta(milliseconds=20))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("platform"))


@dataclass
class Site:
    """A running front and whom it may hear."""

    engine: ClassVar[str] = "embedded"

    platform: Platform
    front: Front
    metrics: FrontMetrics
    clock: Clock
    opened: list[Wire] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return self.front.address

    @property
    def agents(self) -> int:
        """Live agents."""
        return self.front.registry.agents

    def refused(self, code: int) -> int:
        """The code of CONNACK by which this engine refuses: any that MQTT has."""
        return code

    def said(self, end: End) -> End:
        """The reason by which this engine calls an end: its own."""
        return end

    def context(self, credentials: Credentials) -> ssl.SSLContext:
        return credentials.client_context(self.platform.ca_path)

    async def open(self, credentials: Credentials) -> Wire:
        """A connection that has said nothing yet."""
        wire = await Wire.open(self.address, self.context(credentials))
        self.opened.append(wire)
        return wire

    async def agent(self, credentials: AgentCredentials, **asked: object) -> Wire:
        """An admitted agent that has subscribed to what it may."""
        wire = await self.open(credentials)
        assert await wire.connect(credentials.client_id, **asked) == 0
        own, everybody = f"{credentials.down('#')}", f"tg/v1/{credentials.fleet}/all/down/#"
        assert await wire.subscribe(own, everybody) == [0, 0]
        return wire

    async def hub(self, client_id: str = "hub-1") -> "Hub":
        """An admitted hub that has subscribed."""
        wire = await self.open(self.platform.hub)
        assert await wire.connect(client_id) == 0
        assert await wire.subscribe("tg/v1/+/+/up/+", qos=1) == [1]
        return Hub(wire)

    def counted(self, name: str, **labels: str) -> float:
        """The value of one of the front's metrics."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that the front does on its own."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110  the front offers no event to wait for
                    await asyncio.sleep(0.01)
        assert condition(), what

    async def retained(self) -> int:
        """Messages that are kept for later subscribers: there is no place for any."""
        return 0

    async def present(self, number: int) -> None:
        """Wait until so many agents are live."""
        await self.until(lambda: self.agents == number, f"{number} agents are live")


@dataclass
class Hub:
    """What a hub hears, in order; reports of the front apart from the agents' messages."""

    wire: Wire
    aside: list[Heard] = field(default_factory=list)

    async def hear(self) -> Heard:
        """The next message of an agent."""
        while True:
            heard = await self._next()
            if "/_front/" not in heard.topic:
                return heard
            self.aside.append(heard)

    async def report(self, kind: str) -> Report:
        """The next report of this kind; others are skipped."""
        while True:
            heard = self.aside.pop(0) if self.aside else await self._next()
            if heard.topic == f"tg/v1/_front/{FRONT_ID}/up/{kind}":
                return msgspec.json.decode(heard.payload, type=REPORTS[kind])

    async def quiet(self, credentials: AgentCredentials, sentinel: Wire) -> list[str]:
        """Topics of all messages before a sentinel that this agent now publishes."""
        await sentinel.publish(credentials.up("event"), b"sentinel", qos=0)
        topics = []
        while (heard := await self.hear()).payload != b"sentinel":
            topics.append(heard.topic)
        return topics

    async def publish(self, topic: str, payload: bytes) -> None:
        """Say something to agents."""
        await self.wire.publish(topic, payload, qos=0)

    async def leave(self) -> None:
        """Go without a word."""
        self.wire.abort()

    async def _next(self) -> Heard:
        heard = await self.wire.hear_publish()
        return Heard(heard.topic, heard.payload)


OpenSite = Callable[..., contextlib.AbstractAsyncContextManager[Site]]


@contextlib.asynccontextmanager
async def embedded_site(
    platform: Platform,
    *,
    denied: DenySet | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    **limits: object,
) -> AsyncIterator[Site]:
    """Start a front with other limits or another deny set."""
    cas = [platform.authority.certificate]
    context = platform.server_certificate.server_context(cas)
    clock, metrics = Clock(), FrontMetrics()
    setup = FrontSetup(
        front_id=FRONT_ID,
        host=host,
        port=port,
        trust_domain=TRUST_DOMAIN,
        tls=lambda: context,
        cas=lambda: cas,
        denied=denied or DenySet(stale_after=None),
        limits=replace(_LIMITS, **limits),  # type: ignore[arg-type] # the test names real ones
        metrics=metrics,
        clock=clock,
    )
    front = Front(setup)
    await front.start()
    site = Site(platform, front, metrics, clock)
    try:
        yield site
    finally:
        for wire in site.opened:
            wire.abort()
        await front.shutdown()


@pytest.fixture
def open_site(platform: Platform) -> OpenSite:
    """Start a front with other limits or another deny set."""
    return partial(embedded_site, platform)


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    """A running front with the default limits."""
    async with open_site() as running:
        yield running


async def run_program(
    *command: str | Path, stdin: bytes = b"", timeout_s: float = PATIENCE_S
) -> str:
    """Run a foreign client to its end; return its exit code and everything it said."""
    if shutil.which(str(command[0])) is None:
        missing = f"{command[0]} is not installed (Debian: openssl, mosquitto-clients)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(f"NOT RUN: {missing}")
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        # With nothing to say there is no pipe, so that nothing fails where the program ends first.
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate(stdin or None)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return f"exit {process.returncode}\n{said.decode(errors='replace')}"
