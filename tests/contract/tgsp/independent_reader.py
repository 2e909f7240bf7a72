"""A second reader of TGSP/1, from docs/tgsp.md alone: no code of tensorguard, all in memory."""

import hashlib
import re
from typing import Any, NoReturn
from unicodedata import category, normalize

import cbor2
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

TYPE = b"application/vnd.tensorguard.tgsp.manifest.v1+cbor"
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
KEYS = "v package_id name version seq created not_before not_after target min_agent policy"


class Refused(Exception):
    pass


def refuse(code: str) -> NoReturn:
    raise Refused(code)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def cbor(value: Any, depth: int = 0) -> bytes:
    """Encode in the one deterministic form; KeyError for what the format does not have."""

    def head(major: int, number: int) -> bytes:
        size = next(n for n in (0, 1, 2, 4, 8) if number < (24 if n == 0 else 1 << 8 * n))
        first = number if size == 0 else 23 + size.bit_length()
        return bytes([major << 5 | first]) + (number.to_bytes(size, "big") if size else b"")

    kind = {int: 0, bytes: 2, str: 3, list: 4, dict: 5, bool: 7}[
        type(value) if depth < 17 else None
    ]
    if kind == 7:
        return bytes([0xF4 + value])
    if kind == 0:
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if kind < 4:
        raw = value if kind == 2 else value.encode()
        return head(kind, len(raw)) + bytes(raw)
    if kind == 4:
        return head(4, len(value)) + b"".join(cbor(item, depth + 1) for item in value)
    if not all(type(key) is str for key in value):
        raise KeyError("a key that is not text")
    items = sorted((cbor(key), cbor(item, depth + 1)) for key, item in value.items())
    return head(5, len(items)) + b"".join(key + item for key, item in items)


def decode(data: bytes, code: str) -> Any:
    try:
        value = cbor2.loads(data)
        return value if cbor(value) == data else refuse(code)
    except (cbor2.CBORError, KeyError, ValueError, TypeError, StopIteration, RecursionError):
        refuse(code)


def sections(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    if data[:8] != bytes.fromhex("89544753500d0a1a"):
        refuse("not-a-package")
    at, found = 8, []
    for limit in (1 << 20, 1 << 16, 1 << 22):
        length = int.from_bytes(data[at : at + 4], "big")
        if length > limit:
            refuse("section-too-large")
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    end = at + 8 + int.from_bytes(data[at : at + 8], "big")
    if len(data) != end:
        refuse("truncated" if len(data) < end else "trailing-bytes")
    return found[0], found[1], found[2], data[at + 8 :]


def entries(data: bytes, name: str, keys: dict[str, type], *place: str) -> Any:
    found = decode(data, f"bad-{name}")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        refuse(f"bad-{name}")
    if any({k: type(v) for k, v in one.items()} != keys or len(one["kid"]) != 32 for one in found):
        refuse(f"bad-{name}")
    if len({tuple(one[key] for key in place) for one in found}) != len(found):
        refuse("duplicate-signer" if name == "sigs" else "duplicate-recipient")
    return found


def check_signatures(manifest: bytes, sigs: bytes, held: dict[bytes, Ed25519PublicKey]) -> None:
    found = entries(sigs, "sigs", {"kid": bytes, "alg": str, "sig": bytes}, "kid", "alg")
    mine = [one for one in found if one["kid"] in held]
    good = [one for one in mine if one["alg"] == "ed25519"]
    if not good:
        refuse("unknown-signature-alg" if mine else "unknown-publisher" if found else "unsigned")
    try:
        for one in good:
            pae = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE, len(manifest), manifest)
            held[one["kid"]].verify(one["sig"], pae)
    except InvalidSignature:
        refuse("bad-signature")


def check_path(path: str, seen: dict[str, tuple[str, bool]]) -> bool:
    names = path.split("/")
    for count in range(1, len(names) + 1):
        here, is_file = "/".join(names[:count]), count == len(names)
        folded = normalize("NFD", normalize("NFD", here).casefold())
        if folded in seen and (is_file or seen[folded] != (here, False)):
            return False
        seen[folded] = (here, is_file)
    bad = any(name in ("", ".", "..") or len(name.encode()) > 255 for name in names)
    bad = bad or "\\" in path or any(category(char) == "Cc" for char in path)
    return not bad and len(path.encode()) <= 1024


