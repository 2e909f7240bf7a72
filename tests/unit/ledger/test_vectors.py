"""The official vectors of transparency-dev/merkle, every file of them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tensorguard.ledger.errors import BadProof
from tensorguard.ledger.tree import verify_consistency, verify_inclusion
from tensorguard.ledger.verify import check_consistency

VECTORS = Path(__file__).parents[2] / "contract" / "vectors" / "rfc6962"
INCLUSION = sorted((VECTORS / "inclusion").rglob("*.json"))
CONSISTENCY = sorted((VECTORS / "consistency").rglob("*.json"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text())
    return vector


def hashes(encoded: list[str] | None) -> list[bytes]:
    return [base64.b64decode(item or "") for item in encoded or []]


def test_the_vectors_are_complete() -> None:
    assert len(INCLUSION) + len(CONSISTENCY) == 106
    assert {load(path)["wantErr"] for path in INCLUSION} == {True, False}
    assert {load(path)["wantErr"] for path in CONSISTENCY} == {True, False}


@pytest.mark.parametrize("path", INCLUSION, ids=name_of)
def test_an_inclusion_vector_is_answered_as_it_asks(path: Path) -> None:
    vector = load(path)
    leaf, root = hashes([vector["leafHash"], vector["root"]])
    arguments = (vector["leafIdx"], vector["treeSize"], leaf, hashes(vector["proof"]), root)
    if vector["wantErr"]:
        with pytest.raises(BadProof):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("path", CONSISTENCY, ids=name_of)
def test_a_consistency_vector_is_answered_as_it_asks(path: Path) -> None:
    vector = load(path)
    first_root, second_root = hashes([vector["root1"], vector["root2"]])
    sizes = (vector["size1"], vector["size2"])
    arguments = (*sizes, first_root, second_root, hashes(vector["proof"]))
    assert check_consistency(*arguments) is not vector["wantErr"]  # the offline verifier's own
    if vector["wantErr"]:
        with pytest.raises(BadProof):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)
