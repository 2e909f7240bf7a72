"""Every benchmark, one after the other, each within its time: what `make bench` runs.

python tests/load/bench.py [name …]
"""

import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TIDY_WITHIN_S = 20.0


@dataclass(frozen=True)
class Benchmark:
    """One script, how it is called, and how long it may take."""

    name: str
    title: str
    within_s: float
    arguments: tuple[str, ...] = ()


BENCHMARKS = (
    Benchmark("heartbeats", "Committed heartbeats a second, every row another agent", 70),
    Benchmark("nats", "Committed heartbeats a second from NATS, with one hub and two", 120),
    Benchmark("callouts", "TLS connects/s to NATS with our responder, beside static users", 90),
    Benchmark("broker", "Embedded front beside bare amqtt", 100),
    Benchmark("enrollment", "Enrollments by the HTTPS listener", 90),
    Benchmark("simulators", "What a simulated agent costs", 35),
    Benchmark("platform", "The whole platform: start, enrollment, deployment, kill switch", 150),
    Benchmark("killswitch", "The kill switch, 200 times with 1,000 connected agents", 240),
    Benchmark(
        "killswitch",
        "The kill switch, 200 times with 2,000 agents on three NATS nodes",
        300,
        ("200", "2000", "cluster"),
    ),
    Benchmark("storm", "1,000 revoked agents that keep reconnecting", 200),
    Benchmark("fleet", "A fleet of 10,000 agents revoked at once", 60),
    Benchmark("history", "Heartbeats as history: written, rolled up, read", 120, ("8", "20")),
    Benchmark("rollouts", "100,000 agents in one deployment: documents, and a gate's tick", 180),
    Benchmark("ledger", "The ledger: entries signed, proven, exported and verified", 240),
    Benchmark("vault", "Grants with a warm DEK, and calls to the KMS", 60),
    Benchmark("tgsp", "Building and opening packages of 1 GiB", 90, ("1024", "3")),
)


def describe_machine() -> str:
    """Return what the figures were measured on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("amqtt", "cryptography"))
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {versions}"
        f"\nload before: {load:.1f}" + ("  (the machine is busy)" if load > 0.5 else "")
    )


def run(benchmark: Benchmark) -> bool:
    """Run one in a process of its own, print what it prints; false when it failed or was late."""
    print(f"\n## {benchmark.title}\n", flush=True)
    script = Path(__file__).with_name(f"bench_{benchmark.name}.py")
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(script), *benchmark.arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        status = process.wait(benchmark.within_s)
    except subprocess.TimeoutExpired:
        _interrupt(process)
        print(f"NOT MEASURED: it took more than {benchmark.within_s:g} s")
        return False
    print(f"({time.monotonic() - began:.0f} s)")
    if status != 0:
        print(f"NOT MEASURED: it ended with status {status}")
    return status == 0


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """End it as Ctrl-C does, so that it ends what it has started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(TIDY_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; 1 when one of them has no figures."""
    known = dict.fromkeys(benchmark.name for benchmark in BENCHMARKS)
    if unknown := [name for name in names if name not in known]:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    print(f"# Benchmarks\n\n{describe_machine()}")
    good = [run(one) for one in BENCHMARKS if not names or one.name in names]
    return 0 if all(good) else 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
