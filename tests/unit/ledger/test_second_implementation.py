"""Three implementations of one tree: the platform's, the verifier's, and the RFC's words."""

import hashlib
from random import Random

from tensorguard.ledger.tree import (
    Frontier,
    Node,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
)
from tensorguard.ledger.verify import LARGE, Edge, Map, check_consistency, hash_leaf, subtrees

TREES = 1_000


def split(count: int) -> int:
    """The largest power of two below `count`."""
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 9162 §2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def test_a_thousand_random_trees_are_the_same_in_all_of_them() -> None:
    random = Random(9162)
    for _ in range(TREES):
        size = random.randint(1, 70)
        entries = [random.randbytes(random.randint(0, 30)) for _ in range(size)]
        leaves = [leaf_hash(entry) for entry in entries]
        stored, frontier = {}, Frontier()
        for at, leaf in enumerate(leaves):
            stored[Node(0, at)] = leaf
            stored |= dict(frontier.append(leaf))
        root, read = mth(leaves), stored.__getitem__
        assert frontier.root == root

        index, first = random.randrange(size), random.randint(1, size)
        assert prove_inclusion(index, size, read) == path(index, leaves)
        proof = prove_consistency(first, size, read)
        assert proof == subproof(first, leaves, True)
        old = mth(leaves[:first])
        assert check_consistency(first, size, old, root, proof)
        assert not check_consistency(first, size, root if first < size else bytes(32), root, proof)

        # What the verifier does with an export that leaves out all but one range.
        start, end = sorted((random.randint(0, size), random.randint(0, size)))
        edge = Edge()
        for level, offset in subtrees(0, start):
            edge.append(stored[Node(level, offset)], level)
        for entry in entries[start:end]:
            edge.append(hash_leaf(entry))
        for level, offset in subtrees(end, size):
            edge.append(stored[Node(level, offset)], level)
        assert (edge.size, edge.root()) == (size, root)


def test_a_map_knows_large_subtrees_and_all_of_its_window_and_little_else() -> None:
    size = 5 * (1 << LARGE) + 37
    leaves = [leaf_hash(b"%d" % at) for at in range(size)]
    window = range(2048, 2048 + 64)
    tree, edge = Map(window, wanted=leaves[4321]), Edge()
    for leaf in leaves:
        tree.append(leaf)
        edge.append(leaf)
    assert tree.root() == edge.root() == mth(leaves)
    assert tree.found == 4321
    assert tree.find(0, size) == mth(leaves)
    for start, end in ((0, 4096), (4096, size), (5120, size), (2048, 2049), (2054, 2056)):
        assert tree.find(start, end) == mth(leaves[start:end])
    assert tree.find(0, 512) is None
    assert len(tree.nodes) < size / 256 + 2 * len(window)
