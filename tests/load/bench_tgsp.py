"""Time build and open of a package beside the raw steps, all in the same run.

python tests/load/bench_tgsp.py [MiB] [rounds]

Everything is in memory-backed files. The raw steps get the same bytes, mapped, so that they pay
neither for reading nor for writing. Rounds take turns, and each step counts by its best: on a
machine with other work, and in a virtual one whose pages are touched for the first time, the rest
measures the neighbours.
"""

import hashlib
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard import tgsp

BLOCK_BYTES = 1024 * 1024
STEPS = ("build", "verify", "open")
PROMISED_RATIO = 0.5
PROMISED_PEAK_MIB = 64


def main(size_mib: int = 1024, rounds: int = 5) -> dict[str, float]:
    """Print and give MiB/s of each step, its ratio to the slower raw one, and the peak memory."""
    folder = Path(tempfile.mkdtemp(prefix="bench-tgsp-", dir=_memory_backed()))
    try:
        figures = _measure(folder, size_mib, rounds)
    finally:
        shutil.rmtree(folder)
    slower = min(figures["raw_aead"], figures["raw_sha256"])
    for step in STEPS:
        figures[f"{step}_ratio"] = figures[step] / slower
    _report(figures, size_mib, rounds)
    return figures


def _report(figures: dict[str, float], size_mib: int, rounds: int) -> None:
    print(f"{size_mib} MiB, best of {rounds} rounds, load now {os.getloadavg()[0]:.1f}")
    for step in ("raw_aead", "raw_sha256", *STEPS):
        ratio = figures.get(f"{step}_ratio")
        told = "" if ratio is None else f"  {ratio:.2f} of the slower raw step"
        print(f"{step:12} {figures[step]:8.0f} MiB/s{told}")
    print(f"promised     {PROMISED_RATIO} for build and open")
    for step in STEPS:
        peak = figures[f"{step}_peak_mib"]
        print(f"{step:12} {peak:8.1f} MiB above what it began with, at its peak")
    print(
        f"promised     {PROMISED_PEAK_MIB} MiB at most; overhead {figures['overhead']:.4%} of size"
    )


def _measure(folder: Path, size_mib: int, rounds: int) -> dict[str, float]:
    source, package = folder / "model.bin", folder / "model.tgsp"
    block = os.urandom(BLOCK_BYTES)
    with source.open("wb") as file:
        for _ in range(size_mib):
            file.write(block)
    steps = _list_steps(source, package, folder / "opened")
    results = {"build": package, "open": folder / "opened"}  # made anew each time
    peaks = {f"{name}_peak_mib": _peak_mib(steps[name], results.get(name)) for name in STEPS}
    best = {name: float("inf") for name in (*_RAW, *STEPS)}
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        raw = {name: (lambda step=step: step(mapped)) for name, step in _RAW.items()}
        for _ in range(rounds):
            for name, step in (raw | steps).items():
                best[name] = min(best[name], _time(step, results.get(name)))
    overhead = package.stat().st_size / source.stat().st_size - 1
    return (
        {name: size_mib / took_s for name, took_s in best.items()} | peaks | {"overhead": overhead}
    )


def _raw_aead(data: mmap.mmap) -> None:
    encryptor = Cobblestone256Encryptor(Cobblestone256Encryptor.generate_key(), b"")
    result = bytearray(2 * BLOCK_BYTES)
    with memoryview(data) as view:
        for at in range(0, len(view), BLOCK_BYTES):
            encryptor.update_into(view[at : at + BLOCK_BYTES], result)


def _raw_sha256(data: mmap.mmap) -> None:
    digest = hashlib.sha256()
    with memoryview(data) as view:
        for at in range(0, len(view), BLOCK_BYTES):
            digest.update(view[at : at + BLOCK_BYTES])


_RAW: dict[str, Callable[[mmap.mmap], None]] = {"raw_aead": _raw_aead, "raw_sha256": _raw_sha256}


def _list_steps(source: Path, package: Path, opened: Path) -> dict[str, Callable[[], object]]:
    publisher, recipient = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    publishers = [tgsp.PublisherKey(publisher.public_key())]
    now = datetime.now(UTC)
    facts = {"created": int(now.timestamp()), "not_before": int(now.timestamp()), "seq": 1}

    def build() -> object:
        public = recipient.public_key()
        names = {"name": "model", "version": "1.0.0"}
        return tgsp.build(source, package, publisher=publisher, recipient=public, **names, **facts)

    def open_package() -> object:
        unwrap = tgsp.unwrap_embedded(recipient, now)
        return tgsp.open_package(package, opened, publishers=publishers, now=now, unwrap=unwrap)

    return {
        "build": build,
        "verify": lambda: tgsp.verify(package, publishers, now),
        "open": open_package,
    }


def _time(step: Callable[[], object], result: Path | None = None) -> float:
    _remove(result)
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _peak_mib(step: Callable[[], object], result: Path | None) -> float:
    """Give by how much the resident memory grows at most while a step runs, the first time."""
    _remove(result)
    before = _status_kib("VmRSS:")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    except OSError:
        before = _status_kib("VmHWM:")
    step()
    return (_status_kib("VmHWM:") - before) / 1024


def _status_kib(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0])


def _remove(result: Path | None) -> None:
    if result is not None and result.is_dir():
        shutil.rmtree(result)
    elif result is not None:
        result.unlink(missing_ok=True)


def _memory_backed() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
