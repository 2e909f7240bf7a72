"""The Merkle tree of RFC 6962 / RFC 9162: hashes, appending, proofs and their verification."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tensorguard.ledger.errors import BadProof

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class Node(NamedTuple):
    """A complete subtree: 2^level leaves from leaf `offset` * 2^level; level 0 is a leaf."""

    level: int
    offset: int


class Span(NamedTuple):
    """The leaves start … end-1 of a subtree as RFC 9162 cuts it: what one proof hash covers."""

    start: int
    end: int


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry) (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right) (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_nodes(span: Span) -> list[Node]:
    """Return the complete subtrees that make up `span`, from left to right."""
    nodes, start = [], span.start
    while start < span.end:
        level = (span.end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees given from left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Frontier:
    """The right edge of a tree: enough to append to it and to know its root.

    `hashes` are those of complete_nodes(Span(0, size)).
    """

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} frontier hashes")

    def append(self, leaf: bytes) -> list[tuple[Node, bytes]]:
        """Append a leaf hash and return the interior nodes that it completed, lowest first."""
        completed = []
        index, level = self.size, 0
        while index & 1:
            leaf = node_hash(self.hashes.pop(), leaf)
            index, level = index >> 1, level + 1
            completed.append((Node(level, index), leaf))
        self.hashes.append(leaf)
        self.size += 1
        return completed

    def copy(self) -> "Frontier":
        """Return a frontier that can be appended to without changing this one."""
        return Frontier(self.size, self.hashes)

    @property
    def root(self) -> bytes:
        """The tree's root hash."""
        return fold(self.hashes)


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Return what the hashes of an inclusion proof cover, in order (RFC 9162 §2.1.3.1).

    Raises:
        ValueError: there is no leaf `index` in a tree of `size`.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    spans, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(first: int, second: int) -> list[Span]:
    """Return what the hashes of a consistency proof cover, in order (RFC 9162 §2.1.4.1).

    Raises:
        ValueError: not 1 ≤ first ≤ second.
    """
    if not 1 <= first <= second:
        raise ValueError(f"no consistency proof leads from size {first} to {second}")
    spans, start, end = [], 0, second
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    if start > 0:
        spans.append(Span(start, end))
    return spans[::-1]


def prove_inclusion(index: int, size: int, read: Callable[[Node], bytes]) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size`; `read` gives stored hashes."""
    return [_hash_span(span, read) for span in inclusion_spans(index, size)]


def prove_consistency(first: int, second: int, read: Callable[[Node], bytes]) -> list[bytes]:
    """Return the proof that the tree of `first` is a prefix of that of `second`."""
    return [_hash_span(span, read) for span in consistency_spans(first, second)]


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` (a leaf hash) stands at `index` in the tree (RFC 9162 §2.1.3.2).

    Raises:
        BadProof: it cannot be concluded.
    """
    if not 0 <= index < size:
        raise BadProof(f"leaf {index} is not in a tree of {size} leaves")
    _check_lengths([leaf, *proof, root])
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise BadProof("the inclusion proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise BadProof("the inclusion proof is too short")
    if not hmac.compare_digest(computed, root):
        raise BadProof(f"the inclusion proof of leaf {index} does not lead to the root")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the first tree is a prefix of the second (RFC 9162 §2.1.4.2).

    Raises:
        BadProof: it cannot be concluded; always so from size 0, which proves nothing.
    """
    if not 1 <= first <= second:
        raise BadProof(f"no consistency proof leads from size {first} to {second}")
    _check_lengths([first_root, second_root, *proof])
    if first == second:
        if proof or not hmac.compare_digest(first_root, second_root):
            raise BadProof(f"two trees of size {first} differ")
        return
    path = list(proof)
    if first.bit_count() == 1:  # the first tree is a node of the second and not repeated
        path.insert(0, first_root)
    if not path:
        raise BadProof("the consistency proof is empty")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first_computed = second_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise BadProof("the consistency proof is too long")
        if node & 1 or node == last:
            first_computed = node_hash(sibling, first_computed)
            second_computed = node_hash(sibling, second_computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second_computed = node_hash(second_computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise BadProof("the consistency proof is too short")
    if not hmac.compare_digest(first_computed, first_root):
        raise BadProof(f"the consistency proof does not lead to the root of size {first}")
    if not hmac.compare_digest(second_computed, second_root):
        raise BadProof(f"the consistency proof does not lead to the root of size {second}")


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _hash_span(span: Span, read: Callable[[Node], bytes]) -> bytes:
    return fold([read(node) for node in complete_nodes(span)])


def _check_lengths(hashes: Iterable[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise BadProof("a hash does not have 32 bytes")
