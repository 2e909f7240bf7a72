"""Blocks in a ring: one thread reads, transforms and writes while two threads hash.

SHA-256 is the slowest step and lets go of the interpreter lock, so that both digests (plaintext
and ciphertext) cost no more than one on two cores. The ring bounds the memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Protocol

from tensorguard.tgsp.manifest import CHUNK_BYTES, TAG_BYTES

BLOCK_BYTES = 128 * CHUNK_BYTES  # measured: smaller ones are handed over too often
SEALED_BLOCK_BYTES = 128 * (CHUNK_BYTES + TAG_BYTES)  # whole chunks, so that no cipher keeps a part
# A cipher may give back what it held from the block before, with the tags of all its chunks.
RESULT_BYTES = BLOCK_BYTES + 4 * CHUNK_BYTES
SLOTS = 8  # enough that nobody waits; 33 MiB in all


class Digest(Protocol):
    """What hashlib gives."""

    def update(self, data: memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Slot:
    """Two buffers of one turn: what is read into `source`, and what becomes of it in `result`.

    `hashed` counts the threads that are through with them.
    """

    def __init__(self, threads: int) -> None:
        self.source = memoryview(bytearray(SEALED_BLOCK_BYTES))
        self.result = memoryview(bytearray(RESULT_BYTES))
        self.hashed = Semaphore(threads)


class _Hasher:
    """A thread that does what it is given, in that order, until it is given None."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Callable[[memoryview], object], memoryview] | Slot | None]
        self._queue = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.put = self._queue.put

    def settle(self) -> None:
        """Wait until all that was given is done, and end. Raises what went wrong."""
        self.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Slot):
                item.hashed.release()
            elif self._error is None:
                try:
                    item[0](item[1])
                except BaseException as error:
                    self._error = error


class Pipeline:
    """A ring of slots and two hashing threads, which keep the order in which they are fed."""

    def __init__(self) -> None:
        self._plaintext, self._ciphertext = _Hasher("tgsp-plaintext"), _Hasher("tgsp-ciphertext")
        self._hashers = [self._plaintext, self._ciphertext]
        self._slots = [Slot(len(self._hashers)) for _ in range(SLOTS)]
        self._turn = 0

    def next_slot(self) -> Slot:
        """Give the slot that was used longest ago, once it is free; the one before is done with."""
        self._hand_over()
        slot = self._slots[self._turn % SLOTS]
        self._turn += 1
        for _ in self._hashers:
            slot.hashed.acquire()
        return slot

    def hash_plaintext(self, digest: Digest, view: memoryview) -> None:
        """Hash a view of the present slot's buffers, which is not free until that is done."""
        self._plaintext.put((digest.update, view))

    def hash_ciphertext(self, digest: Digest, view: memoryview) -> None:
        """Hash a view of the present slot's buffers, which is not free until that is done."""
        self._ciphertext.put((digest.update, view))

    def settle(self) -> None:
        """Wait until everything that was fed is hashed, and end the threads."""
        while self._hashers:
            self._hashers.pop().settle()

    def _hand_over(self) -> None:
        if self._turn:
            for hasher in self._hashers:
                hasher.put(self._slots[(self._turn - 1) % SLOTS])


@contextmanager
def running_pipeline() -> Iterator[Pipeline]:
    """Run a pipeline's threads for the time of a with block."""
    pipeline = Pipeline()
    try:
        yield pipeline
    finally:
        pipeline.settle()
