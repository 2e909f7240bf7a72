"""Packages: verified before anybody can see them, stored once under their digest."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO, Final, cast

import sqlalchemy as sa
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.selector import parse_selector
from tensorguard.services.deployments.release_errors import (
    PackageNotFound,
    PackageSeqTaken,
    PackageUnusable,
    PackageVersionTaken,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, PackageRefused, PackageUploaded
from tensorguard.services.keys.fleet_deks import PURPOSE_DEK as PURPOSE_DEK
from tensorguard.services.keys.sealed_rows import store_secret
from tensorguard.services.trust.publisher_standing import find_objection
from tensorguard.store.hashed_file import HashedFile
from tensorguard.store.package_store import IncomingFile, PackageStore
from tensorguard.store.packages import Package, find_package
from tensorguard.store.publishers import list_unrevoked_publishers
from tensorguard.store.tables import packages
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp import reader
from tensorguard.tgsp.errors import WrongDek
from tensorguard.tgsp.grants import open_embedded_grant
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.tgsp.window import to_seconds
from tensorguard.vault.provider import KeyProvider

MAX_BIGINT: Final = 2**63 - 1
# Uploads are rare, and one after the other: no two of them can race for a name or a file.
_LOCK: Final = 7290435


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The package's row; `created` False: the same package was here before."""

    package: Package
    created: bool


@dataclass(frozen=True, slots=True)
class VerifiedUpload:
    """A file that was found good, what it is, and its DEK."""

    file: IncomingFile
    sha256: bytes
    package: reader.VerifiedPackage
    dek: bytes = field(repr=False)


async def list_signing_keys(session: AsyncSession) -> list[PublisherKey]:
    """Return the keys whose signature can make an upload believable, each with its window."""
    return [
        PublisherKey(
            Ed25519PublicKey.from_public_bytes(publisher.public),
            names=publisher.names,
            not_before=to_seconds(publisher.not_before),
            not_after=to_seconds(publisher.not_after),
        )
        for publisher in await list_unrevoked_publishers(session)
    ]


async def verify_upload(
    incoming: IncomingFile,
    publishers: Sequence[PublisherKey],
    recipient: X25519PrivateKey,
    now: datetime,
    progress: reader.Progress | None = None,
) -> VerifiedUpload:
    """Accept a package that a publisher has signed, that is whole, and that opens with our key.

    Needs no database, because hashing gigabytes must not hold a transaction open. `progress` is
    called in another thread, and ends the verification by raising.
    Raises: TgspError, BadSelector, PackageUnusable, StoreError, and what `progress` raises.
    """
    return await asyncio.to_thread(_verify, incoming, publishers, recipient, now, progress)


def hash_file(incoming: IncomingFile) -> bytes:
    """Return the SHA-256 of a file that came whole. Blocks. Raises: StoreError."""
    with incoming.open() as file:
        return HashedFile(file).digest_of_all()


