"""Every attack that a release is tested against, each with the one code that it is refused with.

An attack changes the package of a forge, and returns what is changed about who opens it.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import cbor2
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.tgsp.grants import seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.manifest import Target, compute_context
from tensorguard.tgsp.opener import unwrap_embedded
from tensorguard.tgsp.target import SeqFloor
from tests.unit.tgsp.builders import NOW, NOW_S, Forge

CHUNK = 16384 + 16
Opening = dict[str, Any] | None


class Attack(NamedTuple):
    name: str
    code: str
    mount: Callable[[Forge], Opening]


ATTACKS: list[Attack] = []


def attack(name: str, code: str) -> Callable[[Callable[[Forge], Opening]], None]:
    def keep(mount: Callable[[Forge], Opening]) -> None:
        ATTACKS.append(Attack(name, code, mount))

    return keep


def payload(forge: Forge, change: Callable[[bytes], bytes]) -> None:
    forge.build()
    forge.write(payload=change(forge.read()[1]))


def cut(forge: Forge, count: int) -> None:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes()[:-count])


def header(forge: Forge) -> Any:
    return forge.read()[0]


def signed(forge: Forge, *entries: dict[str, Any]) -> None:
    forge.write(sigs=cbor2.dumps(list(entries), canonical=True))


def granted(forge: Forge, **changes: Any) -> None:
    (grant,) = cbor2.loads(header(forge).grants_bytes)
    forge.write(grants=cbor2.dumps([grant | changes], canonical=True))


@attack("truncated in the middle of a chunk", "truncated")
def _(forge: Forge) -> Opening:
    return cut(forge, 100)


@attack("truncated at a chunk boundary", "truncated")
def _(forge: Forge) -> Opening:
    return cut(forge, 40_960 % 16384 + 16)


@attack("only the header is left", "truncated")
def _(forge: Forge) -> Opening:
    forge.build()
    return cut(forge, len(forge.read()[1]))


@attack("truncated, and the length made to fit", "length-mismatch")
def _(forge: Forge) -> Opening:
    return payload(forge, lambda data: data[:-CHUNK])


@attack("0 bytes", "not-a-package")
def _(forge: Forge) -> Opening:
    forge.path.write_bytes(b"")
    return None


@attack("damaged by a text-mode transfer", "not-a-package")
def _(forge: Forge) -> Opening:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes().replace(b"\r\n", b"\n"))
    return None


@attack("bytes appended", "trailing-bytes")
def _(forge: Forge) -> Opening:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes() + b"more")
    return None


@attack("a chunk appended, and the length made to fit", "length-mismatch")
def _(forge: Forge) -> Opening:
    return payload(forge, lambda data: data + data[-CHUNK:])


@attack("chunks reordered", "payload-refused")
def _(forge: Forge) -> Opening:
    def swap(data: bytes) -> bytes:
        first, second = data[56 : 56 + CHUNK], data[56 + CHUNK : 56 + 2 * CHUNK]
        return data[:56] + second + first + data[56 + 2 * CHUNK :]

    return payload(forge, swap)


@attack("a chunk duplicated in place of the next", "payload-refused")
def _(forge: Forge) -> Opening:
    def repeat(data: bytes) -> bytes:
        return data[: 56 + CHUNK] + data[56 : 56 + CHUNK] + data[56 + 2 * CHUNK :]

    return payload(forge, repeat)


@attack("a byte of the payload changed", "payload-refused")
def _(forge: Forge) -> Opening:
    return payload(forge, lambda data: data[:-1] + bytes([data[-1] ^ 1]))


@attack("payload of another package", "wrong-dek")
def _(forge: Forge) -> Opening:
    forge.build()
    other = forge.read()[1]
    forge.build()
    forge.write(payload=other)
    return None


@attack("payload encrypted anew by who holds a grant", "ciphertext-mismatch")
def _(forge: Forge) -> Opening:
    forge.build()
    dek = unwrap_embedded(forge.recipient, NOW)(header(forge))
    encryptor = Cobblestone256Encryptor(dek, compute_context(header(forge).manifest))
    size = header(forge).manifest.payload.size
    forge.write(payload=encryptor.update(bytes(size)) + encryptor.finalize())
    return None


@attack("payload moved under another signed manifest", "wrong-dek")
def _(forge: Forge) -> Opening:
    forge.build()
    dek = unwrap_embedded(forge.recipient, NOW)(header(forge))
    forge.change_manifest(lambda fields: fields.update(version="9.9.9"))
    return {"unwrap": lambda _: dek}


@attack("grants of another package", "grant-refused")
def _(forge: Forge) -> Opening:
    forge.build()
    other = header(forge).grants_bytes
    forge.build()
    forge.write(grants=other)
    return None


@attack("manifest edited", "bad-signature")
def _(forge: Forge) -> Opening:
    forge.build()
    forge.write(manifest=header(forge).manifest_bytes.replace(b"1.2.3", b"9.9.9"))
    return None


@attack("manifest and signature of another package", "length-mismatch")
def _(forge: Forge) -> Opening:
    source = forge.folder / "source"
    source.write_bytes(b"another")
    forge.build(source)
    other = header(forge)
    forge.build()
    forge.write(manifest=other.manifest_bytes, sigs=other.sigs_bytes, grants=other.grants_bytes)
    return None


@attack("a digest in the signed manifest that the file does not have", "file-mismatch")
def _(forge: Forge) -> Opening:
    built = forge.build()
    forge.write_from_scratch(built.manifest, bytes(built.manifest.payload.size))
    return None


@attack("grant's expiry extended", "grant-refused")
def _(forge: Forge) -> Opening:
    forge.build()
    granted(forge, exp=NOW_S + 10**6)
    return None


@attack("grant expired", "grant-expired")
def _(forge: Forge) -> Opening:
    forge.build()
    granted(forge, exp=NOW_S - 1)
    return None


@attack("unknown kid in SIGS", "unknown-publisher")
def _(forge: Forge) -> Opening:
    forge.build()
    signed(forge, forge.signature(header(forge).manifest_bytes) | {"kid": bytes(32)})
    return None


@attack("the same kid twice in SIGS", "duplicate-signer")
def _(forge: Forge) -> Opening:
    forge.build()
    entry = forge.signature(header(forge).manifest_bytes)
    signed(forge, entry | {"sig": bytes(64)}, entry)
    return None


@attack("the same kid twice in GRANTS", "duplicate-recipient")
def _(forge: Forge) -> Opening:
    forge.build()
    (grant,) = cbor2.loads(header(forge).grants_bytes)
    forge.write(grants=cbor2.dumps([grant, grant | {"exp": 5}], canonical=True))
    return None


@attack("wrong kid: a known publisher's over a stranger's signature", "bad-signature")
def _(forge: Forge) -> Opening:
    stranger = Ed25519PrivateKey.generate()
    forge.build(publisher=stranger)
    entry = forge.signature(header(forge).manifest_bytes, stranger)
    signed(forge, entry | {"kid": compute_kid(forge.publisher.public_key())})
    return None


@attack("wrong kid: the grant of somebody else under our kid", "grant-refused")
def _(forge: Forge) -> Opening:
    stranger = X25519PrivateKey.generate()
    forge.build(recipient=stranger.public_key())
    granted(forge, kid=compute_kid(forge.recipient.public_key()))
    return None


@attack("signed by a key that nobody registered", "unknown-publisher")
def _(forge: Forge) -> Opening:
    forge.build(publisher=Ed25519PrivateKey.generate())
    return None


@attack("opened with a key that has no grant", "no-grant")
def _(forge: Forge) -> Opening:
    forge.build()
    return {"unwrap": unwrap_embedded(X25519PrivateKey.generate(), NOW)}


@attack("swapped DEK: a good grant of another key", "wrong-dek")
def _(forge: Forge) -> Opening:
    built = forge.build()
    recipient = forge.recipient.public_key()
    granted(
        forge,
        sealed=seal_grant(bytes(32), recipient=recipient, manifest_digest=built.digest, exp=0),
    )
    return None


@attack("lower seq than what was accepted", "seq-too-low")
def _(forge: Forge) -> Opening:
    forge.build(seq=7)
    return {"min_seq": SeqFloor(8)}


@attack("equal seq, another package", "seq-too-low")
def _(forge: Forge) -> Opening:
    forge.build(seq=7)
    return {"min_seq": SeqFloor(7, bytes(32))}


@attack("another package than the one asked for", "wrong-package")
def _(forge: Forge) -> Opening:
    forge.build()
    return {"digest": bytes(32)}


@attack("expired", "expired")
def _(forge: Forge) -> Opening:
    forge.build(not_after=NOW_S + 60)
    return {"now": NOW + timedelta(seconds=61)}


@attack("not valid yet", "not-yet-valid")
def _(forge: Forge) -> Opening:
    forge.build(not_before=NOW_S + 60)
    return None


@attack("replayed to another fleet", "wrong-fleet")
def _(forge: Forge) -> Opening:
    forge.build(target=Target(fleets=("hospital-a",)))
    return {"fleet": "factory-b"}


@attack("replayed to an agent with other tags", "selector-mismatch")
def _(forge: Forge) -> Opening:
    forge.build(target=Target(selector="gpu=true"))
    return {"matches": lambda selector: False}


@attack("algorithm downgrade of the signature", "unknown-signature-alg")
def _(forge: Forge) -> Opening:
    forge.build()
    signed(forge, forge.signature(header(forge).manifest_bytes) | {"alg": "none"})
    return None


@attack("algorithm downgrade of the payload", "unknown-payload-alg")
def _(forge: Forge) -> Opening:
    forge.build()
    forge.change_manifest(lambda fields: fields["payload"].update(alg="none"))
    return None


@attack("algorithm downgrade of the grant", "unknown-grant-alg")
def _(forge: Forge) -> Opening:
    forge.build()
    granted(forge, alg="none")
    return None


@attack("a key in the file, to be trusted in-band", "bad-sigs")
def _(forge: Forge) -> Opening:
    stranger = Ed25519PrivateKey.generate()
    forge.build(publisher=stranger)
    entry = forge.signature(header(forge).manifest_bytes, stranger)
    signed(forge, entry | {"key": stranger.public_key().public_bytes_raw()})
    return None


@attack("a signature of zeros (Ed25519's neutral element)", "bad-signature")
def _(forge: Forge) -> Opening:
    forge.build()
    entry = forge.signature(header(forge).manifest_bytes)
    signed(forge, entry | {"sig": b"\x01" + bytes(63)})
    return None


@attack("signatures stripped", "unsigned")
def _(forge: Forge) -> Opening:
    forge.build()
    signed(forge)
    return None


@attack("publisher not allowed this name", "publisher-not-allowed")
def _(forge: Forge) -> Opening:
    forge.publishers[0].names = ("other-*",)
    forge.build()
    return None


@attack("a section that claims 4 GiB", "section-too-large")
def _(forge: Forge) -> Opening:
    forge.build()
    data = forge.path.read_bytes()
    forge.path.write_bytes(data[:8] + b"\xff" * 4 + data[12:])
    return None


@attack("a payload that claims 100 GB", "truncated")
def _(forge: Forge) -> Opening:
    forge.build()
    data, at = bytearray(forge.path.read_bytes()), header(forge).payload_offset
    data[at - 8 : at] = (100 * 10**9).to_bytes(8, "big")
    forge.path.write_bytes(data)
    return None


@attack("policy that this version cannot keep", "unknown-policy")
def _(forge: Forge) -> Opening:
    forge.build()
    forge.change_manifest(lambda fields: fields.update(policy={"at_rest": "burnt"}))
    return None


@attack("sealed at rest, onto a disk", "sealed-at-rest")
def _(forge: Forge) -> Opening:
    forge.build(policy={"at_rest": "sealed"})
    return None


def _on_manifest(name: str, code: str, change: Callable[[bytes], bytes]) -> None:
    def mount(forge: Forge) -> Opening:
        forge.build()
        forge.write(manifest=change(header(forge).manifest_bytes), resign=True)
        return None

    ATTACKS.append(Attack(name, code, mount))


def _reorder(data: bytes) -> bytes:
    return cbor2.dumps(dict(reversed(cbor2.loads(data).items())))


for _name, _change in {
    "integer not the shortest": lambda data: data.replace(b"\x61v\x01", b"\x61v\x18\x01"),
    "indefinite length": lambda data: b"\xbf" + data[1:] + b"\xff",
    "duplicate key": lambda data: bytes([data[0] + 1]) + b"\x61v\x01" + data[1:],
    "keys in another order": _reorder,
    "a tag": lambda data: b"\xd9\xd9\xf7" + data,
    "bytes after the item": lambda data: data + b"\0",
    "nested without end": lambda data: b"\x81" * 5_000 + b"\x01",
}.items():
    _on_manifest(f"non-canonical CBOR: {_name}", "not-canonical", _change)


def _on_paths(name: str, first: str, second: str | None = None) -> None:
    def mount(forge: Forge) -> Opening:
        source = forge.folder / "source"
        source.mkdir()
        (source / "1").write_bytes(b"1")
        (source / "2").write_bytes(b"2")
        forge.build(source)

        def rename(fields: dict[str, Any]) -> None:
            fields["files"][0]["path"] = first
            fields["files"][1]["path"] = second or "z"

        forge.change_manifest(rename)
        return None

    ATTACKS.append(Attack(f"path: {name}", "bad-path", mount))


_on_paths("..", "../evil")
_on_paths(".. inside", "a/../../evil")
_on_paths("absolute", "/etc/passwd")
_on_paths("backslash", "..\\evil")
_on_paths("NUL", "a\0b")
_on_paths("line break", "a\nb")
_on_paths("empty name", "a//b")
_on_paths("too long", "/".join(["deep"] * 300))
_on_paths("collision in case", "Model", "model")
_on_paths("collision in Unicode form", "e\u0301", "\u00e9")
_on_paths("a file where a folder must be", "a", "a/b")
