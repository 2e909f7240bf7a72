"""What happened in a simulation: counters, latencies, a line while it runs, a summary."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_PER_DECADE = 50  # buckets: a latency is known to within 5 %
_DECADES = 7
_LEAST_S = 0.0001


class Latencies:
    """A histogram with logarithmic buckets from 0.1 ms to 1,000 s, in constant memory."""

    def __init__(self) -> None:
        self._buckets = [0] * (_PER_DECADE * _DECADES + 1)
        self.count = 0
        self.most_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self.count += 1
        self.most_s = max(self.most_s, seconds)
        position = math.log10(max(seconds, _LEAST_S) / _LEAST_S) * _PER_DECADE
        self._buckets[min(len(self._buckets) - 1, int(position))] += 1

    def quantile_s(self, share: float) -> float | None:
        """Return the upper edge of the bucket in which this share of all is reached."""
        left = math.ceil(share * self.count)
        if not self.count:
            return None
        for index, count in enumerate(self._buckets):
            left -= count
            if left <= 0:
                return min(self.most_s, _LEAST_S * 10 ** ((index + 1) / _PER_DECADE))
        return self.most_s

    def summary_ms(self) -> dict[str, float | None]:
        """p50, p95, p99 and the maximum in milliseconds."""
        found = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        quantiles = {name: self.quantile_s(share) for name, share in found.items()}
        return {n: None if s is None else round(s * 1000, 2) for n, s in quantiles.items()}


@dataclass(slots=True)
class Statistics:
    """Counters of a run. Events are counted once in `published`, each repetition in `repeated`."""

    agents: int = 0
    enrolled: int = 0
    online: int = 0
    connects: int = 0
    refused: int = 0
    disconnects: int = 0
    heartbeats: int = 0
    published: int = 0
    repeated: int = 0
    acked: int = 0
    rejected: int = 0
    overflowed: int = 0
    link_dropped: int = 0
    messages_down: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ack_latency: Latencies = field(default_factory=Latencies)
    connect_latency: Latencies = field(default_factory=Latencies)

    def line(self, elapsed_s: float, held: int) -> str:
        """One line for a person who watches."""
        p99_s = self.ack_latency.quantile_s(0.99)
        p99 = "-" if p99_s is None else f"{p99_s * 1000:.0f} ms"
        return (
            f"{elapsed_s:7.0f} s  online {self.online}/{self.agents}  "
            f"heartbeats {self.heartbeats}  events {self.published}  acked {self.acked}  "
            f"held {held}  ack p99 {p99}  refused {self.refused}"
        )

    def summary(self, *, duration_s: float, held: int, memory_kib: float | None) -> dict[str, Any]:
        """The JSON document at the end; `lost` is what is neither acked nor held any more."""
        lost = self.published - self.acked - self.rejected - held
        return {
            "agents": self.agents,
            "enrolled": self.enrolled,
            "duration_s": round(duration_s, 3),
            "connects": self.connects,
            "refused": self.refused,
            "disconnects": self.disconnects,
            "heartbeats": self.heartbeats,
            "published": self.published,
            "acked": self.acked,
            "rejected": self.rejected,
            "lost": max(0, lost),
            "overflowed": self.overflowed,
            "duplicates": self.repeated,
            "not_drained": held,
            "dropped_by_full_links": self.link_dropped,
            "messages_down": self.messages_down,
            "ack_latency_ms": self.ack_latency.summary_ms(),
            "connect_latency_ms": self.connect_latency.summary_ms(),
            "deployments": dict(sorted(self.stages.items())),
            "reasons": dict(self.reasons.most_common(10)),
            "memory_kib_per_agent": None if memory_kib is None else round(memory_kib, 1),
        }
