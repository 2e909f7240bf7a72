"""How long to wait before the next try: full jitter, so that a fleet does not come back at once.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ (full jitter).
"""

from collections.abc import Callable
from dataclasses import dataclass

Uniform = Callable[[], float]  # a number in [0, 1)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits of `first_s` · 2ⁿ up to `most_s`, each times a random number, never below `least_s`."""

    first_s: float
    most_s: float
    least_s: float = 0.1

    def delay_s(self, attempt: int, uniform: Uniform) -> float:
        """Return the wait before try number `attempt` (from 0)."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(attempt, 40))
        return max(self.least_s, ceiling * uniform())


CONNECT = Backoff(first_s=1.0, most_s=300.0)
# Who was told that it may not connect is not told otherwise a second later: at once up to 256 s.
REFUSED_ATTEMPT = 8
# Who decides that says so at once. A NATS server says the same after 5 s of asking nobody.
REFUSED_WITHIN_S = 3.0
DOWNLOAD = Backoff(first_s=1.0, most_s=60.0)
EVENTS = Backoff(first_s=10.0, most_s=60.0, least_s=2.0)
REQUEST = Backoff(first_s=10.0, most_s=300.0, least_s=3.0)
REOPEN = Backoff(first_s=60.0, most_s=900.0, least_s=10.0)
RECOVERY = Backoff(first_s=30.0, most_s=3600.0, least_s=5.0)
