"""Answers about packages."""

from datetime import UTC, datetime
from typing import Any

from api.views import View
from tensorguard.store.packages import Package
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.manifest import Manifest
from tensorguard.tgsp.reader import UNCHECKED

# What an upload goes through before it is there.
CHECKED = (
    "it is signed by a registered publisher who may sign this name",
    "container and manifest are well formed",
    "it was valid on the day of its upload",
    "the encrypted payload has the digest that was signed",
    "the platform's grant opens, and holds the key of the payload",
)


class PackageView(View):
    """An uploaded package; `digest` is its address."""

    digest: str
    name: str
    version: str
    seq: int
    publisher_kid: str
    size_bytes: int
    file_sha256: str
    not_before: datetime
    not_after: datetime | None
    uploaded_at: datetime
    uploaded_by: str
    withdrawn_at: datetime | None


class TargetView(View):
    """Whom the publisher made the package for; empty means any."""

    fleets: list[str]
    selector: str
    hardware: list[str]
    min_agent: str


class FileView(View):
    """One of the files in the package."""

    path: str
    size_bytes: int
    sha256: str


class VerificationView(View):
    """What the platform has verified, and what it leaves to the agents."""

    verified_at: datetime
    publisher_kid: str
    checked: list[str]
    unchecked: list[str]


class PackageDetail(PackageView):
    """A package with what its manifest says."""

    built_at: datetime | None
    target: TargetView
    at_rest: str
    provenance: dict[str, Any]
    files: list[FileView]
    plaintext_bytes: int
    verification: VerificationView


def package_view(package: Package) -> PackageView:
    """Return a package as a list shows it."""
    return PackageView(**_columns(package))


def package_detail(package: Package) -> PackageDetail:
    """Return a package with the contents of its manifest."""
    manifest = manifests.decode(package.manifest)
    return PackageDetail(
        **_columns(package),
        built_at=_time(manifest.created),
        target=_target(manifest),
        at_rest=manifest.at_rest,
        provenance={key: _plain(value) for key, value in manifest.provenance.items()},
        files=[
            FileView(path=one.path, size_bytes=one.size, sha256=one.sha256.hex())
            for one in manifest.files
        ],
        plaintext_bytes=manifest.payload.size,
        verification=VerificationView(
            verified_at=package.uploaded_at,
            publisher_kid=package.publisher_kid,
            checked=list(CHECKED),
            unchecked=list(UNCHECKED),
        ),
    )


def _columns(package: Package) -> dict[str, Any]:
    found = {name: getattr(package, name) for name in PackageView.model_fields}
    return found | {"digest": package.digest.hex(), "file_sha256": package.file_sha256.hex()}


def _target(manifest: Manifest) -> TargetView:
    return TargetView(
        fleets=list(manifest.target.fleets),
        selector=manifest.target.selector,
        hardware=list(manifest.target.hardware),
        min_agent=manifest.min_agent,
    )


def _time(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return None


def _plain(value: Any) -> Any:
    """Return a CBOR value as JSON can hold it: bytes in hex, large integers as text."""
    match value:
        case bytes():
            return value.hex()
        case bool():
            return value
        case int():
            return value if -(2**53) < value < 2**53 else str(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case _:
            return value