async def admit_package(
    session: AsyncSession,
    kek: KeyProvider,
    store: PackageStore,
    upload: VerifiedUpload,
    *,
    by: Actor,
    now: datetime,
) -> Uploaded:
    """Make a verified and staged upload visible: final name, sealed DEK, row and event.

    The caller commits; when that fails the file stays, unknown to all, until the next upload of
    the package replaces it. After an error the caller calls `record_refusal` in a transaction
    of its own.
    Raises: PackageUnusable, PackageSeqTaken, PackageVersionTaken, VaultError, StoreError.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    digest = upload.package.digest
    existing = await find_package(session, digest)
    if existing is not None:
        return Uploaded(existing, created=False)
    signer = await _find_signer(session, upload, now)
    await _check_unique(session, upload.package.manifest)
    secret_id = await store_secret(
        session, kek, upload.dek, purpose=PURPOSE_DEK, owner=digest.hex(), now=now
    )
    key = await store.keep(upload.file, digest, upload.sha256)
    package = _row(upload, signer, key, secret_id, by, now)
    await session.execute(
        sa.insert(packages).values(
            {column.name: getattr(package, column.name) for column in packages.c}
        )
    )
    await ledger.record(
        session,
        PackageUploaded(
            by=by,
            digest=digest,
            size_bytes=package.size_bytes,
            publisher_kid=signer,
            package=package.name,
            version=package.version,
        ),
        now=now,
    )
    return Uploaded(package, created=True)


async def record_refusal(
    session: AsyncSession,
    code: str,
    *,
    size_bytes: int | None,
    sha256: bytes | None,
    by: Actor,
    now: datetime,
) -> None:
    """Write that an upload was refused, and why; what it claimed to be is not believed."""
    event = PackageRefused(
        by=by, digest=None, reason=code, size_bytes=size_bytes, file_sha256=sha256
    )
    await ledger.record(session, event, now=now)


async def get_package(session: AsyncSession, digest: bytes) -> Package:
    """Return the package with this digest. Raises: PackageNotFound."""
    package = await find_package(session, digest)
    if package is None:
        raise PackageNotFound(f"there is no package {digest.hex()}")
    return package


def _verify(
    incoming: IncomingFile,
    publishers: Sequence[PublisherKey],
    recipient: X25519PrivateKey,
    now: datetime,
    progress: reader.Progress | None,
) -> VerifiedUpload:
    with incoming.open() as file:
        hashed = HashedFile(file)
        package = reader.verify_file(
            cast(BinaryIO, hashed), incoming.size_bytes, publishers, now, progress=progress
        )
        sha256 = hashed.digest_of_all()
    if package.manifest.seq > MAX_BIGINT:
        raise PackageUnusable("the package's seq is larger than any database can hold")
    parse_selector(package.manifest.target.selector)
    dek = open_embedded_grant(
        package.header.grants,
        recipient=recipient,
        manifest_digest=package.digest,
        now_s=to_seconds(now),
    )
    # The stream begins with a commitment to its key: this one and no other opens it.
    decryptor = Cobblestone256Decryptor(dek, manifests.compute_context(package.manifest))
    with incoming.open() as file:
        file.seek(package.header.payload_offset)
        head = _read_exactly(file, manifests.STREAM_HEADER_BYTES)
    try:
        decryptor.update(head)
    except InvalidTag:
        raise WrongDek("the granted key is not the one that the payload is under") from None
    return VerifiedUpload(incoming, sha256, package, dek)


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    data = b""
    while len(data) < length and (more := file.read(length - len(data))):  # it is raw
        data += more
    return data


async def _find_signer(session: AsyncSession, upload: VerifiedUpload, now: datetime) -> str:
    """Return the publisher who answers for the package; once more, as time has passed."""
    name = upload.package.manifest.name
    for publisher in await list_unrevoked_publishers(session):
        has_signed = bytes.fromhex(publisher.kid) in upload.package.signers
        if has_signed and find_objection(publisher, name, now) is None:
            return publisher.kid
    raise PackageUnusable("the publisher was revoked or changed while the upload was verified")


async def _check_unique(session: AsyncSession, manifest: manifests.Manifest) -> None:
    query = sa.select(packages.c.seq, packages.c.version).where(
        packages.c.name == manifest.name,
        (packages.c.seq == manifest.seq) | (packages.c.version == manifest.version),
    )
    for seq, version in await session.execute(query):
        if seq == manifest.seq:
            raise PackageSeqTaken(f"{manifest.name} has another package with seq {seq}")
        raise PackageVersionTaken(f"{manifest.name} has another package {version}")


def _row(
    upload: VerifiedUpload,
    publisher_kid: str,
    store_key: str,
    dek_secret_id: str,
    by: Actor,
    now: datetime,
) -> Package:
    manifest = upload.package.manifest
    return Package(
        digest=upload.package.digest,
        name=manifest.name,
        version=manifest.version,
        seq=manifest.seq,
        publisher_kid=publisher_kid,
        manifest=upload.package.header.manifest_bytes,
        size_bytes=upload.file.size_bytes,
        file_sha256=upload.sha256,
        store_key=store_key,
        dek_secret_id=dek_secret_id,
        not_before=datetime.fromtimestamp(manifest.not_before, UTC),
        not_after=_end(manifest.not_after),
        uploaded_at=now,
        uploaded_by=by.id,
        withdrawn_at=None,
    )


def _end(seconds: int) -> datetime | None:
    """Return the end of a validity window; one beyond the year 9999 is none."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, ValueError, OSError):
        return None
