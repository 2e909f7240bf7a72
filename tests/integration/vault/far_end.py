"""What all fakes of a cloud's key service have in common: how their failures are ordered."""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa

HANG_S = 2.0


@dataclass
class Faults:
    """What the next requests are to meet; `ops` counts requests by operation."""

    throttled: int = 0
    internal: int = 0
    hanging: int = 0
    corrupted: int = 0
    denied: bool = False
    ops: Counter[str] = field(default_factory=Counter)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def count(self, operation: str) -> None:
        with self.lock:
            self.ops[operation] += 1
            self.log.append(operation)

    def take(self, name: str) -> bool:
        """Tell whether this request is to meet the fault `name`, once."""
        with self.lock:
            left = getattr(self, name)
            if left:
                setattr(self, name, left - 1)
            return bool(left)

    def hang(self) -> None:
        """Answer too late, but let a test end."""
        self.ended.wait(HANG_S)

    @property
    def calls(self) -> int:
        return sum(self.ops.values())


@cache
def wrapping_key() -> rsa.RSAPrivateKey:
    """What imports are wrapped for: one key a process, because making it takes a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)
