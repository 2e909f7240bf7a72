"""Packages: files as they came, opened packages beside each other, `current` to the one."""

import os
import shutil
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import UnsetType

from agent.core.errors import FailureKind, JobFailure
from agent.core.state import Installed, SeqFloor
from agent.version import AGENT_VERSION
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import BundleExpired
from tensorguard.protocol.messages import Desired, Grant
from tensorguard.rollouts.errors import BadSelector
from tensorguard.rollouts.selector import parse_selector
from tensorguard.tgsp import errors as tgsp
from tensorguard.tgsp import opener, reader, target
from tensorguard.tgsp.manifest import Manifest
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.tgsp.window import to_seconds

HARDWARE = ("cpu",)
_POLICY = (
    tgsp.OutsideWindow,
    tgsp.WrongTarget,
    tgsp.SeqTooLow,
    tgsp.UnknownPolicy,
    tgsp.SealedAtRest,
)
_DEVICE = (tgsp.OutputError, tgsp.GrantError)


class PackageRefused(Exception):
    """A package must not, or cannot, be opened here."""

    def __init__(self, kind: FailureKind, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = JobFailure(kind, code, message)


class PackageStore:
    """`packages/<digest>.tgsp`, `packages/<digest>/`, and the symbolic link `current`.

    What is sealed at rest is opened as `<memory>/<digest>/` instead, and closed by `close`.
    """

    def __init__(self, state_dir: Path, memory: Path | None = None) -> None:
        self._root = state_dir / "packages"
        self._current = state_dir / "current"
        self._memory = memory

    def prepare(self) -> None:
        """Make the folder, and close what an agent that was killed has left open."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        if self._memory is not None:
            self.close()
            self._memory.mkdir(mode=0o700)

    def close(self) -> None:
        """Close what is sealed at rest; it takes a grant to open it again."""
        if self._memory is None:
            return
        shutil.rmtree(self._memory, ignore_errors=True)
        if self._current.is_symlink() and not self._current.exists():
            self._current.unlink(missing_ok=True)

    def file(self, digest: str) -> Path:
        """Where the package file lies."""
        return self._root / f"{digest}.tgsp"

    def directory(self, digest: str) -> Path:
        """Where its opened files lie."""
        if self._memory is not None and (self._memory / digest).is_dir():
            return self._memory / digest
        return self._root / digest

    def verify(
        self,
        desired: Desired,
        trust: TrustStore,
        now: datetime,
        *,
        fleet: str,
        floors: dict[str, SeqFloor],
    ) -> Installed:
        """Do all of the opening order that needs no key; a file that fails is removed.

        Raises: PackageRefused.
        """
        assert desired.package is not None
        path = self.file(desired.package.digest)
        try:
            package = reader.verify(
                path,
                publishers(trust, now),
                now,
                digest=bytes.fromhex(desired.package.digest),
            )
            manifest = package.manifest
            target.check_target(manifest, _opener(fleet, desired.tags))
            target.check_seq(
                manifest,
                package.digest,
                floor_of(manifest, desired, floors),
                allow_downgrade=desired.allow_downgrade,
            )
            if manifest.at_rest == "sealed" and self._memory is None:
                raise tgsp.SealedAtRest("this device has no file system in memory")
        except (tgsp.TgspError, BundleExpired, OSError) as error:
            path.unlink(missing_ok=True)
            raise refused(error) from error
        return Installed(
            name=manifest.name,
            version=manifest.version,
            digest=desired.package.digest,
            seq=manifest.seq,
            at_rest=manifest.at_rest,
        )

    def open(
        self,
        desired: Desired,
        grant: Grant,
        key: X25519PrivateKey,
        trust: TrustStore,
        now: datetime,
        *,
        fleet: str,
        floors: dict[str, SeqFloor],
    ) -> bool:
        """Decrypt into the package's directory; False where that was done before.

        The DEK exists in memory only, for as long as this takes. Raises: PackageRefused.
        """
        assert desired.package is not None
        assert grant.sealed is not None
        digest = desired.package.digest
        directory = self.directory(digest)
        try:
            with self.file(digest).open("rb") as file:
                header = reader.read_header(file, os.fstat(file.fileno()).st_size)
            if directory.is_dir() and any(directory.iterdir()):
                # It appeared under this name whole and verified; but that may be long ago, and who
                # has signed it may not be believed any more.
                known = publishers(trust, now)
                reader.verify_header(header, known, now, digest=bytes.fromhex(digest))
                return False
            if header.manifest.at_rest == "sealed" and self._memory is not None:
                directory = self._memory / digest
            opener.open_package(
                self.file(digest),
                directory,
                publishers=publishers(trust, now),
                now=now,
                unwrap=opener.unwrap_detached(grant.sealed, grant.exp or 0, key, now),
                min_seq=floor_of(header.manifest, desired, floors),
                fleet=fleet,
                matches=_judge_of(desired.tags),
                hardware=HARDWARE,
                agent_version=AGENT_VERSION,
                allow_downgrade=desired.allow_downgrade,
                digest=bytes.fromhex(digest),
                volatile=directory.parent == self._memory,
            )
        except (tgsp.TgspError, BundleExpired, OSError) as error:
            raise refused(error) from error
        return True

    def activate(self, digest: str) -> None:
        """Let `current` point to the package, atomically. Raises: PackageRefused."""
        partial = self._current.with_name("current.partial")
        try:
            partial.unlink(missing_ok=True)
            directory = self.directory(digest)
            in_memory = directory.parent == self._memory
            partial.symlink_to(directory if in_memory else Path("packages") / digest)
            partial.rename(self._current)
            descriptor = os.open(self._current.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise refused(error) from error

    def point_back(self, digest: str | None) -> None:
        """Let `current` point to what it pointed to before, or to nothing.

        Raises: PackageRefused.
        """
        if digest is None:
            self._current.unlink(missing_ok=True)
        else:
            self.activate(digest)

    def find_current(self) -> str | None:
        """Return the digest of the package that `current` points to."""
        try:
            return self._current.readlink().name
        except OSError:
            return None

    def prune(self, keep: Collection[str]) -> None:
        """Remove every package but those kept; what cannot be removed stays."""
        open_in_memory = [] if self._memory is None else self._memory.iterdir()
        for path in (*self._root.iterdir(), *open_in_memory):
            if path.name.partition(".")[0] in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def publishers(trust: TrustStore, now: datetime) -> list[PublisherKey]:
    """The publisher keys of a trust bundle, each with its window. Raises: BundleExpired."""
    return [
        PublisherKey(
            Ed25519PublicKey.from_public_bytes(one.public),
            names=one.names,
            not_before=0 if isinstance(one.not_before, UnsetType) else to_seconds(one.not_before),
            not_after=to_seconds(one.not_after),
        )
        for one in trust.publishers(now)
    ]


def floor_of(manifest: Manifest, desired: Desired, floors: dict[str, SeqFloor]) -> target.SeqFloor:
    """The higher of what this agent has run under the name and what the platform demands."""
    own = floors.get(manifest.name)
    floor = target.SeqFloor(own.seq, bytes.fromhex(own.digest)) if own else target.SeqFloor()
    demanded = target.SeqFloor.at_least(desired.min_seq)
    return demanded if demanded.seq > floor.seq else floor


def _opener(fleet: str, tags: Mapping[str, str]) -> target.Opener:
    return target.Opener(
        fleet=fleet, matches=_judge_of(tags), hardware=HARDWARE, agent_version=AGENT_VERSION
    )


def _judge_of(tags: Mapping[str, str]) -> target.Matches:
    """Judge a manifest's selector by the tags of the signed desired document."""

    def matches(selector: str) -> bool:
        try:
            return parse_selector(selector).matches(tags)
        except BadSelector:
            return False  # a target that nobody can read is nobody's

    return matches


def refused(error: Exception) -> PackageRefused:
    """What a refusal of the package library, or of the disk, means for the job."""
    if isinstance(error, OSError):
        return PackageRefused("device", "cannot-store", error.strerror or str(error))
    assert isinstance(error, tgsp.TgspError | BundleExpired)
    kind: FailureKind = "damaged"
    if isinstance(error, tgsp.SignatureError | BundleExpired):
        kind = "signature"
    elif isinstance(error, _POLICY):
        kind = "policy"
    elif isinstance(error, _DEVICE):
        kind = "device"
    return PackageRefused(kind, error.code, error.message)
