"""Make docs/vectors/tgsp anew: python -m tests.contract.tgsp.make_vectors. Commit what it makes."""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.protocol.envelope import pae
from tensorguard.tgsp import Target
from tensorguard.tgsp.manifest import MANIFEST_TYPE, compute_context
from tensorguard.tgsp.opener import unwrap_embedded
from tensorguard.tgsp.target import SeqFloor
from tests.unit.tgsp.attacks import ATTACKS, Attack, Opening
from tests.unit.tgsp.builders import CONTENT, NOW, NOW_S, Forge

FOLDER = Path(__file__).parents[3] / "docs/vectors/tgsp"
PUBLISHER = hashlib.sha256(b"TGSP test vectors: publisher").digest()
RECIPIENT = hashlib.sha256(b"TGSP test vectors: recipient").digest()
SMALL = b"a small model, and a public one\n"


def main() -> None:
    """Write the packages, and what becomes of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.tgsp"):
        old.unlink()
    packages = [_keep_good(name, make) for name, make in GOOD.items()]
    packages += [one for attack in ATTACKS if (one := _keep_refused(attack))]
    public = X25519PrivateKey.from_private_bytes(RECIPIENT).public_key().public_bytes_raw()
    signer = Ed25519PrivateKey.from_private_bytes(PUBLISHER).public_key().public_bytes_raw()
    vectors = {
        "keys": {
            "publisher_seed": PUBLISHER.hex(),
            "publisher_public": signer.hex(),
            "recipient_private": RECIPIENT.hex(),
            "recipient_public": public.hex(),
        },
        "now": NOW_S,
        "packages": packages,
    }
    (FOLDER / "vectors.json").write_text(json.dumps(vectors, indent=1) + "\n")
    sys.stdout.write(f"{len(packages)} packages in {FOLDER}\n")


def _forge(folder: str, content: bytes) -> Forge:
    publisher = Ed25519PrivateKey.from_private_bytes(PUBLISHER)
    recipient = X25519PrivateKey.from_private_bytes(RECIPIENT)
    return Forge(Path(folder), publisher, recipient, content)


def _folder(forge: Forge) -> None:
    source = forge.folder / "source"
    for name, content in {"a.txt": SMALL, "sub/größe": b"x" * 100, "sub/empty": b""}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    forge.build(source)


def _everything(forge: Forge) -> None:
    forge.build(
        not_after=NOW_S + 10**8,
        target=Target(fleets=("hospital-a", "hospital-b"), hardware=("cpu", "cuda")),
        policy={"at_rest": "plain"},
        provenance={"epsilon": "1.5", "rows": 12, "dataset": b"\1" * 32, "nested": [True, -7, {}]},
    )


GOOD: dict[str, Callable[[Forge], object]] = {
    "one small file": lambda forge: forge.build(),
    "an empty file": lambda forge: forge.build(),
    "exactly one chunk": lambda forge: forge.build(),
    "two chunks and a rest": lambda forge: forge.build(),
    "a folder with an empty file": _folder,
    "every field used": _everything,
}
CONTENTS = {
    "an empty file": b"",
    "exactly one chunk": bytes(16384),
    "two chunks and a rest": CONTENT,
}


def _keep_good(name: str, make: Callable[[Forge], object]) -> dict[str, Any]:
    opening: dict[str, Any] = {"fleet": "hospital-b"} if name == "every field used" else {}
    with tempfile.TemporaryDirectory() as folder:
        forge = _forge(folder, CONTENTS.get(name, SMALL))
        make(forge)
        opened = forge.open(hardware=["cpu"], **opening)
        header, _ = forge.read()
        (grant,) = header.grants
        info = b"tensorguard.tgsp/v1 grant\0" + header.digest + grant.kid + bytes(8)
        files = {entry.path: entry.sha256.hex() for entry in opened.manifest.files}
        signed = hashlib.sha256(pae(MANIFEST_TYPE, header.manifest_bytes))
        return {
            "name": name,
            "file": _store(forge, "good", name),
            "opening": opening,
            "digest": header.digest.hex(),
            "files": files,
            "dek": unwrap_embedded(forge.recipient, NOW)(header).hex(),
            "context": compute_context(header.manifest).hex(),
            "grant_info": info.hex(),
            "pae_sha256": signed.hexdigest(),
        }


def _keep_refused(attack: Attack) -> dict[str, Any] | None:
    """Keep an attack, unless its opening is more than a reader without an agent could be told."""
    chunks = "chunk" in attack.name
    with tempfile.TemporaryDirectory() as folder:
        forge = _forge(folder, CONTENT if chunks else SMALL * 10)
        opening = _describe(attack.mount(forge))
        if opening is None or attack.code in ("publisher-not-allowed", "sealed-at-rest"):
            return None
        return {
            "name": attack.name,
            "file": _store(forge, attack.code, attack.name),
            "opening": opening,
            "code": attack.code,
        }


def _describe(opening: Opening) -> dict[str, Any] | None:
    described: dict[str, Any] = {}
    for key, value in (opening or {}).items():
        match value:
            case datetime():
                described[key] = int(value.timestamp())
            case SeqFloor(seq=seq, digest=None):
                described[key] = seq + 1
            case str():
                described[key] = value
            case _:
                return None
    return described


def _store(forge: Forge, kind: str, name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    file = f"{kind}--{words}.tgsp"
    (FOLDER / file).write_bytes(forge.path.read_bytes())
    return file


if __name__ == "__main__":
    main()
