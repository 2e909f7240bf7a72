"""Failed attempts: after a few, each further one has to wait longer. Bounded, in memory."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from api.errors import TooManyRequests
from tensorguard.services.enrollment.enrollment_failures import network_of

FREE_FOR_ACCOUNT: Final = 5
FREE_FOR_NETWORK: Final = 30
LONGEST_WAIT: Final = timedelta(minutes=15)
MAX_REMEMBERED: Final = 10_000


@dataclass
class _Failures:
    count: int
    blocked_until: datetime


class Attempts:
    """Counts failures by (account, network) and by network alone.

    Without an address they count by account, from wherever they come.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[Hashable, _Failures] = OrderedDict()

    def check(self, account: str, address: str | None, now: datetime) -> None:
        """Let an attempt through, or not yet.

        Raises: TooManyRequests.
        """
        for key in _keys(account, address):
            known = self._failures.get(key)
            if known is not None and known.blocked_until > now:
                wait = known.blocked_until - now
                raise TooManyRequests(
                    "too many failed attempts", retry_after_s=int(wait.total_seconds()) + 1
                )

    def failed(self, account: str, address: str | None, now: datetime) -> None:
        """Count a failure; beyond the free ones the wait doubles each time."""
        for key in _keys(account, address):
            free = FREE_FOR_ACCOUNT if len(key) > 1 else FREE_FOR_NETWORK
            known = self._failures.pop(key, None)
            forgotten = known is None or now - known.blocked_until > LONGEST_WAIT
            count = 1 if known is None or forgotten else known.count + 1
            wait = timedelta(seconds=0 if count < free else 2 ** min(count - free, 10))
            self._failures[key] = _Failures(count, now + min(wait, LONGEST_WAIT))
            if len(self._failures) > MAX_REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, account: str, address: str | None) -> None:
        """Forget the account's failures from this network."""
        self._failures.pop(_keys(account, address)[0], None)


@dataclass
class _Bucket:
    left: float
    filled_at: datetime


class Budget:
    """What a network may cause: much at once, little for long; refilled by time alone.

    For what costs work and nothing else, such as failed proofs that cannot be guessed.
    """

    def __init__(self, what: str, *, burst: int, per_second: float) -> None:
        self._what = what
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def check(self, address: str, now: datetime) -> None:
        """Let an attempt through while the network has something left.

        Raises: TooManyRequests.
        """
        bucket = self._buckets.get(network_of(address))
        if bucket is not None and self._left(bucket, now) < 1:
            raise TooManyRequests(f"too many {self._what}", retry_after_s=1)

    def spend(self, address: str, now: datetime) -> None:
        """Count one."""
        network = network_of(address)
        bucket = self._buckets.pop(network, None)
        left = self._burst if bucket is None else self._left(bucket, now)
        self._buckets[network] = _Bucket(max(left - 1, 0.0), now)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)

    def _left(self, bucket: _Bucket, now: datetime) -> float:
        passed_s = max((now - bucket.filled_at).total_seconds(), 0.0)
        return min(self._burst, bucket.left + passed_s * self._per_second)


def _keys(account: str, address: str | None) -> tuple[tuple[str, ...], ...]:
    if address is None:
        return ((account.lower(), "anywhere"),)
    network = network_of(address)
    return (account.lower(), network), (network,)
