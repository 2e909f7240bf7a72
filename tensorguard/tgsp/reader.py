"""Reading and verifying a package without opening it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import msgspec

from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp import signing
from tensorguard.tgsp.container import Sections, read_sections
from tensorguard.tgsp.errors import CiphertextMismatch, LengthMismatch, Truncated, WrongPackage
from tensorguard.tgsp.grants import Grant, decode_grants
from tensorguard.tgsp.manifest import Manifest
from tensorguard.tgsp.pipeline import BLOCK_BYTES
from tensorguard.tgsp.signing import Publishers, Signature
from tensorguard.tgsp.window import check_window, to_seconds

Progress = Callable[[int, int], None]  # bytes done, bytes in all

# What `verify` has found good, in words.
CHECKED = (
    "a known publisher has signed it, and may sign packages of this name",
    "its form: canonical, nothing unknown, nothing missing, safe paths",
    "it is valid now",
    "the encrypted payload is the one that was signed",
)
# What `verify` leaves to whoever opens the package.
UNCHECKED = (
    "it is meant for the device: fleet, tags, hardware, version of the agent",
    "its sequence number is not below one that the device has accepted",
    "a grant for the device opens: no key was used",
    "the decrypted files have the digests in the manifest: nothing was decrypted",
    "that its publisher is still trusted by the platform, and that nobody has withdrawn it",
)


@dataclass(frozen=True)
class PackageHeader:
    """All that precedes the payload; nothing of it is believed before `verify_header`.

    `manifest`, `signatures` and `grants` decode at first use and raise as their decoders do.
    """

    manifest_bytes: bytes
    sigs_bytes: bytes
    grants_bytes: bytes
    payload_offset: int
    payload_length: int

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises: NotCanonical, BadManifest."""
        return manifests.decode(self.manifest_bytes)

    @cached_property
    def signatures(self) -> tuple[Signature, ...]:
        """The entries of SIGS. Raises: BadSigs."""
        return signing.decode_signatures(self.sigs_bytes)

    @cached_property
    def grants(self) -> tuple[Grant, ...]:
        """The entries of GRANTS. Raises: BadGrants."""
        return decode_grants(self.grants_bytes)

    @cached_property
    def digest(self) -> bytes:
        """The package digest, 32 bytes."""
        return manifests.compute_digest(self.manifest_bytes)


class VerifiedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found good, by whom it is signed (kids), and what it did not check."""

    digest: bytes
    manifest: Manifest
    signers: tuple[bytes, ...]
    size_bytes: int
    header: PackageHeader
    checked: tuple[str, ...] = CHECKED
    unchecked: tuple[str, ...] = UNCHECKED


def read_header(file: BinaryIO, size: int) -> PackageHeader:
    """Read the header of a package of `size` bytes: magic, lengths within bounds and the file.

    Raises:
        BadContainer: one of its subclasses says what is wrong.
    """
    sections: Sections = read_sections(file, size)
    return PackageHeader(
        manifest_bytes=sections.manifest,
        sigs_bytes=sections.sigs,
        grants_bytes=sections.grants,
        payload_offset=sections.payload_offset,
        payload_length=sections.payload_length,
    )


def verify_header(
    header: PackageHeader, publishers: Publishers, now: datetime, *, digest: bytes | None = None
) -> tuple[bytes, ...]:
    """Verify what the header can show: signature, canonical form, schema, window, in this order.

    `digest` is the package digest that was asked for, if one was. Gives the kids of the signers.

    Raises:
        WrongPackage, SignatureError, NotCanonical, BadManifest, BadGrants, OutsideWindow
    """
    now_s = to_seconds(now)
    if digest is not None and digest != header.digest:
        raise WrongPackage(f"this is package {header.digest.hex()}, not {digest.hex()}")
    signers = signing.verify_signatures(
        header.manifest_bytes, header.signatures, publishers, now_s=now_s
    )
    manifest = header.manifest
    if manifest.payload.ciphertext_size != header.payload_length:
        raise LengthMismatch(
            f"the payload has {header.payload_length} bytes, "
            f"the manifest says {manifest.payload.ciphertext_size}"
        )
    _ = header.grants  # decodes, and so refuses a damaged list
    signing.check_allowed(manifest.name, signers)
    check_window(manifest, now_s=now_s)
    return tuple(signer.kid for signer in signers)


def verify(
    path: Path,
    publishers: Publishers,
    now: datetime,
    *,
    digest: bytes | None = None,
    progress: Progress | None = None,
) -> VerifiedPackage:
    """Verify a package without a key to open it; `unchecked` says what that leaves out.

    Raises:
        TgspError: the first refusal in the opening order; the payload's digest comes last.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return verify_file(file, size, publishers, now, digest=digest, progress=progress)


def verify_file(
    file: BinaryIO,
    size: int,
    publishers: Publishers,
    now: datetime,
    *,
    digest: bytes | None = None,
    progress: Progress | None = None,
) -> VerifiedPackage:
    """Verify a package of `size` bytes as `verify` does; the file is read once, front to end.

    Raises:
        TgspError: the first refusal in the opening order; the payload's digest comes last.
    """
    header = read_header(file, size)
    signers = verify_header(header, publishers, now, digest=digest)
    _check_ciphertext(file, header, progress)
    return VerifiedPackage(
        digest=header.digest,
        manifest=header.manifest,
        signers=signers,
        size_bytes=size,
        header=header,
    )


def _check_ciphertext(file: BinaryIO, header: PackageHeader, progress: Progress | None) -> None:
    file.seek(header.payload_offset)
    digest = hashlib.sha256()
    done, total = 0, header.payload_length
    block = memoryview(bytearray(BLOCK_BYTES))
    while done < total:
        count = file.readinto(block[: total - done])  # type: ignore[attr-defined]  # a raw file
        if not count:
            raise Truncated("the file became shorter while it was read")
        digest.update(block[:count])
        done += count
        if progress:
            progress(done, total)
    if digest.digest() != header.manifest.payload.sha256:
        raise CiphertextMismatch("the payload is not the one that the manifest was signed for")
