"""The manifest: everything that a publisher's signature stands for."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from tensorguard.tgsp import cbor, versions
from tensorguard.tgsp.errors import BadManifest, NotCanonical, UnknownPayloadAlg, UnknownPolicy
from tensorguard.tgsp.paths import check_paths

MAX_PROVENANCE_BYTES = 256 * 1024
MANIFEST_TYPE = "application/vnd.tensorguard.tgsp.manifest.v1+cbor"
AT_REST = ("plain", "sealed")
PAYLOAD_ALG: Final = "cobblestone-256"

# The payload is 56 bytes of header and one 16-byte tag a chunk of 16 KiB; the last chunk is
# always shorter than that, empty if need be (c2sp.org/chunked-encryption@v1).
CHUNK_BYTES = 16 * 1024
TAG_BYTES = 16
STREAM_HEADER_BYTES = 56

_CONTEXT_LABEL = b"tensorguard.tgsp/v1 payload\0"

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Uint = Annotated[int, msgspec.Meta(ge=0)]
Hardware = Literal["cpu", "cuda", "rocm", "tensorrt", "coreml", "npu"]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which agents may open the package; empty means any. Hardware names alternatives."""

    fleets: tuple[str, ...] = ()
    selector: str = ""
    hardware: tuple[Hardware, ...] = ()


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: where its bytes lie in the plaintext, and their SHA-256."""

    path: str
    size: Uint
    offset: Uint
    sha256: Digest


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The encrypted stream: plaintext and ciphertext size in bytes, SHA-256 of the ciphertext."""

    alg: Literal["cobblestone-256"] = PAYLOAD_ALG
    size: Uint
    ciphertext_size: Uint
    sha256: Digest


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the publisher signs; times are unsigned seconds since 1970 UTC, `not_after` 0 = none."""

    v: Literal[1] = 1
    package_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    version: Annotated[str, msgspec.Meta(pattern=versions.PATTERN, max_length=versions.MAX_LENGTH)]
    seq: Annotated[int, msgspec.Meta(ge=1)]
    created: Uint
    not_before: Uint
    not_after: Uint
    target: Target
    min_agent: str
    policy: dict[str, Any]
    provenance: dict[str, Any]
    files: tuple[FileEntry, ...]
    payload: Payload

    @property
    def at_rest(self) -> Literal["plain", "sealed"]:
        """How the opened files may lie on the device: `plain` or `sealed`."""
        return "sealed" if self.policy.get("at_rest", "plain") == "sealed" else "plain"


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest as the bytes that are signed.

    Raises:
        BadManifest: the manifest breaks a rule of the format.
    """
    _check(manifest)
    return _to_cbor(_to_map(manifest))


def decode(data: bytes) -> Manifest:
    """Decode manifest bytes strictly: one form, exactly the known keys, all rules.

    Raises:
        NotCanonical: not deterministic CBOR.
        BadManifest: a key or value is not as the format asks; subclasses name paths and policy.
    """
    manifest = _convert(cbor.decode(data))
    _check(manifest)
    if cbor.encode(_to_map(manifest)) != data:
        raise BadManifest("the manifest leaves out a key of its target or payload")
    return manifest


def compute_digest(manifest_bytes: bytes) -> bytes:
    """Compute the package digest: SHA-256 over the manifest bytes."""
    return hashlib.sha256(manifest_bytes).digest()


def compute_context(manifest: Manifest) -> bytes:
    """Compute the context of the payload's encryption, which binds it to this manifest.

    It leaves out `payload` and `files`, so that it is known before the first byte is read.
    """
    rest = {
        key: value for key, value in _to_map(manifest).items() if key not in ("payload", "files")
    }
    return _CONTEXT_LABEL + manifest.package_id + hashlib.sha256(_to_cbor(rest)).digest()


def compute_ciphertext_size(plaintext_size: int) -> int:
    """Compute the payload's length in bytes from that of the plaintext."""
    chunks = plaintext_size // CHUNK_BYTES + 1
    return plaintext_size + STREAM_HEADER_BYTES + TAG_BYTES * chunks


def _to_map(manifest: Manifest) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(manifest, builtin_types=(bytes,))
    # to_builtins would turn foreign values (dates, UUIDs) of these two into text: keep them as
    # they are, so that the data model refuses them.
    return fields | {"policy": manifest.policy, "provenance": manifest.provenance}


def _to_cbor(value: object) -> bytes:
    try:
        return cbor.encode(value)
    except NotCanonical as error:
        raise BadManifest(error.message) from error


def _convert(value: object) -> Manifest:
    if reason := cbor.find_foreign(value):
        raise BadManifest(f"the manifest holds what the format does not have: {reason}")
    payload = value.get("payload") if isinstance(value, Mapping) else None
    alg = payload.get("alg") if isinstance(payload, Mapping) else None
    if isinstance(alg, str) and alg != PAYLOAD_ALG:
        raise UnknownPayloadAlg(f"the payload is encrypted by {alg[:64]!a}")
    try:
        return msgspec.convert(value, Manifest, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise BadManifest(f"the manifest is not as the format asks: {error}") from error


def _check(manifest: Manifest) -> None:
    _convert(_to_map(manifest))
    if manifest.not_after and manifest.not_after < manifest.not_before:
        raise BadManifest("the validity window ends before it begins")
    if manifest.min_agent and not versions.is_version(manifest.min_agent):
        raise BadManifest("min_agent is neither empty nor a semantic version")
    _check_policy(manifest.policy)
    if len(_to_cbor(manifest.provenance)) > MAX_PROVENANCE_BYTES:
        raise BadManifest(f"the provenance is larger than {MAX_PROVENANCE_BYTES} bytes")
    _check_files(manifest)


def _check_policy(policy: Mapping[str, object]) -> None:
    if unknown := policy.keys() - {"at_rest"}:
        raise UnknownPolicy(f"the policy {min(unknown)!a} is not known")
    if policy.get("at_rest", "plain") not in AT_REST:
        raise UnknownPolicy("the policy at_rest is neither 'plain' nor 'sealed'")


def _check_files(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    check_paths(paths)
    if paths != sorted(paths):
        raise BadManifest("the files are not sorted by path")
    offset = 0
    for entry in manifest.files:
        if entry.offset != offset:
            raise BadManifest(f"the file {entry.path!a} does not follow the one before it")
        offset += entry.size
    if manifest.payload.size != offset:
        raise BadManifest("the payload's size is not the sum of the files")
    if manifest.payload.ciphertext_size != compute_ciphertext_size(offset):
        raise BadManifest("the ciphertext's size does not follow from the payload's size")
