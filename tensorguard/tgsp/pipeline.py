"""Blocks in a ring: one thread reads, transforms and writes while two threads hash.

SHA-256 is the slowest step and lets go of the interpreter lock, so that both digests (plaintext
and ciphertext) cost no more than one on two cores. The ring bounds the memory.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from tensorguard.tgsp.manifest import CHUNK_BYTES, TAG_BYTES

BLOCK_BYTES = 64 * CHUNK_BYTES  # small enough to stay in a core's cache between two steps
SEALED_BLOCK_BYTES = 64 * (CHUNK_BYTES + TAG_BYTES)  # whole chunks, so that no cipher keeps a part
# A cipher may give back what it held from the block before, with the tags of all its chunks.
RESULT_BYTES = BLOCK_BYTES + 4 * CHUNK_BYTES
SLOTS = 6


class Digest(Protocol):
    """What hashlib gives."""

    def update(self, data: memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Slot:
    """Two buffers of one turn: what is read into `source`, and what becomes of it in `result`."""

    def __init__(self) -> None:
        self.source = memoryview(bytearray(SEALED_BLOCK_BYTES))
        self.result = memoryview(bytearray(RESULT_BYTES))
        self.pending: list[Future[None]] = []

    def settle(self) -> None:
        """Wait until no thread reads the buffers any more."""
        for future in self.pending:
            future.result()
        self.pending.clear()


class Pipeline:
    """A ring of slots and two hashing threads, which keep the order in which they are fed."""

    def __init__(self, plaintext: ThreadPoolExecutor, ciphertext: ThreadPoolExecutor) -> None:
        self._plaintext = plaintext
        self._ciphertext = ciphertext
        self._slots = [Slot() for _ in range(SLOTS)]
        self._turn = 0

    def next_slot(self) -> Slot:
        """Give the slot that was used longest ago, once it is free."""
        slot = self._slots[self._turn % SLOTS]
        self._turn += 1
        slot.settle()
        return slot

    def hash_plaintext(self, digest: Digest, view: memoryview, slot: Slot) -> None:
        """Hash a view of the slot's buffers; the slot is not free until that is done."""
        slot.pending.append(self._plaintext.submit(digest.update, view))

    def hash_ciphertext(self, digest: Digest, view: memoryview, slot: Slot) -> None:
        """Hash a view of the slot's buffers; the slot is not free until that is done."""
        slot.pending.append(self._ciphertext.submit(digest.update, view))

    def settle(self) -> None:
        """Wait until everything that was fed is hashed."""
        for slot in self._slots:
            slot.settle()


@contextmanager
def running_pipeline() -> Iterator[Pipeline]:
    """Run a pipeline's threads for the time of a with block."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="tgsp-plaintext") as plaintext,
        ThreadPoolExecutor(1, thread_name_prefix="tgsp-ciphertext") as ciphertext,
    ):
        yield Pipeline(plaintext, ciphertext)
