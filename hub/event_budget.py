"""How many events an agent may report: 60 a minute, burst 1,000, and 10,000 a day; pure."""

import hashlib
from dataclasses import dataclass, replace
from datetime import date, datetime

PER_SECOND = 1.0
BURST = 1_000.0
PER_DAY = 10_000


@dataclass(frozen=True, slots=True)
class EventBudget:
    """A token bucket and a day's count, and the excess that has not become a ledger entry yet."""

    tokens: float
    refilled_at: datetime
    day: date
    day_count: int
    excess: int = 0
    excess_since: datetime | None = None
    excess_sha256: bytes | None = None

    @classmethod
    def full(cls, now: datetime) -> "EventBudget":
        """Return the budget of an agent that has reported nothing yet."""
        return cls(BURST, now, now.date(), 0)

    def refill(self, now: datetime) -> "EventBudget":
        """Return the budget at `now`; a clock that stepped back gives nothing and takes nothing."""
        if now <= self.refilled_at:
            return self
        gained = (now - self.refilled_at).total_seconds() * PER_SECOND
        day_count = self.day_count if now.date() == self.day else 0
        return replace(
            self,
            tokens=min(BURST, self.tokens + gained),
            refilled_at=now,
            day=now.date(),
            day_count=day_count,
        )

    @property
    def allows(self) -> bool:
        """Whether one more event may become an entry of its own."""
        return self.tokens >= 1 and self.day_count < PER_DAY

    def spend(self) -> "EventBudget":
        """Return the budget after one event."""
        return replace(self, tokens=self.tokens - 1, day_count=self.day_count + 1)

    def exceed(self, payload_sha256: bytes, now: datetime) -> "EventBudget":
        """Return the budget after one event too many: counted, and chained into the digest."""
        chained = hashlib.sha256((self.excess_sha256 or b"") + payload_sha256).digest()
        return replace(
            self,
            excess=self.excess + 1,
            excess_since=self.excess_since or now,
            excess_sha256=chained,
        )

    def told(self) -> "EventBudget":
        """Return the budget after its excess became an entry."""
        return replace(self, excess=0, excess_since=None, excess_sha256=None)
