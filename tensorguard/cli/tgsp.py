"""`tensorguard tgsp`: make keys, build, inspect, verify and open packages."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Never

import msgspec
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.cli import tgsp_report
from tensorguard.cli.progress import progress_bar
from tensorguard.tgsp import builder, keys, opener, reader
from tensorguard.tgsp.errors import FileFailed
from tensorguard.tgsp.manifest import Manifest, Target
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.tgsp.target import SeqFloor
from tensorguard.tgsp.volatile import is_memory_backed

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make, check and open TGSP packages."
)


class AtRest(StrEnum):
    """How the opened files may lie on the device."""

    plain = "plain"
    sealed = "sealed"


class HardwareWord(StrEnum):
    """The format's words for hardware."""

    cpu = "cpu"
    cuda = "cuda"
    rocm = "rocm"
    tensorrt = "tensorrt"
    coreml = "coreml"
    npu = "npu"


class KeyKind(StrEnum):
    """What a key pair is for."""

    publisher = "publisher"
    recipient = "recipient"


def _parse_time(text: str) -> int:
    """Give seconds since 1970 UTC from a number or an ISO 8601 time (UTC unless it says)."""
    if text.isdigit():
        return int(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("neither seconds since 1970 nor an ISO 8601 time") from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .tgsp file.")]
PublisherFiles = Annotated[
    list[Path],
    typer.Option("--publisher", exists=True, dir_okay=False, help="A key to believe; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Fleets = Annotated[list[str] | None, typer.Option("--fleet", help="Repeatable; none means any.")]
Words = Annotated[list[HardwareWord] | None, typer.Option("--hardware", help="Repeatable.")]
Time = Annotated[
    int | None,
    typer.Option(parser=_parse_time, metavar="T", help="ISO 8601 or seconds since 1970 UTC."),
]


@app.command()
def keygen(
    kind: KeyKind,
    out: Annotated[Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.key and PREFIX.pub.")],
    as_json: Json = False,
) -> None:
    """Make a key pair: Ed25519 for a publisher, X25519 for a recipient."""
    with _file_errors():
        key: Ed25519PrivateKey | X25519PrivateKey = (
            Ed25519PrivateKey.generate()
            if kind is KeyKind.publisher
            else X25519PrivateKey.generate()
        )
        key_path, pub_path = keys.write_key_pair(out, key)
        kid = keys.compute_kid(key.public_key())
    _report(
        {"kind": str(kind), "kid": kid, "private": str(key_path), "public": str(pub_path)}, as_json
    )


@app.command()
def build(
    source: Annotated[Path, typer.Argument(exists=True, help="A file, or a folder of files.")],
    name: Annotated[str, typer.Option(help="What it is.")],
    version: Annotated[str, typer.Option(help="A semantic version.")],
    seq: Annotated[int, typer.Option(min=1, help="Rises with every package of this name.")],
    sign: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The publisher's private key.")
    ],
    recipient: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The platform's public key.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False)],
    fleet: Fleets = None,
    selector: Annotated[str, typer.Option(help="Which tags an agent must have.")] = "",
    hardware: Words = None,
    not_before: Time = None,
    not_after: Time = None,
    min_agent: Annotated[str, typer.Option(help="The oldest agent version.")] = "",
    at_rest: Annotated[AtRest | None, typer.Option(help="How files lie on the device.")] = None,
    provenance: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON object.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Package, sign and encrypt a file or a folder."""
    created = int(datetime.now(UTC).timestamp())
    target = Target(
        fleets=tuple(fleet or ()),
        selector=selector,
        hardware=tuple(word.value for word in hardware or ()),
    )
    with _file_errors(), progress_bar("build", quiet=as_json) as progress:
        built = builder.build(
            source,
            out,
            name=name,
            version=version,
            seq=seq,
            publisher=keys.load_publisher_private(sign),
            recipient=keys.load_recipient_public(recipient),
            created=created,
            not_before=created if not_before is None else not_before,
            not_after=not_after or 0,
            target=target,
            min_agent=min_agent,
            policy={"at_rest": str(at_rest)} if at_rest else {},
            provenance=_read_provenance(provenance),
            progress=progress,
        )
    _report(
        {
            "file": str(out),
            "digest": built.digest,
            "name": name,
            "version": version,
            "seq": seq,
            "size_bytes": built.size_bytes,
            "files": len(built.manifest.files),
        },
        as_json,
    )


@app.command()
def inspect(file: File, as_json: Json = False) -> None:
    """Show what a package says of itself. Nothing of it is verified."""
    with _file_errors(), file.open("rb") as reading:
        size_bytes = file.stat().st_size
        header = reader.read_header(reading, size_bytes)
    if not as_json:
        typer.echo(tgsp_report.describe_package(file, header, size_bytes, datetime.now(UTC)))
        return
    report = {
        "verified": False,
        "digest": header.digest,
        "size_bytes": size_bytes,
        "payload_offset": header.payload_offset,
        "at_rest": header.manifest.at_rest,
        "manifest": _describe(header.manifest),
        "signatures": [msgspec.structs.asdict(entry) for entry in header.signatures],
        "grants": [msgspec.structs.asdict(entry) for entry in header.grants],
    }
    _report(report, as_json)


@app.command()
def verify(file: File, publisher: PublisherFiles, as_json: Json = False) -> None:
    """Check signature, form, validity and ciphertext digest; needs no secret."""
    with _file_errors(), progress_bar("verify", quiet=as_json) as progress:
        package = reader.verify(
            file, _load_publishers(publisher), datetime.now(UTC), progress=progress
        )
    if not as_json:
        typer.echo(tgsp_report.describe_verified(file, package))
        return
    _report(
        {
            "verified": True,
            "digest": package.digest,
            "name": package.manifest.name,
            "version": package.manifest.version,
            "seq": package.manifest.seq,
            "size_bytes": package.size_bytes,
            "signers": list(package.signers),
            "at_rest": package.manifest.at_rest,
            "checked": list(package.checked),
            "not_checked": list(package.unchecked),
        },
        as_json,
    )


@app.command(name="open")
def open_(
    file: File,
    publisher: PublisherFiles,
    key: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The recipient's private key.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    min_seq: Annotated[int, typer.Option(min=1, help="The lowest seq to accept.")] = 1,
    fleet: Annotated[str | None, typer.Option(help="The fleet to open it in.")] = None,
    hardware: Words = None,
    agent_version: Annotated[str, typer.Option(help="To compare with min_agent.")] = "",
    volatile: Annotated[
        bool, typer.Option("--volatile", help="DIR is memory-backed: sealed packages may open.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a package and decrypt its files into DIR."""
    if volatile and sys.platform == "linux" and not is_memory_backed(out.absolute().parent):
        raise typer.BadParameter("DIR is not on a tmpfs", param_hint="--volatile")
    now = datetime.now(UTC)
    with _file_errors(), progress_bar("open", quiet=as_json) as progress:
        package = opener.open_package(
            file,
            out,
            publishers=_load_publishers(publisher),
            now=now,
            unwrap=opener.unwrap_embedded(keys.load_recipient_private(key), now),
            min_seq=SeqFloor.at_least(min_seq),
            fleet=fleet,
            hardware=[str(word) for word in hardware or ()],
            agent_version=agent_version,
            volatile=volatile,
            progress=progress,
        )
    _report(
        {
            "directory": str(out),
            "digest": package.digest,
            "name": package.manifest.name,
            "version": package.manifest.version,
            "seq": package.manifest.seq,
            "at_rest": package.manifest.at_rest,
            "files": [entry.path for entry in package.manifest.files],
        },
        as_json,
    )


def _load_publishers(paths: list[Path]) -> list[PublisherKey]:
    return [PublisherKey(keys.load_publisher_public(path)) for path in paths]


def _read_provenance(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        # The format has no floats: a fraction stays the decimal text that the file has.
        value = json.loads(path.read_bytes(), parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} is not a JSON object")
    return value


def _refuse_constant(word: str) -> Never:
    raise ValueError(f"{word} is not a number")


def _describe(manifest: Manifest) -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(manifest, builtin_types=(bytes,))
    return described


@contextmanager
def _file_errors() -> Iterator[None]:
    """Name a failed file operation as the package's errors are named."""
    try:
        yield
    except OSError as error:
        raise FileFailed(str(error)) from error


def _report(report: dict[str, Any], as_json: bool) -> None:
    shown = _with_hex(report)
    if as_json:
        typer.echo(json.dumps(shown))
        return
    for key, value in shown.items():
        typer.echo(
            f"{key:14} {value if isinstance(value, str | int) else json.dumps(value, indent=2)}"
        )


def _with_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _with_hex(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_hex(item) for item in value]
    return value
