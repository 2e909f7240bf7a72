"""The tree against RFC 9162's recursive definition, written here a second time."""

import hashlib
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.ledger.errors import BadProof
from tensorguard.ledger.tree import (
    EMPTY_ROOT,
    Frontier,
    Node,
    Span,
    complete_nodes,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)


def naive_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def grow(entries: list[bytes]) -> tuple[Frontier, Callable[[Node], bytes]]:
    frontier, stored = Frontier(), {}
    for offset, entry in enumerate(entries):
        stored[Node(0, offset)] = leaf_hash(entry)
        for node, value in frontier.append(leaf_hash(entry)):
            assert node not in stored
            stored[node] = value
    return frontier, stored.__getitem__


def entries_of(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


def changed(data: bytes, random: Random) -> bytes:
    bit = random.randrange(len(data) * 8)
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))


def test_known_answers_of_the_certificate_transparency_reference_tree() -> None:
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    inputs.append("606162636465666768696a6b6c6d6e6f")
    frontier, _ = grow([bytes.fromhex(text) for text in inputs])
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert frontier.root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_an_appended_tree_has_the_root_of_the_definition(entries: list[bytes]) -> None:
    frontier, read = grow(entries)
    assert frontier.root == naive_root(entries)
    nodes = complete_nodes(Span(0, len(entries)))
    assert Frontier(len(entries), map(read, nodes)).root == frontier.root


def test_a_copied_frontier_grows_alone() -> None:
    frontier, _ = grow(entries_of(5))
    root = frontier.root
    frontier.copy().append(leaf_hash(b"another"))
    assert (frontier.size, frontier.root) == (5, root)


def test_a_frontier_with_the_wrong_number_of_hashes_is_refused() -> None:
    with pytest.raises(ValueError, match="frontier hashes"):
        Frontier(3, [leaf_hash(b"one")])


@given(st.integers(1, 130), st.data(), st.randoms(use_true_random=False))
def test_an_inclusion_proof_holds_and_fails_on_any_change(
    size: int, data: st.DataObject, random: Random
) -> None:
    index = data.draw(st.integers(0, size - 1))
    entries = entries_of(size)
    frontier, read = grow(entries)
    proof, leaf, root = prove_inclusion(index, size, read), read(Node(0, index)), frontier.root
    verify_inclusion(index, size, leaf, proof, root)

    wrong = [
        (index, size, changed(leaf, random), proof, root),
        (index, size, leaf, proof, changed(root, random)),
        (index, size, leaf, [*proof, leaf], root),
        (index, size, leaf, [leaf, *proof], root),
        (index, size, leaf[:-1], proof, root),
        (-1, size, leaf, proof, root),
        (size, size, leaf, proof, root),
    ]
    wrong += [(other, size, leaf, proof, root) for other in range(size) if other != index]
    for at, item in enumerate(proof):
        wrong.append((index, size, leaf, proof[:at] + proof[at + 1 :], root))
        changed_proof = [*proof[:at], changed(item, random), *proof[at + 1 :]]
        wrong.append((index, size, leaf, changed_proof, root))
    for arguments in wrong:
        with pytest.raises(BadProof):
            verify_inclusion(*arguments)


@given(st.integers(1, 130), st.data(), st.randoms(use_true_random=False))
def test_a_consistency_proof_holds_and_fails_on_any_change(
    second: int, data: st.DataObject, random: Random
) -> None:
    first = data.draw(st.integers(1, second))
    entries = entries_of(second)
    frontier, read = grow(entries)
    old_root, new_root = naive_root(entries[:first]), frontier.root
    proof = prove_consistency(first, second, read)
    verify_consistency(first, second, old_root, new_root, proof)

    wrong = [
        (first, second, changed(old_root, random), new_root, proof),
        (first, second, old_root, changed(new_root, random), proof),
        (first, second, old_root, new_root, [*proof, new_root]),
        (first, second, old_root, new_root, [new_root, *proof]),
        (0, second, EMPTY_ROOT, new_root, proof),
        (second + 1, second, old_root, new_root, proof),
    ]
    for at, item in enumerate(proof):
        wrong.append((first, second, old_root, new_root, proof[:at] + proof[at + 1 :]))
        changed_proof = [*proof[:at], changed(item, random), *proof[at + 1 :]]
        wrong.append((first, second, old_root, new_root, changed_proof))
    for arguments in wrong:
        with pytest.raises(BadProof):
            verify_consistency(*arguments)


@given(st.integers(2, 130), st.data())
def test_a_rewritten_past_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, size - 1))
    honest = entries_of(size)
    rewritten = [b"rewritten", *honest[1:]]
    frontier, read = grow(rewritten)
    proof = prove_consistency(first, size, read)
    with pytest.raises(BadProof):
        verify_consistency(first, size, naive_root(honest[:first]), frontier.root, proof)


def test_proofs_outside_the_tree_are_not_made() -> None:
    frontier, read = grow(entries_of(4))
    with pytest.raises(ValueError, match="not in a tree"):
        prove_inclusion(4, 4, read)
    with pytest.raises(ValueError, match="no consistency proof"):
        prove_consistency(0, 4, read)
    with pytest.raises(ValueError, match="no consistency proof"):
        prove_consistency(5, 4, read)
    assert frontier.root == node_hash(
        node_hash(read(Node(0, 0)), read(Node(0, 1))), node_hash(read(Node(0, 2)), read(Node(0, 3)))
    )
