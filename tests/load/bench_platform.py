"""The whole platform as its users meet it: start, enrollment, deployment, kill switch.

python tests/load/bench_platform.py [agents]

`tensorguard up` with its embedded database and broker, `tensorguard simulate`, and the model in
the installed `magika`, all on this machine.
"""

import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.integration.platform.conftest import operator_of
from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.publishing import Publisher, magika_model
from tests.integration.platform.running import RunningPlatform

REVOCATIONS = 10  # more, by one actor in ten minutes, need a second person
FLEET = "bench"


def main(agents: int = 500) -> dict[str, float]:
    """Print and give seconds and milliseconds of each."""
    directory = Path(tempfile.mkdtemp(prefix="bench-up-"))
    directory.chmod(0o711)  # as root the database is another user, who has to pass through
    platform = RunningPlatform(directory)
    figures: dict[str, float] = {}
    try:
        platform.start()
        figures["first_start_s"] = platform.ready_after_s
        platform.stop()
        platform.start()
        figures["second_start_s"] = platform.ready_after_s
        figures |= _measure(platform, directory, agents)
        began = time.monotonic()
        platform.stop()
        figures["stop_s"] = time.monotonic() - began
    finally:
        platform.kill_everything()
        shutil.rmtree(directory)
    for name, figure in figures.items():
        print(f"{name:32} {figure:10.2f}")
    return figures


def _measure(platform: RunningPlatform, directory: Path, agents: int) -> dict[str, float]:
    operator = operator_of(platform)
    operator.create_fleet(FLEET)
    figures: dict[str, float] = {}
    with Simulator(directory / "simulated", operator, FLEET, agents) as simulator:
        began = time.monotonic()
        operator.wait_online(FLEET, agents, within_s=120)
        figures["simulate_to_all_online_s"] = time.monotonic() - began
        enrolled = [agent["enrolled_at"] for agent in operator.agents(FLEET)]
        figures["enrollments_per_s"] = (agents - 1) / _span_s(enrolled)
        release = Publisher(platform, operator, directory / "publisher").release(magika_model())
        began = time.monotonic()
        deployment = operator.deploy(release["id"], FLEET)
        done = operator.wait_deployed(deployment["id"], within_s=120)
        assert done["counts"] == {"succeeded": agents}, done
        figures[f"deployed_to_{agents}_agents_s"] = time.monotonic() - began
        simulator.finish()
    figures |= _revoke(operator, directory)
    memory = [_memory_mib(platform, name) for name in ("broker", "hub", "api")]
    return figures | {"memory_of_services_mib": sum(memory)}


def _revoke(operator: Operator, directory: Path) -> dict[str, float]:
    """Milliseconds from the request to the end of the connection, seen by the device."""
    seen_ms: list[float] = []
    receipt_ms: list[float] = []
    for number in range(REVOCATIONS):
        device = Device(directory / f"device-{number}")
        device.enroll(operator.mint(FLEET))
        with device.session() as session:
            began = time.monotonic()
            receipt = operator.post(f"agents/{device.agent_id}/revoke", {"reason": "benchmark"})
            session.ends.get(timeout=10)
            seen_ms.append((time.monotonic() - began) * 1000)
            receipt_ms += [float(front["took_ms"]) for front in receipt["fronts"]]
    return {
        "revoke_to_disconnected_ms": statistics.median(seen_ms),
        "revoke_to_disconnected_max_ms": max(seen_ms),
        "revoke_by_the_receipt_ms": statistics.median(receipt_ms),
    }


def _span_s(times: list[str]) -> float:
    parsed = [datetime.fromisoformat(one) for one in times]
    return (max(parsed) - min(parsed)).total_seconds()


def _memory_mib(platform: RunningPlatform, name: str) -> float:
    return float(platform.service(name).memory_info().rss) / 2**20


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