def check_schema(m: Any) -> None:
    if not isinstance(m, dict) or set(m) != {*KEYS.split(), "provenance", "files", "payload"}:
        refuse("bad-manifest")
    size, ends = m["payload"]["size"], [one["offset"] + one["size"] for one in m["files"]]
    paths: list[str] = [one["path"] for one in m["files"]]
    good = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", m["name"]) and (m["v"], m["seq"] > 0) == (
        1,
        1,
    )
    good = good and paths == sorted(paths) and size == (ends[-1] if ends else 0)
    good = good and [one["offset"] for one in m["files"]] == [0, *ends][: len(ends)]
    if m["payload"]["alg"] != "cobblestone-256":
        refuse("unknown-payload-alg")
    if m["policy"] not in ({}, {"at_rest": "plain"}, {"at_rest": "sealed"}):
        refuse("unknown-policy")
    seen: dict[str, tuple[str, bool]] = {}
    if not all(check_path(path, seen) for path in paths):
        refuse("bad-path")
    if not good or m["payload"]["ciphertext_size"] != size + 56 + 16 * (size // 16384 + 1):
        refuse("bad-manifest")


def decrypt(dek: bytes, m: dict[str, Any], data: bytes) -> bytes:
    rest = {key: value for key, value in m.items() if key not in ("payload", "files")}
    context = b"tensorguard.tgsp/v1 payload\0" + m["package_id"] + sha256(cbor(rest))
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + data[:24] + context
    derived = HKDFExpand(SHA512(), 76, info).derive(dek)
    if derived[44:] != data[24:56]:
        refuse("wrong-dek")
    cipher, nonce, plain = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big"), b""
    for number, at in enumerate(range(56, len(data), 16400)):
        one = (nonce ^ number).to_bytes(12, "big")
        plain += cipher.decrypt(one, data[at : at + 16400], None)
    return plain


def check_place(m: dict[str, Any], now: int, fleet: str | None, min_seq: int) -> None:
    if now < m["not_before"] or 0 < m["not_after"] < now:
        refuse("not-yet-valid" if now < m["not_before"] else "expired")
    if m["target"]["fleets"] and fleet not in m["target"]["fleets"]:
        refuse("wrong-fleet")
    if m["seq"] < min_seq:
        refuse("seq-too-low")


def read(
    data: bytes,
    held: dict[bytes, Ed25519PublicKey],
    key: X25519PrivateKey,
    now: int,
    fleet: str | None = None,
    min_seq: int = 1,
) -> dict[str, bytes]:
    """Give the files of a package; Refused names the code."""
    manifest, sigs, grants, payload = sections(data)
    check_signatures(manifest, sigs, held)
    m = decode(manifest, "not-canonical")
    check_schema(m)
    if len(payload) != m["payload"]["ciphertext_size"]:
        refuse("length-mismatch")
    found = entries(
        grants, "grants", {"kid": bytes, "alg": str, "exp": int, "sealed": bytes}, "kid"
    )
    check_place(m, now, fleet, min_seq)
    kid = sha256(key.public_key().public_bytes_raw())
    mine = next((one for one in found if one["kid"] == kid), None) or refuse("no-grant")
    if mine["alg"] != "hpke-x25519-hkdf-sha256-aes-256-gcm":
        refuse("unknown-grant-alg")
    if 0 < mine["exp"] < now:
        refuse("grant-expired")
    info = b"tensorguard.tgsp/v1 grant\0" + sha256(manifest) + kid + mine["exp"].to_bytes(8, "big")
    step = "grant-refused"
    try:
        dek = SUITE.decrypt(mine["sealed"], key, info)
        step = "payload-refused"
        plain = decrypt(dek, m, payload)
    except (InvalidTag, ValueError):
        refuse(step)
    if sha256(payload) != m["payload"]["sha256"]:
        refuse("ciphertext-mismatch")
    files = {f["path"]: plain[f["offset"] : f["offset"] + f["size"]] for f in m["files"]}
    if any(sha256(files[one["path"]]) != one["sha256"] for one in m["files"]):
        refuse("file-mismatch")
    return files
