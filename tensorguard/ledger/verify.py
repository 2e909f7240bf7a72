#!/usr/bin/env python3
"""Verify an export of a TensorGuard ledger, offline, without the platform.

    python verify.py EXPORT --key VKEY [--key VKEY] [--since CHECKPOINT] [--json]

It needs Python 3.11, the library `cryptography`, and for a compressed export Python 3.14, the
library `backports.zstd` or the program `zstd`. Exit code: 0 all is as it was signed, 1 it is not,
2 it cannot be told (no such file, no such key, a form that is not known).

What an export is: lines of JSON. The first says what follows and holds a signed checkpoint (C2SP
tlog-checkpoint); then entries in the order of their places, as the exact bytes that were hashed.
Where places are left out, a `gap` gives the hashes of the subtrees that cover them (RFC 9162
section 2.1). So the root is computed anew from each entry, and is the signed root only if every
entry stands at its place, unchanged, with nothing inserted, removed or moved.

Nothing in an export is believed but what a key of yours has signed. `stored` lines, which an
exporter adds where its database contradicts itself, only help to say where the damage is: they are
used as far as they lead to the signed root.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, BinaryIO, TextIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "tensorguard-ledger-export/1"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_LINE_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024
TOLD_EVERY = 20_000
MOST_STORED = 100_000
CLOSE = 4
LARGE = 10
"""The level from which on a Map remembers every subtree: of 1,024 leaves."""
PLAIN, ENTRY, END = b'{"leaf_index":', b',"entry":"', b'"}\n'
"""How an exporter writes an entry's line."""

Node = tuple[int, int]
"""(level, offset): the complete subtree of 2^level leaves from leaf offset * 2^level on."""


class Unusable(Exception):
    """It cannot be told whether the ledger is as it was: exit code 2."""


class Damaged(Exception):
    """The export is not what was signed: exit code 1."""

    def __init__(self, what: str, first: int | None = None, last: int | None = None) -> None:
        super().__init__(what)
        self.first = first
        self.last = first if last is None else last


# The tree (RFC 9162 section 2.1)


def hash_leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Edge:
    """The right edge of a tree that grows by leaves, or by whole subtrees where they fit."""

    def __init__(self) -> None:
        self.size = 0
        self.hashes: list[bytes] = []  # one for each bit of size, the largest subtree first

    def append(self, value: bytes, level: int = 0) -> None:
        place, hashes, sha256 = self.size >> level, self.hashes, hashlib.sha256
        self.size += 1 << level
        while place & 1:
            value = sha256(b"\x01" + hashes.pop() + value).digest()
            place >>= 1
        hashes.append(value)

    def root(self) -> bytes:
        if not self.hashes:
            return hashlib.sha256(b"").digest()
        value = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            value = hash_node(left, value)
        return value


