"""Builders: a publisher, a recipient, a package, and packages that no honest builder writes."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import msgspec
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.protocol.envelope import pae
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.builder import BuiltPackage, build
from tensorguard.tgsp.container import MAGIC, encode_header
from tensorguard.tgsp.grants import GRANT_ALG, seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.manifest import MANIFEST_TYPE, Manifest
from tensorguard.tgsp.opener import OpenedPackage, open_package, unwrap_embedded
from tensorguard.tgsp.reader import PackageHeader, read_header
from tensorguard.tgsp.signing import PublisherKey

NOW_S = 1_800_000_000
NOW = datetime.fromtimestamp(NOW_S, UTC)
CONTENT = bytes(range(256)) * 160  # 40 960 bytes: two full chunks and a rest


class Forge:
    """Keys, and packages made with them in a folder of their own."""

    def __init__(
        self,
        folder: Path,
        publisher: Ed25519PrivateKey | None = None,
        recipient: X25519PrivateKey | None = None,
        content: bytes = CONTENT,
    ) -> None:
        self.folder = folder
        self.content = content
        self.publisher = publisher or Ed25519PrivateKey.generate()
        self.recipient = recipient or X25519PrivateKey.generate()
        self.publishers = [PublisherKey(self.publisher.public_key())]
        self.path = folder / "model.tgsp"
        self.out = folder / "opened"

    def build(self, source: Path | None = None, **changes: Any) -> BuiltPackage:
        """Build `path` from a source, or from a file with the content."""
        if source is None:
            source = self.folder / "model.onnx"
            source.write_bytes(self.content)
        given: dict[str, Any] = {
            "name": "model",
            "version": "1.2.3",
            "seq": 7,
            "publisher": self.publisher,
            "recipient": self.recipient.public_key(),
            "created": NOW_S,
            "not_before": NOW_S,
        }
        return build(source, self.path, **given | changes)

    def open(self, **changes: Any) -> OpenedPackage:
        """Open `path` into `out` with the right keys."""
        given: dict[str, Any] = {
            "publishers": self.publishers,
            "now": NOW,
            "unwrap": unwrap_embedded(self.recipient, NOW),
        }
        return open_package(self.path, self.out, **given | changes)

    def read(self) -> tuple[PackageHeader, bytes]:
        """Give header and payload of `path`."""
        with self.path.open("rb") as file:
            header = read_header(file, self.path.stat().st_size)
            file.seek(header.payload_offset)
            return header, file.read()

    def write(self, *, resign: bool = False, **changes: bytes) -> None:
        """Write `path` again with some sections (manifest, sigs, grants, payload) changed.

        Lengths are right again; `resign` has the true publisher sign the changed manifest.
        """
        header, payload = self.read()
        manifest = changes.get("manifest", header.manifest_bytes)
        sigs = changes.get("sigs", self.sigs(manifest) if resign else header.sigs_bytes)
        grants = changes.get("grants", header.grants_bytes)
        payload = changes.get("payload", payload)
        front = encode_header(manifest, sigs, grants, payload_length=len(payload))
        self.path.write_bytes(front + payload)

    def sigs(self, manifest: bytes, by: Ed25519PrivateKey | None = None) -> bytes:
        """Give SIGS with one signature over whatever bytes."""
        return cbor2.dumps([self.signature(manifest, by)], canonical=True)

    def signature(self, manifest: bytes, by: Ed25519PrivateKey | None = None) -> dict[str, Any]:
        """Give one entry of SIGS over whatever bytes."""
        signer = by or self.publisher
        return {
            "kid": compute_kid(signer.public_key()),
            "alg": "ed25519",
            "sig": signer.sign(pae(MANIFEST_TYPE, manifest)),
        }

    def change_manifest(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Edit the manifest's map, and have the true publisher sign the result."""
        header, _ = self.read()
        fields = cbor2.loads(header.manifest_bytes)
        edit(fields)
        self.write(manifest=cbor2.dumps(fields, canonical=True), resign=True)

    def write_from_scratch(self, manifest: Manifest, plaintext: bytes) -> None:
        """Write a package that the true publisher signs, whatever the plaintext's digests say."""
        dek = Cobblestone256Encryptor.generate_key()
        encryptor = Cobblestone256Encryptor(dek, manifests.compute_context(manifest))
        payload = encryptor.update(plaintext) + encryptor.finalize()
        stream = msgspec.structs.replace(manifest.payload, sha256=hashlib.sha256(payload).digest())
        data = manifests.encode(msgspec.structs.replace(manifest, payload=stream))
        recipient = self.recipient.public_key()
        digest = manifests.compute_digest(data)
        sealed = seal_grant(dek, recipient=recipient, manifest_digest=digest, exp=0)
        grant = {"kid": compute_kid(recipient), "alg": GRANT_ALG, "exp": 0, "sealed": sealed}
        grants = cbor2.dumps([grant], canonical=True)
        front = encode_header(data, self.sigs(data), grants, payload_length=len(payload))
        assert front.startswith(MAGIC)
        self.path.write_bytes(front + payload)

    def list_leftovers(self) -> list[str]:
        """Name what lies in the folder beside the source and the package."""
        mine = {"model.onnx", "source", "model.tgsp"}
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name not in mine)
