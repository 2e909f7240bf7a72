"""Building a package from a file or a folder, in one pass."""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.container import encode_header
from tensorguard.tgsp.errors import SourceChanged, SourceError, TooManyFiles
from tensorguard.tgsp.grants import GRANT_ALG, SEALED_BYTES, Grant, encode_grants, seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.manifest import FileEntry, Manifest, Payload, Target
from tensorguard.tgsp.pipeline import BLOCK_BYTES, Digest, Pipeline, running_pipeline
from tensorguard.tgsp.signing import SIGNATURE_ALG, Signature, encode_signatures, sign
from tensorguard.tgsp.staging import check_space, staged_file, write_all

# A manifest of 1 MiB has room for fewer: each takes 34 bytes of digest, its path, and four keys.
MAX_FILES = 16_384
_UNKNOWN = bytes(32)  # stands for a digest until it is known


class BuiltPackage(msgspec.Struct, frozen=True):
    """What was built: the package digest, the manifest, and the file's size."""

    digest: bytes
    manifest: Manifest
    size_bytes: int


class _Source(msgspec.Struct, frozen=True):
    location: Path
    path: str
    size: int


def build(
    source: Path,
    out: Path,
    *,
    name: str,
    version: str,
    seq: int,
    publisher: Ed25519PrivateKey,
    recipient: X25519PublicKey,
    created: int,
    not_before: int,
    not_after: int = 0,
    target: Target = Target(),  # noqa: B008  # frozen
    min_agent: str = "",
    policy: Mapping[str, str] = {},
    provenance: Mapping[str, Any] = {},
    progress: Callable[[int, int], None] | None = None,
) -> BuiltPackage:
    """Package a file or a folder, sign it, and seal its DEK to one recipient.

    Times in seconds since 1970 UTC. `out` appears when all of it is on disk, and replaces what
    was there. The memory used does not depend on the size.

    Raises:
        SourceError: not a regular file or a folder of such, or changed while it was read.
        BadManifest: what was given breaks a rule of the format.
        SectionTooLarge: too many files for one manifest; `TooManyFiles` where that shows early.
        OutputError: no space, or `out` is a folder.
    """
    sources = _list_sources(source, out)
    draft = Manifest(
        package_id=secrets.token_bytes(16),
        name=name,
        version=version,
        seq=seq,
        created=created,
        not_before=not_before,
        not_after=not_after,
        target=target,
        min_agent=min_agent,
        policy=dict(policy),
        provenance=dict(provenance),
        files=_lay_out(sources),
        payload=_draft_payload(sum(source.size for source in sources)),
    )
    dek = Cobblestone256Encryptor.generate_key()
    # Only digests, a signature and a sealed key are still unknown, all of fixed length: the
    # header's place is left free, and the payload is written once, where it stays.
    header_length = len(_encode_draft_header(draft, publisher, recipient))
    check_space(out, header_length + draft.payload.ciphertext_size)
    with staged_file(out) as file:
        file.seek(header_length)
        with running_pipeline() as pipeline:
            encryption = _Encryption(file, pipeline, dek, draft, progress)
            digests = [encryption.add(source) for source in sources]
            manifest = encryption.finish(digests)
        header = _encode_header(manifest, publisher, recipient, dek)
        assert len(header) == header_length
        file.seek(0)
        write_all(file, memoryview(header))
    return BuiltPackage(
        digest=manifests.compute_digest(manifests.encode(manifest)),
        manifest=manifest,
        size_bytes=header_length + manifest.payload.ciphertext_size,
    )


