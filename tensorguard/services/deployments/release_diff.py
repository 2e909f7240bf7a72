"""What changes between two releases, by the manifests that their publishers have signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.packages import get_package
from tensorguard.services.deployments.releases import get_release
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.manifest import Manifest

_PLAIN: Final = ("name", "version", "seq", "created", "not_before", "not_after", "min_agent")


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One value of the manifest, as JSON has it; None: it is not there."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of the package; sizes in bytes."""

    path: str
    change: Literal["added", "removed", "changed"]
    before_bytes: int | None
    after_bytes: int | None


@dataclass(frozen=True, slots=True)
class ReleaseDiff:
    """Everything in which two releases differ; files that are the same are only counted."""

    fields: list[FieldChange]
    files: list[FileChange]
    unchanged_files: int


async def diff_releases(session: AsyncSession, before_id: UUID, after_id: UUID) -> ReleaseDiff:
    """Compare two releases. Raises: ReleaseNotFound."""
    before, after = await _manifest(session, before_id), await _manifest(session, after_id)
    old, new = _flatten(before), _flatten(after)
    fields = [
        FieldChange(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    old_files = {one.path: one for one in before.files}
    new_files = {one.path: one for one in after.files}
    files = []
    for path in sorted(old_files.keys() | new_files.keys()):
        one, two = old_files.get(path), new_files.get(path)
        if one is None and two is not None:
            files.append(FileChange(path, "added", None, two.size))
        elif one is not None and two is None:
            files.append(FileChange(path, "removed", one.size, None))
        elif one is not None and two is not None and one.sha256 != two.sha256:
            files.append(FileChange(path, "changed", one.size, two.size))
    same = len(old_files.keys() | new_files.keys()) - len(files)
    return ReleaseDiff(fields, files, same)


async def _manifest(session: AsyncSession, release_id: UUID) -> Manifest:
    release = await get_release(session, release_id)
    package = await get_package(session, release.package_digest)
    return manifests.decode(package.manifest)


def _flatten(manifest: Manifest) -> dict[str, Any]:
    found = {name: getattr(manifest, name) for name in _PLAIN}
    found["target.fleets"] = list(manifest.target.fleets)
    found["target.selector"] = manifest.target.selector
    found["target.hardware"] = list(manifest.target.hardware)
    found["payload.size"] = manifest.payload.size
    for part in ("policy", "provenance"):
        found |= {f"{part}.{key}": _plain(value) for key, value in getattr(manifest, part).items()}
    return found


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)
