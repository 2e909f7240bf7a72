"""Signed checkpoints: C2SP tlog-checkpoint in a C2SP signed-note, Ed25519.

Sources: https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note (both v1).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tensorguard.ledger.errors import BadCheckpoint, BadVerifierKey
from tensorguard.ledger.tree import HASH_BYTES

ED25519 = b"\x01"  # signature type of C2SP signed-note
KEY_HASH_BYTES = 4
MAX_NOTE_BYTES = 16 * 1024
MAX_SIGNATURES = 16
_SIGNATURE_LINE = re.compile(r"— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/=]+)")
_VERIFIER_KEY = re.compile(r"(?P<name>[^\s+]+)\+(?P<hash>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)")
_EPOCH = re.compile(r"/ledger/([1-9][0-9]{0,14})\Z", re.ASCII)
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Signer(Protocol):
    """What signs a checkpoint; an Ed25519PrivateKey is one."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the Ed25519 signature of `data`."""
        ...

    def public_key(self) -> Ed25519PublicKey:
        """Return the key that verifies it."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A statement about the whole ledger: how many entries it has and what they hash to."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the note's text, which is what gets signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 key: `<name>+<hash>+<base64>` as text."""

    name: str
    public: Ed25519PublicKey

    @property
    def hash(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ LF ‖ 0x01 ‖ key), which find it in a note."""
        data = self.name.encode() + b"\n" + ED25519 + self.public.public_bytes_raw()
        return hashlib.sha256(data).digest()[:KEY_HASH_BYTES]

    def __str__(self) -> str:
        key = base64.b64encode(ED25519 + self.public.public_bytes_raw()).decode()
        return f"{self.name}+{self.hash.hex()}+{key}"


def ledger_origin(trust_domain: str, epoch: int = 1) -> str:
    """Return the ledger's name, which is its key's name too: `<trust-domain>/ledger/<epoch>`."""
    return f"{trust_domain}/ledger/{epoch}"


def epoch_of(origin: str) -> int:
    """Return the epoch that a ledger's name ends with. Raises: BadCheckpoint."""
    match = _EPOCH.search(origin)
    if match is None:
        raise BadCheckpoint(f"{origin[:200]!r} names no epoch of a ledger")
    return int(match[1])


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[Signer]) -> str:
    """Return the signed note; each signer's key is named like the checkpoint's origin."""
    text = checkpoint.to_text()
    lines = []
    for signer in signers:
        key = VerifierKey(checkpoint.origin, signer.public_key())
        signature = base64.b64encode(key.hash + signer.sign(text.encode())).decode()
        lines.append(f"— {key.name} {signature}\n")
    return text + "\n" + "".join(lines)


def parse_verifier_key(text: str) -> VerifierKey:
    """Return the key that `<name>+<hash>+<base64>` names.

    Raises:
        BadVerifierKey: another form, another algorithm, or the hash is not of this key.
    """
    match = _VERIFIER_KEY.fullmatch(text.strip())
    if match is None:
        raise BadVerifierKey("a verifier key is <name>+<hash>+<base64>")
    data = _decode(match["key"])
    if data is None:
        raise BadVerifierKey("the verifier key's last part is not base64")
    if len(data) != 1 + HASH_BYTES or data[:1] != ED25519:
        raise BadVerifierKey("the verifier key is not an Ed25519 key")
    key = VerifierKey(match["name"], Ed25519PublicKey.from_public_bytes(data[1:]))
    if key.hash.hex() != match["hash"]:
        raise BadVerifierKey("the verifier key's hash is not of this name and key")
    return key


def verify_checkpoint(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return what a signed note says, once a signature of one of `keys` has verified.

    Signatures of unknown keys are ignored; a wrong one of a known key refuses the note, and so
    does an origin that is not the key's name.

    Raises:
        BadCheckpoint: the note is malformed, or nothing that we believe has signed it.
    """
    text, signatures = _split_note(note)
    verified = set()
    for name, key_hash, signature in signatures:
        for key in keys:
            if key.name != name or not hmac.compare_digest(key.hash, key_hash):
                continue
            try:
                key.public.verify(signature, text.encode())
            except InvalidSignature as error:
                raise BadCheckpoint(f"the signature by {name} does not verify") from error
            verified.add(name)
    if not verified:
        raise BadCheckpoint("no known key has signed the checkpoint")
    checkpoint = _parse_text(text)
    if checkpoint.origin not in verified:
        raise BadCheckpoint(f"the key's name is not the checkpoint's origin {checkpoint.origin}")
    return checkpoint


def parse_checkpoint(note: str) -> Checkpoint:
    """Return what a signed note says without believing it: no signature is checked.

    Raises:
        BadCheckpoint: the note is malformed.
    """
    text, _signatures = _split_note(note)
    return _parse_text(text)


def _split_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    try:
        size = len(note.encode())
    except UnicodeEncodeError as error:
        raise BadCheckpoint("the checkpoint is not valid Unicode") from error
    if size > MAX_NOTE_BYTES:
        raise BadCheckpoint("the checkpoint is larger than 16 KiB")
    if any(ord(character) < 0x20 and character != "\n" for character in note):
        raise BadCheckpoint("the checkpoint holds control characters")
    text, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise BadCheckpoint("the checkpoint has no signature")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadCheckpoint("the checkpoint has too many signatures")
    return text + "\n", [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> tuple[str, bytes, bytes]:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise BadCheckpoint("a signature line is malformed")
    data = _decode(match["signature"])
    if data is None:
        raise BadCheckpoint("a signature is not base64")
    if len(data) <= KEY_HASH_BYTES:
        raise BadCheckpoint("a signature is too short")
    return match["name"], data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:]


def _parse_text(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise BadCheckpoint("a checkpoint has an origin, a size and a root, each on its line")
    origin, size, encoded_root = lines[:3]
    if _SIZE.fullmatch(size) is None:
        raise BadCheckpoint("the checkpoint's size is not a plain decimal number")
    root = _decode(encoded_root)
    if root is None or len(root) != HASH_BYTES:
        raise BadCheckpoint("the checkpoint's root is not the base64 of 32 bytes")
    return Checkpoint(origin, int(size), root)


def _decode(encoded: str) -> bytes | None:
    """Return the bytes of canonical base64, or None: one note must not have two spellings."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error, or characters that are not ASCII
        return None
    return data if base64.b64encode(data).decode() == encoded else None
