"""What a package says, for people: one fact a line, nothing that could move a terminal."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tensorguard.tgsp.grants import GRANT_ALG
from tensorguard.tgsp.manifest import Manifest
from tensorguard.tgsp.reader import PackageHeader, VerifiedPackage

MAX_FILES_SHOWN = 50
AT_REST = {
    "plain": "plain: opened once and kept on the device's disk; starts without the platform",
    "sealed": "sealed: encrypted on the device's disk, opened in memory with a new key grant at "
    "each start; no start without the platform",
}
Facts = list[tuple[str, str]]


def describe_package(path: Path, header: PackageHeader, size_bytes: int, now: datetime) -> str:
    """Give what a package says of itself, none of which is verified."""
    manifest = header.manifest
    facts = _describe_manifest(manifest, now)
    facts.insert(1, ("digest", header.digest.hex()))
    facts.insert(2, ("size", f"{_size(size_bytes)}, payload from byte {header.payload_offset}"))
    for entry in header.signatures:
        facts.append(("says it is by", f"{entry.kid.hex()} ({_text(entry.alg)})"))
    for grant in header.grants:
        until = f", until {_time(grant.exp)}" if grant.exp else ""
        alg = "" if grant.alg == GRANT_ALG else f" ({_text(grant.alg)})"
        facts.append(("grant for", f"{grant.kid.hex()}{alg}{until}"))
    first = f"{_text(str(path))}: a TGSP/1 package. NOTHING of this is verified:"
    how = f"  tensorguard tgsp verify {_text(str(path))} --publisher KEY.pub"
    return "\n".join([first, how, "", *_lines(facts), *_list_files(manifest)])


def describe_verified(path: Path, package: VerifiedPackage) -> str:
    """Give what was checked and found good, and what was not looked at."""
    manifest = package.manifest
    facts: Facts = [
        ("package", f"{manifest.name} {manifest.version}, seq {manifest.seq}"),
        ("digest", package.digest.hex()),
        ("size", _size(package.size_bytes)),
        *(("signed by", kid.hex()) for kid in package.signers),
        *(("checked", fact) for fact in package.checked),
        *(("NOT checked", fact) for fact in package.unchecked),
    ]
    return "\n".join([f"{_text(str(path))}: good, as far as it was checked", "", *_lines(facts)])


def _describe_manifest(manifest: Manifest, now: datetime) -> Facts:
    target = manifest.target
    return [
        ("package", f"{manifest.name} {manifest.version}, seq {manifest.seq}"),
        ("built", _time(manifest.created)),
        ("valid", _describe_window(manifest, now)),
        ("for fleets", ", ".join(map(_text, target.fleets)) or "any"),
        ("for agents", _text(target.selector) or "any"),
        ("hardware", " or ".join(target.hardware) or "any"),
        ("oldest agent", manifest.min_agent or "any"),
        ("at rest", AT_REST[manifest.at_rest]),
        *(("provenance", fact) for fact in _flatten(manifest.provenance)),
    ]


def _describe_window(manifest: Manifest, now: datetime) -> str:
    begin, end, now_s = manifest.not_before, manifest.not_after, now.timestamp()
    state = "now"
    if now_s < begin:
        state = "NOT YET"
    elif end and now_s > end:
        state = "NO LONGER"
    return f"{state} ({_time(begin)} – {_time(end) if end else 'without an end'})"


def _list_files(manifest: Manifest) -> list[str]:
    total = _size(manifest.payload.size)
    shown = manifest.files[:MAX_FILES_SHOWN]
    lines = ["", f"{len(manifest.files)} files, {total}:"]
    lines += [f"  {_size(one.size):>10}  {one.sha256.hex()}  {_text(one.path)}" for one in shown]
    if left := len(manifest.files) - len(shown):
        lines.append(f"  … and {left} more: --json names all")
    return lines


def _flatten(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        return [
            line
            for key, item in value.items()
            for line in _flatten(item, f"{name}.{key}" if name else key)
        ]
    if isinstance(value, bytes):
        value = value.hex()
    return [f"{_text(name)} = {_text(str(value))}"] if name else []


def _lines(facts: Facts) -> list[str]:
    return [f"{name:14}{value}" for name, value in facts]


def _text(text: str) -> str:
    """Give text as it is if a terminal only shows it, else escaped."""
    return text if text.isprintable() else ascii(text)


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return f"second {seconds}"


def _size(count: int) -> str:
    size, units = float(count), ["KiB", "MiB", "GiB", "TiB"]
    if count < 1024:
        return f"{count} bytes"
    while size >= 1024 and units:
        size, unit = size / 1024, units.pop(0)
    return f"{size:.1f} {unit}"
