"""Memory for keys: not swapped out, not dumped, not handed to children, and wiped when let go."""

import ctypes
import mmap
import resource
import sys
from typing import Final

import structlog

log = structlog.get_logger(__name__)
# linux/mman.h
_MADV_DONTDUMP: Final = 16
_MADV_WIPEONFORK: Final = 18
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


class SecretMemory:
    """Slots of one size in a locked page; what is read is a copy, which Python frees unwiped.

    `is_locked` tells whether the system let the pages be locked; the rest works without.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, max(1, slots * slot_bytes), flags=flags)
        self._free = list(range(slots))
        self.is_locked = self._lock()

    def put(self, secret: bytes) -> int:
        """Store a secret and return its slot. Raises: ValueError, MemoryError if all are taken."""
        if len(secret) != self._slot_bytes:
            raise ValueError(f"a slot has {self._slot_bytes} bytes")
        if not self._free:
            raise MemoryError("every slot is taken")
        slot = self._free.pop()
        at = slot * self._slot_bytes
        self._memory[at : at + self._slot_bytes] = secret
        return slot

    def read(self, slot: int) -> bytes:
        """Return what is in a slot."""
        at = slot * self._slot_bytes
        return self._memory[at : at + self._slot_bytes]

    def wipe(self, slot: int) -> None:
        """Overwrite a slot, and have it be free."""
        at = slot * self._slot_bytes
        self._memory[at : at + self._slot_bytes] = bytes(self._slot_bytes)
        self._free.append(slot)

    def _lock(self) -> bool:
        if sys.platform == "linux":
            for advice in (_MADV_DONTDUMP, _MADV_WIPEONFORK):
                try:
                    self._memory.madvise(advice)
                except (OSError, ValueError):
                    log.info("secret_memory_not_advised", advice=advice)
        libc = ctypes.CDLL(None, use_errno=True)
        view = ctypes.c_char.from_buffer(self._memory)
        done = bool(libc.mlock(ctypes.byref(view), ctypes.c_size_t(len(self._memory))) == 0)
        if not done:
            log.warning("secret_memory_not_locked", errno=ctypes.get_errno())
        return done


def forbid_core_dumps() -> None:
    """Let this process leave no core dump, in which its keys would be."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The limit does not hold for a dump that is piped to a program (core(5)).
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            log.warning("process_stays_dumpable", errno=ctypes.get_errno())
