"""The kill switch among 1,000 connected agents, as the devices that are revoked see it.

python tests/load/bench_killswitch.py [revocations] [agents] [up|cluster]

`tensorguard up` with its embedded database and broker, or a cluster of three NATS nodes with a
front each, two hubs, and a balancer between the agents and the nodes. Each device holds a TLS
connection of its own; an operator revokes one after the other through the REST API. Measured is
from the request to the end of the device's connection, and to the CONNACK that refuses it when it
comes back at once. Then, with `up`, the fleet of the simulated agents is revoked as a whole.
"""

import asyncio
import contextlib
import math
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from bench_broker import packet, text

from broker.embedded import packets
from tests.integration.nats.machines import running_machines
from tests.integration.platform.conftest import operator_of
from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.running import RunningPlatform, run_json

SIMULATED = "simulated"
# So many of a fleet may be revoked by one person alone.
DEVICES_A_FLEET = 10
# Each counts as two refusals, and from 20 a second on a front leaves who was revoked hanging.
REVOCATIONS_PER_S = 8.0
LIMIT_MS = 1000.0
PATIENCE_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Seen:
    """What one device saw, in milliseconds after the operator's request."""

    disconnected_ms: float
    refused_ms: float


def main(revocations: int = 200, agents: int = 1000, where: str = "up") -> dict[str, float]:
    """Print and give every figure."""
    directory = Path(tempfile.mkdtemp(prefix="bench-kill-"))
    directory.chmod(0o711)  # as root the database is another user, who has to pass through
    measure = {"up": _measure_up, "cluster": _measure_cluster}[where]
    try:
        figures = measure(directory, revocations, agents)
    finally:
        shutil.rmtree(directory)
    for name, figure in figures.items():
        print(f"{name:44} {figure:10.2f}")
    worst = figures["revoke_to_refused_p99_ms"]
    print(f"p99 revoke -> disconnected and refused under {LIMIT_MS:g} ms: {worst < LIMIT_MS}")
    return figures


def _measure_up(directory: Path, revocations: int, agents: int) -> dict[str, float]:
    platform = RunningPlatform(directory)
    try:
        platform.start()
        operator = operator_of(platform)
        with _simulated(operator, directory, agents - revocations) as simulated:
            figures = _measure(operator, directory, revocations)
            figures |= _revoke_fleet(platform, operator, simulated)
        platform.stop()
    finally:
        platform.kill_everything()
    return figures


def _measure_cluster(directory: Path, revocations: int, agents: int) -> dict[str, float]:
    with (
        running_machines(directory) as machines,
        _simulated(machines.operator, directory, agents - revocations),
    ):
        return _measure(machines.operator, directory, revocations)


@contextlib.contextmanager
def _simulated(operator: Operator, directory: Path, agents: int) -> Iterator[int]:
    """Have so many agents online beside those that are revoked one by one."""
    operator.create_fleet(SIMULATED, heartbeat_interval_s=10)
    count = max(1, agents)
    arguments = (directory / "simulated", operator, SIMULATED, count)
    with Simulator(*arguments, interval="10s", drain="1s") as simulator:
        operator.wait_online(SIMULATED, count, within_s=300)
        yield count
        simulator.process.terminate()


def _measure(operator: Operator, directory: Path, revocations: int) -> dict[str, float]:
    devices = _enrol(operator, directory, revocations)
    seen = asyncio.run(Revoking(operator).run(devices))
    return {
        **_percentiles("revoke_to_disconnected", [one.disconnected_ms for one in seen]),
        **_percentiles("revoke_to_refused", [one.refused_ms for one in seen]),
    }


def _enrol(operator: Operator, directory: Path, count: int) -> list[Device]:
    devices = []
    for number in range(count):
        fleet = f"devices-{number // DEVICES_A_FLEET}"
        if number % DEVICES_A_FLEET == 0:
            operator.create_fleet(fleet)
        device = Device(directory / f"device-{number}")
        answer = device.enroll(operator.mint(fleet))
        assert answer.status_code == 201, answer.text
        devices.append(device)
    return devices