class _Encryption:
    """The payload as it grows in the file."""

    def __init__(
        self,
        file: FileIO,
        pipeline: Pipeline,
        dek: bytes,
        draft: Manifest,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._file = file
        self._pipeline = pipeline
        self._encryptor = Cobblestone256Encryptor(dek, manifests.compute_context(draft))
        self._draft = draft
        self._progress = progress
        self._ciphertext = hashlib.sha256()
        self._done = 0

    def add(self, source: _Source) -> Digest:
        """Encrypt one source; its digest is complete after `finish`."""
        digest = hashlib.sha256()
        left = source.size
        with _open_source(source) as reader:
            while left:
                slot = self._pipeline.next_slot()
                count = reader.readinto(slot.source[: min(left, BLOCK_BYTES)])
                if not count:
                    raise SourceChanged(f"{source.location} became shorter while it was read")
                plain = slot.source[:count]
                self._pipeline.hash_plaintext(digest, plain)
                written = self._encryptor.update_into(plain, slot.result)
                cipher = slot.result[:written]
                self._pipeline.hash_ciphertext(self._ciphertext, cipher)
                write_all(self._file, cipher)
                left -= count
                self._done += count
                if self._progress:
                    self._progress(self._done, self._draft.payload.size)
            if reader.read(1):
                raise SourceChanged(f"{source.location} became longer while it was read")
        return digest

    def finish(self, digests: list[Digest]) -> Manifest:
        """Write the last chunk and give the manifest with all digests."""
        last = self._encryptor.finalize()
        write_all(self._file, memoryview(last))
        self._pipeline.settle()
        self._ciphertext.update(last)
        files = tuple(
            msgspec.structs.replace(entry, sha256=digest.digest())
            for entry, digest in zip(self._draft.files, digests, strict=True)
        )
        payload = msgspec.structs.replace(self._draft.payload, sha256=self._ciphertext.digest())
        return msgspec.structs.replace(self._draft, files=files, payload=payload)


def _encode_draft_header(
    draft: Manifest, publisher: Ed25519PrivateKey, recipient: X25519PublicKey
) -> bytes:
    """Encode a header of the final length; its signature and grant are zeros."""
    kid = compute_kid(publisher.public_key())
    signature = Signature(kid=kid, alg=SIGNATURE_ALG, sig=bytes(64))
    return _join(draft, manifests.encode(draft), signature, recipient, bytes(SEALED_BYTES))


def _encode_header(
    manifest: Manifest, publisher: Ed25519PrivateKey, recipient: X25519PublicKey, dek: bytes
) -> bytes:
    manifest_bytes = manifests.encode(manifest)
    digest = manifests.compute_digest(manifest_bytes)
    sealed = seal_grant(dek, recipient=recipient, manifest_digest=digest, exp=0)
    return _join(manifest, manifest_bytes, sign(manifest_bytes, publisher), recipient, sealed)


def _join(
    manifest: Manifest,
    manifest_bytes: bytes,
    signature: Signature,
    recipient: X25519PublicKey,
    sealed: bytes,
) -> bytes:
    grant = Grant(kid=compute_kid(recipient), alg=GRANT_ALG, exp=0, sealed=sealed)
    return encode_header(
        manifest_bytes,
        encode_signatures([signature]),
        encode_grants([grant]),
        payload_length=manifest.payload.ciphertext_size,
    )


def _draft_payload(size: int) -> Payload:
    return Payload(
        size=size, ciphertext_size=manifests.compute_ciphertext_size(size), sha256=_UNKNOWN
    )


def _lay_out(sources: list[_Source]) -> tuple[FileEntry, ...]:
    entries: list[FileEntry] = []
    offset = 0
    for source in sources:
        entries.append(
            FileEntry(path=source.path, size=source.size, offset=offset, sha256=_UNKNOWN)
        )
        offset += source.size
    return tuple(entries)


def _list_sources(source: Path, out: Path) -> list[_Source]:
    if not source.is_dir():
        return [_describe(source, source.name)]
    if out.resolve().is_relative_to(source.resolve()):
        raise SourceError(f"the package {out} would lie inside its own source {source}")
    found: list[_Source] = []
    folders = [source]
    while folders:
        # One entry at a time: a folder may have more of them than memory can hold.
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                location = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(location)
                else:
                    found.append(_describe(location, location.relative_to(source).as_posix()))
                if len(found) + len(folders) > MAX_FILES:
                    raise TooManyFiles(f"{source} has more than {MAX_FILES} files and folders")
    if not found:
        raise SourceError(f"{source} holds no file")
    return sorted(found, key=lambda item: item.path)


def _describe(location: Path, path: str) -> _Source:
    facts = location.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise SourceError(f"{location} is a symbolic link")
    if not stat.S_ISREG(facts.st_mode):
        raise SourceError(f"{location} is not a regular file")
    return _Source(location, path, facts.st_size)


def _open_source(source: _Source) -> FileIO:
    try:
        descriptor = os.open(source.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR):
            raise SourceChanged(f"{source.location} is no regular file any more") from error
        raise
    file = FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise SourceChanged(f"{source.location} is no regular file any more")
    return file
