"""What 1,000 revoked agents that keep reconnecting cost the front, in points of one core's CPU.

python tests/load/bench_storm.py [seconds a storm]

All are connected when they are revoked. From then on each completes a real TLS handshake where it
is given one. They wait as our agent does or come back at once; they share one address, as behind
a NAT, or have one each. Beside them good agents stay connected, and newcomers come in.
"""

import asyncio
import os
import random
import signal
import ssl
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop
from bench_broker import FLEET, TRUST_DOMAIN, Site, cpu_seconds, packet, serving, text
from uuid6 import uuid7

from agent.core.backoff import CONNECT, REFUSED_ATTEMPT
from broker.embedded import packets
from tensorguard.pki.identity import AgentIdentity

REVOKED = 1000
GOOD = 100
NEWCOMERS = 20
LIMIT_POINTS = 10.0
# Nobody who is kept waiting for longer than a device would wait is counted as served.
PATIENCE_S = 15.0


@dataclass(frozen=True)
class Storm:
    """How the revoked behave."""

    name: str
    waits: bool
    addresses: int

    def address_of(self, number: int) -> str:
        """Where an agent comes from."""
        place = number % self.addresses
        return f"127.1.{place // 250}.{place % 250 + 1}"


STORMS = (
    Storm("our back-off, one address", waits=True, addresses=1),
    Storm("our back-off, 1,000 addresses", waits=True, addresses=REVOKED),
    Storm("at once, one address", waits=False, addresses=1),
    Storm("at once, 1,000 addresses", waits=False, addresses=REVOKED),
)


def main(seconds: float = 15.0) -> dict[str, float]:
    """Print and give the points of each storm."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-storm-") as name:
        site = Site.create(Path(name), REVOKED + GOOD)
        revoked = site.agents[:REVOKED]
        lines = "\n".join(str(identity.agent_id) for identity, _ in revoked)
        (site.directory / "revoked").write_text(lines)
        for storm in STORMS:
            # Each in a front of its own: none remembers the storm before.
            with serving("front", site.directory) as (port, pid):
                figures[storm.name] = uvloop.run(Weather(site, port, pid).blow(storm, seconds))
    worst = max(figures.values())
    print(f"worst {worst:.1f} points; under {LIMIT_POINTS:g}: {worst < LIMIT_POINTS}")
    return figures


class Weather:
    """The clients of one front."""

    def __init__(self, site: Site, port: int, pid: int) -> None:
        self._site = site
        self._port = port
        self._pid = pid
        self.tries = 0
        self.refused = 0
        self.hung_up = 0

    async def blow(self, storm: Storm, seconds: float) -> float:
        """Measure without and with the storm; print, and give the difference in points."""
        good = [await self._admitted(*one, "127.2.0.1") for one in self._site.agents[REVOKED:]]
        revoked = [
            await self._admitted(*one, storm.address_of(number))
            for number, one in enumerate(self._site.agents[:REVOKED])
        ]
        calm = await self._points(2.0)
        os.kill(self._pid, signal.SIGUSR1)
        for reader, writer in revoked:
            with suppress(OSError):
                assert await reader.read() == b""
            writer.transport.abort()
        attackers = [
            asyncio.create_task(self._keep_trying(number, storm))
            for number in range(len(self._site.agents[:REVOKED]))
        ]
        raised = await self._points(seconds) - calm
        served = await self._newcomers()
        for task in attackers:
            task.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)
        alive = sum([await _pings(*streams) for streams in good])
        print(
            f"{storm.name:30} {raised:5.1f} points  {self.tries / seconds:6.0f} tries/s"
            f"  {self.refused / seconds:5.1f} refused/s  {self.hung_up / seconds:6.1f} hung up/s"
            f"  good: {alive} of {GOOD} stayed, {served} of {NEWCOMERS} newcomers admitted",
            flush=True,
        )
        return raised

    async def _points(self, seconds: float) -> float:
        cpu_s, began = cpu_seconds(self._pid), time.perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (cpu_seconds(self._pid) - cpu_s) / (time.perf_counter() - began)

    async def _keep_trying(self, number: int, storm: Storm) -> None:
        identity, context = self._site.agents[number]
        source = storm.address_of(number)
        attempt = 0
        while True:
            wait = CONNECT.delay_s(attempt, random.random) if storm.waits else 0.0
            await asyncio.sleep(wait)
            self.tries += 1
            attempt += 1
            try:
                async with asyncio.timeout(PATIENCE_S):
                    code, writer = await self._connect(identity, context, source)
                writer.transport.abort()
                assert code == packets.connack(5)
                self.refused += 1
                attempt = max(attempt, REFUSED_ATTEMPT)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.hung_up += 1

    async def _admitted(
        self, identity: AgentIdentity, context: ssl.SSLContext, source: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = await self._open(identity, context, source)
        assert await streams[0].readexactly(4) == packets.connack(0)
        return streams

    async def _newcomers(self) -> int:
        """How many of those who are good get in during the storm, each from its own address."""
        served = 0
        for number in range(NEWCOMERS):
            identity = AgentIdentity(TRUST_DOMAIN, FLEET, uuid7())
            context = self._site.context(identity)
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PATIENCE_S):
                    code, writer = await self._connect(identity, context, f"127.3.0.{number + 1}")
                    served += code == packets.connack(0)
                    writer.transport.abort()
        return served

    async def _connect(
        self, identity: AgentIdentity, context: ssl.SSLContext, source: str
    ) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await self._open(identity, context, source)
        try:
            return await reader.readexactly(4), writer
        except BaseException:
            writer.transport.abort()
            raise

    async def _open(
        self, identity: AgentIdentity, context: ssl.SSLContext, source: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self._port,
            ssl=context,
            server_hostname="localhost",
            local_addr=(source, 0),
        )
        head = b"\x00\x04MQTT\x04\x02\x02\x58"
        writer.write(packet(0x10, head + text(identity.common_name)))
        return reader, writer


async def _pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"\xc0\x00")
    try:
        return await reader.readexactly(2) == packets.PINGRESP
    except (OSError, asyncio.IncompleteReadError):
        return False


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