class Revoking:
    """All devices are connected; then each in turn is revoked, and comes back at once."""

    def __init__(self, operator: Operator) -> None:
        self._url = operator.url
        self._headers = {"Authorization": f"Bearer {operator.api_key}"}

    async def run(self, devices: list[Device]) -> list[Seen]:
        """Return what each device saw."""
        streams = [await self._connect(number, one) for number, one in enumerate(devices)]
        for reader, _ in streams:
            assert await reader.readexactly(4) == packets.connack(0)
        options = {"headers": self._headers, "trust_env": False, "timeout": PATIENCE_S}
        seen = []
        async with httpx.AsyncClient(base_url=self._url, **options) as http:  # type: ignore[arg-type] # httpx knows them
            for number, device in enumerate(devices):
                turn = asyncio.create_task(asyncio.sleep(1 / REVOCATIONS_PER_S))
                seen.append(await self._revoke(http, number, device, streams[number]))
                await turn
        return seen

    async def _revoke(
        self, http: httpx.AsyncClient, number: int, device: Device, streams: Streams
    ) -> Seen:
        began = time.perf_counter()
        watching = asyncio.create_task(self._watch(number, device, streams))
        url = f"/api/v1/agents/{device.agent_id}/revoke"
        answer = await http.post(url, json={"reason": "benchmark"})
        assert answer.status_code == 200, answer.text
        async with asyncio.timeout(PATIENCE_S):
            disconnected, refused = await watching
        return Seen((disconnected - began) * 1000, (refused - began) * 1000)

    async def _watch(self, number: int, device: Device, streams: Streams) -> tuple[float, float]:
        """When the connection ended, and when one was refused.

        Of several fronts one may not have heard yet, and ends a connection that it has let in:
        the device tries until it hears that it is refused.
        """
        reader, writer = streams
        with contextlib.suppress(OSError):  # reset: the front does not say good-bye
            assert await reader.read() == b""
        disconnected = time.perf_counter()
        writer.transport.abort()
        answer = b""
        while answer != packets.connack(5):
            again, writer = await self._connect(number, device)
            with contextlib.suppress(OSError):
                answer = await again.read(4)
            writer.transport.abort()
        return disconnected, time.perf_counter()

    async def _connect(self, number: int, device: Device) -> Streams:
        context = ssl.create_default_context(cafile=str(device.ca_path))
        context.load_cert_chain(device.certificate_path, device.key_path)
        reader, writer = await asyncio.open_connection(
            device.mqtt_host,
            device.mqtt_port,
            ssl=context,
            local_addr=(f"127.4.{number // 250}.{number % 250 + 1}", 0),
        )
        head = b"\x00\x04MQTT\x04\x02\x02\x58"
        writer.write(packet(0x10, head + text(device.agent_id)))
        return reader, writer


def _revoke_fleet(platform: RunningPlatform, operator: Operator, agents: int) -> dict[str, float]:
    """Revoke all simulated agents at once; their own back-off is the storm that follows."""
    front = platform.service("broker")
    options = ("--reason", "benchmark", "--data-dir", str(platform.data))
    done = run_json("admin", "revoke", "fleet", SIMULATED, *options)
    assert done["agents"] == agents, done
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        (receipt,) = operator.get(f"fleets/{SIMULATED}/revocations")["items"]
        if receipt["state"] == "complete" or time.monotonic() > give_up_at:
            break
    assert receipt["state"] == "complete", receipt
    return {
        f"fleet_of_{agents}_disconnected": float(receipt["disconnected"]),
        "fleet_revoked_and_denied_everywhere_ms": float(receipt["took_ms"]),
        "front_cpu_points_in_the_storm_after": _points(front, 10.0),
    }


def _points(process: psutil.Process, seconds: float) -> float:
    process.cpu_percent()
    time.sleep(seconds)
    return float(process.cpu_percent())


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 by nearest rank."""
    ranked = sorted(values)
    return {
        f"{name}_p{percent}_ms": ranked[math.ceil(len(ranked) * percent / 100) - 1]
        for percent in (50, 95, 99)
    }


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
