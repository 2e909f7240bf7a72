"""Opening a package: every refusal in its order, and nothing visible before the last."""

import hashlib
import os
from collections.abc import Callable, Collection
from contextlib import closing
from datetime import datetime
from io import FileIO
from pathlib import Path

import msgspec
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.errors import (
    CiphertextMismatch,
    FileMismatch,
    PayloadRefused,
    SealedAtRest,
    Truncated,
    WrongDek,
)
from tensorguard.tgsp.grants import DEK_BYTES, check_expiry, open_embedded_grant, open_grant
from tensorguard.tgsp.manifest import STREAM_HEADER_BYTES, FileEntry, Manifest
from tensorguard.tgsp.pipeline import SEALED_BLOCK_BYTES, Digest, Pipeline, running_pipeline
from tensorguard.tgsp.reader import PackageHeader, Progress, read_header, verify_header
from tensorguard.tgsp.signing import Publishers
from tensorguard.tgsp.staging import check_space, staged_directory, write_all
from tensorguard.tgsp.target import Matches, Opener, SeqFloor, check_seq, check_target
from tensorguard.tgsp.window import to_seconds

Unwrap = Callable[[PackageHeader], bytes]  # gives the 32-byte DEK


class OpenedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What was opened, by whom it is signed (kids), and where its files lie."""

    digest: bytes
    manifest: Manifest
    signers: tuple[bytes, ...]
    directory: Path


def unwrap_embedded(recipient: X25519PrivateKey, now: datetime) -> Unwrap:
    """Take the DEK from the grant that the package itself carries for this key."""

    def unwrap(header: PackageHeader) -> bytes:
        return open_embedded_grant(
            header.grants,
            recipient=recipient,
            manifest_digest=header.digest,
            now_s=to_seconds(now),
        )

    return unwrap


def unwrap_detached(sealed: bytes, exp: int, recipient: X25519PrivateKey, now: datetime) -> Unwrap:
    """Take the DEK from a grant that came apart from the package, in a signed statement."""

    def unwrap(header: PackageHeader) -> bytes:
        check_expiry(exp, now_s=to_seconds(now))
        return open_grant(sealed, recipient=recipient, manifest_digest=header.digest, exp=exp)

    return unwrap


def open_package(
    path: Path,
    out_dir: Path,
    *,
    publishers: Publishers,
    now: datetime,
    unwrap: Unwrap,
    min_seq: SeqFloor = SeqFloor(),  # noqa: B008  # frozen
    fleet: str | None = None,
    matches: Matches | None = None,
    hardware: Collection[str] = (),
    agent_version: str = "",
    allow_downgrade: bool = False,
    digest: bytes | None = None,
    volatile: bool = False,
    progress: Progress | None = None,
) -> OpenedPackage:
    """Open a package into `out_dir`, which must be new or empty; files get mode 0600.

    `digest` is the package digest that was asked for; `allow_downgrade` belongs to exactly that
    package. `volatile` says that `out_dir` is memory-backed, as the policy `sealed` demands.

    Raises:
        TgspError: the first refusal in the opening order of the format; nothing is left behind.
    """
    opener = Opener(fleet=fleet, matches=matches, hardware=hardware, agent_version=agent_version)
    with FileIO(path) as file:
        header = read_header(file, os.fstat(file.fileno()).st_size)
        signers = verify_header(header, publishers, now, digest=digest)
        manifest = header.manifest
        check_target(manifest, opener)
        check_seq(manifest, header.digest, min_seq, allow_downgrade=allow_downgrade)
        if manifest.at_rest == "sealed" and not volatile:
            raise SealedAtRest("the policy forbids these files on a disk")
        dek = unwrap(header)
        if len(dek) != DEK_BYTES:
            raise ValueError("a DEK has 32 bytes")
        check_space(out_dir, manifest.payload.size)
        with (
            staged_directory(out_dir) as partial,
            running_pipeline() as pipeline,
            closing(_Files(partial, manifest.files, pipeline)) as files,
        ):
            _decrypt(file, header, dek, files, progress)
    return OpenedPackage(
        digest=header.digest, manifest=manifest, signers=signers, directory=out_dir
    )


def _decrypt(
    file: FileIO, header: PackageHeader, dek: bytes, files: "_Files", progress: Progress | None
) -> None:
    """Decrypt the payload into files, then compare all digests."""
    file.seek(header.payload_offset)
    ciphertext = hashlib.sha256()
    decryptor = _begin_stream(file, header, dek, ciphertext)
    done, total = STREAM_HEADER_BYTES, header.payload_length
    try:
        while done < total:
            slot = files.pipeline.next_slot()
            count = file.readinto(slot.source[: min(total - done, SEALED_BLOCK_BYTES)])
            if not count:
                raise Truncated("the file became shorter while it was read")
            block = slot.source[:count]
            files.pipeline.hash_ciphertext(ciphertext, block)
            files.write(slot.result[: decryptor.update_into(block, slot.result)])
            done += count
            if progress:
                progress(done, total)
        last = decryptor.finalize()
    except InvalidTag as error:
        raise PayloadRefused(f"the payload was changed near its byte {done}") from error
    files.write(memoryview(last))
    files.pipeline.settle()
    if ciphertext.digest() != header.manifest.payload.sha256:
        raise CiphertextMismatch("the payload is not the one that the manifest was signed for")
    files.finish()


def _begin_stream(
    file: FileIO, header: PackageHeader, dek: bytes, ciphertext: Digest
) -> Cobblestone256Decryptor:
    """Read the stream's own header, which commits to the key and the context."""
    front = file.read(STREAM_HEADER_BYTES)
    ciphertext.update(memoryview(front))
    decryptor = Cobblestone256Decryptor(dek, manifests.compute_context(header.manifest))
    try:
        decryptor.update(front)
    except InvalidTag as error:
        raise WrongDek("the granted key is not the one of this payload and manifest") from error
    return decryptor


