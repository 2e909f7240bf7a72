"""Who was refused lately, by address: another TLS handshake with them is 2 ms of CPU for nothing.

A certificate is seen only after the handshake, so that what bounds the refused has to know them by
where they come from. One address stands for everybody behind its NAT: whoever is admitted costs
nothing, and the bucket is wide enough for the refused neighbours of a whole site.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from broker.embedded.limits import Limits

_V4_IN_V6: Final = bytes(10) + b"\xff\xff"
_V6_NETWORK_BYTES: Final = 8  # a /64 is one customer; inside it addresses cost nothing


def network_of(peer: Any) -> bytes:
    """Return what one source shares, from a socket's peer name: an IPv4 address, or an IPv6 /64."""
    host = str(peer[0]).partition("%")[0] if peer else ""
    try:
        if ":" not in host:
            return socket.inet_aton(host)
        packed = socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return b""
    if packed.startswith(_V4_IN_V6):
        return packed[len(_V4_IN_V6) :]
    return packed[:_V6_NETWORK_BYTES]


class _Bucket:
    """Tokens that come back at a rate, up to a burst; may be overdrawn by as much."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def has_one(self, now: float) -> bool:
        self._refill(now)
        return self._tokens >= 1

    def take(self, now: float) -> None:
        self._refill(now)
        # Handshakes that began together are refused together, after the bucket was empty.
        self._tokens = max(self._tokens - 1, -self._burst)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now


class _Source:
    """What is remembered of one address."""

    __slots__ = ("admitted_at", "bucket", "refused_at", "streak")

    def __init__(self, bucket: _Bucket) -> None:
        self.bucket = bucket
        self.streak = 0
        self.refused_at = float("-inf")
        self.admitted_at = float("-inf")


class Strangers:
    """Decides before the handshake whether a newcomer is worth it.

    Two rules. An address has `refusals_per_s` refused handshakes. While all addresses together have
    more than `storm_refusals_per_s`, one that has only been refused waits longer each time.
    """

    def __init__(self, limits: Limits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._sources: OrderedDict[bytes, _Source] = OrderedDict()
        self._storm = _Bucket(
            limits.storm_refusals_per_s, limits.storm_refusal_burst, self._monotonic()
        )

    def may_try(self, network: bytes) -> bool:
        """Tell whether to begin a handshake with somebody from there."""
        source = self._sources.get(network)
        if source is None:
            return True
        now = self._monotonic()
        if not source.bucket.has_one(now):
            return False
        return self._storm.has_one(now) or now >= self._waits_until(source, now)

    def refused(self, network: bytes) -> None:
        """Count a handshake that ended with a refusal."""
        now = self._monotonic()
        source = self._source(network, now)
        source.bucket.take(now)
        self._storm.take(now)
        source.streak += 1
        source.refused_at = now

    def kicked(self, network: bytes) -> None:
        """Count a revoked agent's session: it will come back, and be refused."""
        self.refused(network)
        self._sources[network].admitted_at = float("-inf")

    def admitted(self, network: bytes) -> None:
        """Note that somebody there is one of ours."""
        now = self._monotonic()
        source = self._source(network, now)
        source.streak = 0
        source.admitted_at = now

    def _waits_until(self, source: _Source, now: float) -> float:
        trusted_s = self._limits.storm_trust.total_seconds()
        if not source.streak or now - source.admitted_at < trusted_s:
            return now
        first_s = self._limits.storm_wait.total_seconds()
        most_s = self._limits.storm_wait_most.total_seconds()
        return source.refused_at + min(most_s, first_s * 2.0 ** min(source.streak - 1, 20))

    def _source(self, network: bytes, now: float) -> _Source:
        source = self._sources.get(network)
        if source is None:
            limits = self._limits
            source = _Source(_Bucket(limits.refusals_per_s, limits.refusal_burst, now))
            self._sources[network] = source
            if len(self._sources) > limits.sources:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(network)
        return source
