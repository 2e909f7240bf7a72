"""Fuzzing the readers with bytes: targets, a seeded mutator, and the corpus that is kept.

`python -m tests.unit.tgsp.fuzzing [SECONDS]` runs until then, and keeps what broke a target in the
corpus, where the tests find it from then on.
"""

import hashlib
import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.tgsp import cbor, grants, signing
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.container import read_sections
from tensorguard.tgsp.errors import TgspError
from tensorguard.tgsp.opener import open_package, unwrap_embedded
from tensorguard.tgsp.signing import PublisherKey
from tests.unit.tgsp.builders import NOW

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[3] / "docs/vectors/tgsp"
_KEYS = json.loads((VECTORS / "vectors.json").read_text())["keys"]
RECIPIENT = X25519PrivateKey.from_private_bytes(bytes.fromhex(_KEYS["recipient_private"]))
_PUBLISHER = Ed25519PublicKey.from_public_bytes(bytes.fromhex(_KEYS["publisher_public"]))
PUBLISHERS = [PublisherKey(_PUBLISHER)]
_WORDS = """00 7f 80 ff 18 19 1a 1b 1f 3b 5b 5f 7b 7f 9b 9f bb bf c0 d81c d81d f6 f7 f9 fa fb
ffffffff 00000000 7fffffff 80000000 ffffffffffffffff 8000000000000000 1bffffffffffffffff"""
INTERESTING = [bytes.fromhex(word) for word in _WORDS.split()]


def decode_cbor(data: bytes) -> None:
    assert cbor.encode(cbor.decode(data)) == data


def decode_manifest(data: bytes) -> None:
    assert manifests.encode(manifests.decode(data)) == data


def decode_sigs(data: bytes) -> None:
    assert signing.encode_signatures(signing.decode_signatures(data)) == data


def decode_grants(data: bytes) -> None:
    assert grants.encode_grants(list(grants.decode_grants(data))) == data


def read_header(data: bytes) -> None:
    sections = read_sections(io.BytesIO(data), len(data))
    assert sections.payload_offset + sections.payload_length == len(data)


def open_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, opened = Path(folder, "fuzzed.tgsp"), Path(folder, "opened")
        path.write_bytes(data)
        unwrap = unwrap_embedded(RECIPIENT, NOW)
        try:
            open_package(path, opened, publishers=PUBLISHERS, now=NOW, unwrap=unwrap)
        except TgspError:
            assert [one.name for one in Path(folder).iterdir()] == ["fuzzed.tgsp"]
            raise


TARGETS: dict[str, Callable[[bytes], None]] = {
    "cbor": decode_cbor,
    "manifest": decode_manifest,
    "sigs": decode_sigs,
    "grants": decode_grants,
    "header": read_header,
    "package": open_file,
}


def survives(target: str, data: bytes) -> bool:
    """Whether a target took the bytes, true to their form, or refused them by a code of ours."""
    try:
        TARGETS[target](data)
    except TgspError as error:
        return bool(error.code and error.message)
    return True


def list_corpus(target: str) -> list[bytes]:
    """Give what is kept for a target: seeds, and whatever once broke it."""
    kept = sorted(CORPUS.glob(f"{target}--*"))
    return [path.read_bytes() for path in kept]


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Change a few bytes as damage, carelessness or malice would."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 2:
                changed[at:at] = chance.choice(INTERESTING)
            case 3:
                word = chance.choice(INTERESTING)
                changed[at : at + len(word)] = word
            case 4:
                del changed[at : at + chance.choice((1, 2, 8, 64))]
            case 5:
                end = at + chance.choice((1, 4, 32, 200))
                changed[at:at] = changed[at:end]
            case 6:
                other = chance.choice(others)
                begin = chance.randrange(len(other) + 1)
                changed[at : at + 40] = other[begin : begin + 40]
            case _:
                del changed[at:]
    return bytes(changed)


def fuzz(target: str, *, rounds: int, seed: int) -> None:
    """Run mutations of the corpus; AssertionError or a foreign exception is a finding."""
    chance = random.Random(f"{target} {seed}")
    corpus = list_corpus(target)
    for _ in range(rounds):
        data = mutate(chance.choice(corpus), chance, corpus)
        try:
            assert survives(target, data)
        except Exception as error:
            name = f"{target}--found-{hashlib.sha256(data).hexdigest()[:12]}"
            (CORPUS / name).write_bytes(data)
            raise AssertionError(f"kept as corpus/{name}") from error


def main(seconds: float = 60) -> None:
    """Fuzz all targets in turn."""
    end, seed = time.monotonic() + seconds, int(time.time())
    while time.monotonic() < end:
        for target in TARGETS:
            fuzz(target, rounds=20 if target == "package" else 2000, seed=seed)
        seed += 1
        sys.stdout.write(".")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