class _Files:
    """Plaintext cut into the files of a manifest, below one directory."""

    def __init__(self, root: Path, entries: tuple[FileEntry, ...], pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._root = root
        self._entries = entries
        self._digests: list[Digest] = []
        self._file: FileIO | None = None
        self._left = 0
        self._open_next()

    def write(self, plain: memoryview) -> None:
        """Write the next stretch of plaintext, whose bytes the present slot keeps."""
        while plain:
            if self._file is None:
                raise PayloadRefused("the payload holds more than the manifest's files")
            part = plain[: self._left]
            self.pipeline.hash_plaintext(self._digests[-1], part)
            write_all(self._file, part)
            plain = plain[len(part) :]
            self._left -= len(part)
            if not self._left:
                self._file.close()
                self._open_next()

    def finish(self) -> None:
        """Compare every file's digest.

        Raises:
            PayloadRefused: the plaintext ended early.
            FileMismatch: a digest differs.
        """
        if self._file is not None:
            raise PayloadRefused("the payload holds less than the manifest's files")
        for entry, digest in zip(self._entries, self._digests, strict=True):
            if digest.digest() != entry.sha256:
                raise FileMismatch(f"the file {entry.path!a} has not the manifest's digest")

    def close(self) -> None:
        """Close the file at hand, if any."""
        if self._file is not None:
            self._file.close()

    def _open_next(self) -> None:
        """Open the next file that has bytes to come; empty ones before it are made on the way."""
        self._file = None
        while self._file is None and len(self._digests) < len(self._entries):
            entry = self._entries[len(self._digests)]
            self._digests.append(hashlib.sha256())
            path = self._root / entry.path
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = FileIO(os.open(path, flags, 0o600), "w")
            if entry.size:
                self._file, self._left = file, entry.size
            else:
                file.close()