def subtrees(start: int, end: int) -> Iterator[Node]:
    """The complete subtrees that cover the leaves start … end-1, from left to right."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


class Map(Edge):
    """A tree that remembers its subtrees: the large ones, and within a window all of them.

    Of a million entries these are two thousand hashes, so that a large export needs no more memory
    than a small one; whoever wants to know more reads the export again, with another window.
    """

    def __init__(self, window: range = range(0), wanted: bytes | None = None) -> None:
        super().__init__()
        self.nodes: dict[Node, bytes] = {}
        self.found: int | None = None
        """Where the leaf stands whose hash is `wanted`; the first of such."""
        self._window = window
        self._wanted = wanted

    def append(self, value: bytes, level: int = 0) -> None:
        place, hashes = self.size >> level, self.hashes
        self.size += 1 << level
        if level == 0 and value == self._wanted and self.found is None:
            self.found = place
        self._note(level, place, value)
        while place & 1:
            value = hash_node(hashes.pop(), value)
            place, level = place >> 1, level + 1
            self._note(level, place, value)
        hashes.append(value)

    def _note(self, level: int, place: int, value: bytes) -> None:
        first, end = place << level, (place + 1) << level
        if level >= LARGE or (self._window.start <= first and end <= self._window.stop):
            self.nodes[level, place] = value

    def find(self, start: int, end: int) -> bytes | None:
        """The hash of a span of the tree, if it is remembered."""
        right = dict(zip(subtrees(0, self.size), self.hashes, strict=True))
        found = [self.nodes.get(node) or right.get(node) for node in subtrees(start, end)]
        return fold(found)


def fold(values: list[bytes | None]) -> bytes | None:
    """The hash of subtrees that stand beside each other, the largest first; None if one is."""
    result: bytes | None = None
    for value in reversed(values):
        if value is None:
            return None
        result = value if result is None else hash_node(value, result)
    return result


def check_consistency(first: int, second: int, old: bytes, new: bytes, proof: list[bytes]) -> bool:
    """Whether a proof shows that the tree of `first` begins that of `second` (section 2.1.4.2)."""
    if not 1 <= first <= second:
        return False
    if first == second:
        return not proof and old == new
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, old)
    if not path:
        return False
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_root = new_root = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_root, new_root = hash_node(sibling, old_root), hash_node(sibling, new_root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_root = hash_node(new_root, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_root == old and new_root == new


# Signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint)


@dataclass(frozen=True)
class Key:
    name: str
    hash: bytes
    public: Ed25519PublicKey


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes


def read_key(text: str) -> Key:
    """A verifier key `<name>+<hash>+<base64>`, or a file that holds one."""
    if os.path.exists(text):  # noqa: PTH110  one import less to read
        with open(text, encoding="utf-8") as file:  # noqa: PTH123  as above
            text = file.read().strip()
    try:
        name, hash_hex, encoded = text.split("+", 2)  # base64 may hold a plus sign, a name may not
        data = base64.b64decode(encoded, validate=True)
        if len(data) != 33 or data[:1] != b"\x01":
            raise ValueError("not an Ed25519 key")
        key_hash = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        if key_hash.hex() != hash_hex:
            raise ValueError("its hash is of another name or key")
        return Key(name, key_hash, Ed25519PublicKey.from_public_bytes(data[1:]))
    except ValueError as error:
        raise Unusable(f"{text[:100]!r} is not a verifier key: {error}") from None


def open_note(note: str, keys: list[Key]) -> Checkpoint:
    """What a note says, once one of the keys is found to have signed it; a wrong one refuses."""
    text, found, tail = note.rpartition("\n\n")
    text += "\n"
    if not found:
        raise Damaged("the checkpoint carries no signature")
    signed = False
    for line in tail.splitlines():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "—":
            raise Damaged("a signature line of the checkpoint is malformed")
        try:
            data = base64.b64decode(parts[2], validate=True)
        except ValueError:
            raise Damaged("a signature of the checkpoint is not base64") from None
        for key in keys:
            if key.name == parts[1] and hmac.compare_digest(key.hash, data[:4]):
                try:
                    key.public.verify(data[4:], text.encode())
                except InvalidSignature:
                    raise Damaged(f"the signature of {key.name} does not verify") from None
                signed = True
    lines = text.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError):
        raise Damaged("the checkpoint has no origin, size and root") from None
    if not signed:
        names = ", ".join(sorted({key.name for key in keys}))
        raise Damaged(f"no key that was given has signed the checkpoint of {origin}: {names}")
    if origin not in {key.name for key in keys}:
        raise Damaged(f"the checkpoint is of {origin}, and no key is")
    if len(root) != 32 or size < 0:
        raise Damaged("the checkpoint's size or root cannot be")
    return Checkpoint(origin, size, root)


# Reading


def open_lines(source: str) -> BinaryIO:
    """The export's lines, decompressed if they are compressed; `-` is standard input."""
    try:
        file: Any = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115, PTH123
        if file.peek(4)[:4] != ZSTD_MAGIC:
            return file  # type: ignore[no-any-return]  # a BufferedReader
    except OSError as error:
        raise Unusable(f"{source}: {error.strerror}") from None
    for module in ("compression.zstd", "backports.zstd"):
        try:
            zstd: Any = __import__(module, fromlist=["open"])
        except ImportError:
            continue
        return io.BufferedReader(zstd.open(file), READ_BYTES)
    if program := shutil.which("zstd"):
        child = subprocess.Popen(  # noqa: S603  found on the path, fed a file
            [program, "-dcq"], stdin=file, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        return child.stdout  # type: ignore[return-value]  # a BufferedReader
    raise Unusable("the export is compressed: install the program zstd or 'backports.zstd'")


def parse_line(line: bytes) -> dict[str, Any]:
    if len(line) == MAX_LINE_BYTES:
        raise Unusable("a line is longer than 4 MiB")
    try:
        item = json.loads(line)
    except ValueError:
        raise Damaged("a line is not JSON: the file is cut off or damaged") from None
    if not isinstance(item, dict):
        raise Damaged("a line is not an object")
    return item


# Verifying


@dataclass
class Verdict:
    """What was found; the process's exit code and its JSON."""

    ok: bool = False
    problem: str | None = None
    first_bad_index: int | None = None
    last_bad_index: int | None = None
    origin: str | None = None
    tree_size: int | None = None
    root: str | None = None
    entries: int = 0
    first_index: int | None = None
    last_index: int | None = None
    since_size: int | None = None
    keys_named: list[str] = field(default_factory=list)


@dataclass
class Read:
    """What one pass over an export gives; what it holds does not grow with the export."""

    edge: Edge = field(default_factory=Edge)
    entries: int = 0
    first_index: int | None = None
    last_index: int | None = None
    missing: range = range(0)
    """The first places that the database has lost."""
    stored: dict[Node, bytes] = field(default_factory=dict)
    """Hashes as the database says they are."""
    roots: dict[int, bytes] = field(default_factory=dict)
    """Of the sizes that are watched."""
    proofs: dict[int, list[bytes]] = field(default_factory=dict)
    is_whole: bool = False


def verify(source: str, keys: list[Key], since: str | None, progress: "Progress") -> Verdict:
    """Verify an export. Raises: Unusable."""
    if source == "-":  # what is damaged is read again, to say where
        with tempfile.NamedTemporaryFile(prefix="ledger-") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            return verify(file.name, keys, since, progress)
    verdict = Verdict()
    try:
        _verify(source, keys, since, progress, verdict)
        verdict.ok = True
    except Damaged as damage:
        verdict.problem = str(damage)
        verdict.first_bad_index, verdict.last_bad_index = damage.first, damage.last
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        verdict.problem = f"a line of the export has not the form of one: {error!r}"
    return verdict


def _verify(
    source: str, keys: list[Key], since: str | None, progress: "Progress", verdict: Verdict
) -> None:
    read = Read()
    with open_lines(source) as file:
        head = parse_line(file.readline(MAX_LINE_BYTES) or b"{}")
        if head.get("format") != FORMAT:
            raise Unusable(f"the first line is not that of a {FORMAT}")
        checkpoint = open_note(head["checkpoint"], keys)
        verdict.origin, verdict.tree_size = checkpoint.origin, checkpoint.size
        verdict.root = checkpoint.root.hex()
        older = _read_since(since, keys, checkpoint)
        progress.start(int(head.get("entries", 0)))
        try:
            _read(file, read, {older.size} if older else set(), progress)
        finally:
            progress.end()
            verdict.entries = read.entries
            verdict.first_index, verdict.last_index = read.first_index, read.last_index
    if not read.is_whole:
        raise Damaged("the export is cut off: its last line is missing")
    if read.missing or read.edge.size != checkpoint.size or read.edge.root() != checkpoint.root:
        raise locate(source, checkpoint, read)
    if older is not None:
        _check_since(older, checkpoint, read)
        verdict.since_size = older.size


def _read(lines: BinaryIO, read: Read, watched: set[int], progress: "Progress") -> None:
    """Read all lines after the first."""
    edge, decode, sha256, append = read.edge, binascii.a2b_base64, hashlib.sha256, read.edge.append
    entries = 0
    for line in iter(partial(lines.readline, MAX_LINE_BYTES), b""):
        if not (line.startswith(PLAIN) and line.endswith(END)):  # most by far need no JSON
            item = parse_line(line)
            if "end" in item:
                read.is_whole = item["end"] == entries
                return
            if "leaf_index" not in item:
                _read_other(item, read, watched)
                if edge.size in watched:
                    read.roots[edge.size] = edge.root()
                continue
            line = b"%s%d%s%s%s" % (PLAIN, item["leaf_index"], ENTRY, item["entry"].encode(), END)
        number, found, entry = line[len(PLAIN) : -len(END)].partition(ENTRY)
        index = int(number)
        if index != edge.size:
            raise _out_of_place(index, edge.size)
        if not found:
            raise Damaged(f"the line of entry {index} has another form", index)
        append(sha256(b"\x00" + decode(entry)).digest())
        if not entries:
            read.first_index = index
        entries += 1
        read.entries, read.last_index = entries, index
        if not entries % TOLD_EVERY:
            progress.tell(entries)
        if index + 1 in watched:
            read.roots[index + 1] = edge.root()


def _read_other(item: dict[str, Any], read: Read, watched: set[int]) -> None:
    """Read a line that is no entry."""
    edge, decode = read.edge, binascii.a2b_base64
    if "gap" in item:
        start, end = item["gap"]
        if start != edge.size or end <= start:
            raise _out_of_place(start, edge.size)
        nodes, hashes = list(subtrees(start, end)), item["hashes"]
        if len(nodes) != len(hashes):
            raise Damaged("a gap has too many hashes or too few", start, end - 1)
        for (level, _), value in zip(nodes, map(decode, hashes), strict=True):
            if len(value) != 32:
                raise Damaged("a hash of a gap is not one of SHA-256", start, end - 1)
            edge.append(value, level)
    elif "missing" in item:
        place = item["missing"]
        if place != edge.size:
            raise _out_of_place(place, edge.size)
        if not read.missing:
            read.missing = range(place, place + 1)
        elif place == read.missing.stop:
            read.missing = range(read.missing.start, place + 1)
        edge.append(bytes(32))
    elif "stored" in item:
        level, offset, value = item["stored"]
        if len(read.stored) < MOST_STORED:
            read.stored[level, offset] = decode(value)
    elif "consistency" in item:
        if item["consistency"] in watched:
            read.proofs[item["consistency"]] = [decode(value) for value in item["hashes"]]
    else:
        raise Damaged("a line is of no kind that there is")


def _out_of_place(found: int, expected: int) -> Damaged:
    if found > expected:
        return Damaged(f"entry {expected} is missing", expected, found - 1)
    return Damaged(f"entry {found} comes where entry {expected} belongs", found)


def _read_since(path: str | None, keys: list[Key], new: Checkpoint) -> Checkpoint | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  one import less to read
            older = open_note(file.read(), keys)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    if older.origin != new.origin:
        raise Unusable(f"the older checkpoint is of {older.origin}, the export of {new.origin}")
    if older.size > new.size:
        raise Damaged(
            f"the older checkpoint has {older.size} entries, the export's {new.size}: entries that"
            " were signed are gone",
            new.size,
            older.size - 1,
        )
    return older


def _check_since(older: Checkpoint, new: Checkpoint, read: Read) -> None:
    proof = read.proofs.get(older.size)
    if older.size == new.size:
        good = older.root == new.root
    elif older.size in read.roots:
        good = read.roots[older.size] == older.root
    elif proof is not None:
        good = check_consistency(older.size, new.size, older.root, new.root, proof)
    else:
        raise Unusable(
            f"the export cannot be compared with a checkpoint of {older.size} entries:"
            " export from entry 0, or ask for it with --since"
        )
    if not good:
        raise Damaged(
            f"the ledger of {new.size} entries does not begin with the {older.size} that were"
            " signed before: history was rewritten and signed again",
            0,
            older.size - 1,
        )


# Naming what is wrong: only with hashes that lead to the signed root


def locate(source: str, checkpoint: Checkpoint, read: Read) -> Damaged:
    """Say where the entries differ from what was signed, as exactly as that can be proven.

    The export is read again for it: for the large subtrees first, then closely where they differ.
    """
    size = checkpoint.size
    if read.edge.size < size and not read.missing:
        return Damaged(
            f"entry {read.edge.size} and all after it are missing", read.edge.size, size - 1
        )
    if read.edge.size > size:
        return Damaged(f"there are {read.edge.size - size} entries more than were signed", size)
    coarse = _map(source)
    first, end, wanted = _descend(coarse, read.stored, 0, size, checkpoint.root)
    window = range(first, min(end, first + (1 << LARGE)) + CLOSE)
    fine = _map(source, window)
    first, end, wanted = _descend(fine, read.stored, first, end, wanted)
    if read.missing and read.missing.start < end:
        first, last = read.missing.start, read.missing.stop - 1
        which = f"entry {first} was" if first == last else f"entries {first} to {last} were"
        return Damaged(f"{which} deleted", first, last)
    if end - first == 1:
        return _describe(fine, read.stored, first, wanted, _map(source, wanted=wanted).found)
    if end - first == 2:
        found = _explain_pair(fine, read.stored, first, wanted)
        if found is not None:
            return found
    return Damaged(f"an entry from {first} to {end - 1} is not what was signed", first, end - 1)


def _map(source: str, window: range = range(0), wanted: bytes | None = None) -> Map:
    """Read an export once more, for what stands in it and where."""
    found = Map(window, wanted)
    with open_lines(source) as file:
        file.readline(MAX_LINE_BYTES)
        _read(file, Read(edge=found), set(), Progress(sys.stderr, wanted=False))
    return found


def _descend(
    read: Map, stored: dict[Node, bytes], start: int, end: int, wanted: bytes
) -> tuple[int, int, bytes]:
    """The smallest span with damage whose true hash is known, and that hash."""
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        left, right = (_claimed(read, stored, *span) for span in ((start, middle), (middle, end)))
        computed = read.find(start, middle)
        if left is None or right is None or hash_node(left, right) != wanted or computed is None:
            break  # from here on the database's own hashes are wrong as well, or too small for this
        if computed != left:
            end, wanted = middle, left
        else:
            start, wanted = middle, right
    return start, end, wanted


def _claimed(read: Map, stored: dict[Node, bytes], start: int, end: int) -> bytes | None:
    """What the database says is the hash of a span; what it does not say is computed."""
    said = fold([stored.get(node) for node in subtrees(start, end)])
    return read.find(start, end) if said is None else said


def _describe(
    read: Map, stored: dict[Node, bytes], index: int, wanted: bytes, elsewhere: int | None
) -> Damaged:
    """What has become of one entry whose true leaf hash is known."""
    if elsewhere is None:
        return Damaged(f"entry {index} was edited", index)
    next_but_one = read.nodes.get((0, index + 2))
    if elsewhere == index + 1 and next_but_one == stored.get((0, index + 1)):
        return Damaged(f"entry {index} was inserted", index)
    return Damaged(f"entry {index} was moved: it stands at {elsewhere}", index)


def _explain_pair(
    read: Map, stored: dict[Node, bytes], first: int, wanted: bytes
) -> Damaged | None:
    """What has become of two entries of which only the hash of both is known."""
    one, two, three = (read.nodes.get((0, first + at)) for at in range(3))
    if one and two and hash_node(two, one) == wanted:
        return Damaged(f"entries {first} and {first + 1} have changed places", first, first + 1)
    if one and three and hash_node(one, three) == wanted:
        return Damaged(f"entry {first + 1} was inserted", first + 1)
    if two and three and hash_node(two, three) == wanted:
        return Damaged(f"entry {first} was inserted", first)
    following = stored.get((1, first // 2 + 1))
    if two and three and following and hash_node(two, three) == following:
        return Damaged(f"entry {first} or {first + 1} was deleted", first, first + 1)
    return None


# Telling


class Progress:
    """A bar on a terminal, and nothing elsewhere."""

    def __init__(self, stream: TextIO, *, wanted: bool) -> None:
        self._stream = stream if wanted and stream.isatty() else None
        self._total = 0

    def start(self, total: int) -> None:
        self._total = total

    def tell(self, done: int) -> None:
        if self._stream is None:
            return
        share = min(1.0, done / self._total) if self._total else 0.0
        bar = "█" * int(share * 30)
        self._stream.write(f"\r{bar:30} {share:4.0%}  {done:,} entries")
        self._stream.flush()

    def end(self) -> None:
        if self._stream is not None:
            self._stream.write("\r\x1b[K")


def describe(verdict: Verdict) -> str:
    """The verdict for people."""
    if not verdict.ok:
        return f"NOT VERIFIED: {verdict.problem}"
    lines = [
        f"verified: {verdict.entries:,} entries of {verdict.origin}",
        f"  tree of {verdict.tree_size:,} entries, root {verdict.root}",
    ]
    if verdict.entries:
        lines.append(f"  entries {verdict.first_index} to {verdict.last_index}")
    if left_out := (verdict.tree_size or 0) - verdict.entries:
        lines.append(f"  {left_out:,} entries of the tree are not in this export")
    if verdict.since_size is not None:
        lines.append(f"  it begins with the {verdict.since_size:,} entries that were signed before")
    return "\n".join(lines)


def run(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tensorguard ledger verify", description="Verify an export of the ledger, offline."
    )
    parser.add_argument("export", help="The file; - is standard input.")
    parser.add_argument(
        "--key", action="append", required=True, help="A verifier key, or its file; repeatable."
    )
    parser.add_argument("--since", metavar="CHECKPOINT", help="A file with an older signed note.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    given = parser.parse_args(arguments)
    progress = Progress(sys.stderr, wanted=not given.json)
    try:
        keys = [read_key(text) for text in given.key]
        verdict = verify(given.export, keys, given.since, progress)
    except Unusable as error:
        print(json.dumps({"ok": None, "problem": str(error)}) if given.json else f"error: {error}")
        return 2
    print(json.dumps(asdict(verdict)) if given.json else describe(verdict))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(run())
