"""Failed sign-ins: after a few, each further one has to wait longer. Bounded, in memory."""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from api.errors import TooManyRequests

FREE_FOR_ACCOUNT: Final = 5
FREE_FOR_NETWORK: Final = 30
LONGEST_WAIT: Final = timedelta(minutes=15)
MAX_REMEMBERED: Final = 10_000


@dataclass
class _Failures:
    count: int
    blocked_until: datetime


class Attempts:
    """Counts failures by (account, network) and by network alone."""

    def __init__(self) -> None:
        self._failures: OrderedDict[Hashable, _Failures] = OrderedDict()

    def check(self, account: str, address: str, now: datetime) -> None:
        """Let an attempt through, or not yet.

        Raises: TooManyRequests.
        """
        for key in _keys(account, address):
            known = self._failures.get(key)
            if known is not None and known.blocked_until > now:
                wait = known.blocked_until - now
                raise TooManyRequests(
                    "too many failed sign-ins", retry_after_s=int(wait.total_seconds()) + 1
                )

    def failed(self, account: str, address: str, now: datetime) -> None:
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

    def succeeded(self, account: str, address: str) -> None:
        """Forget the account's failures from this network."""
        self._failures.pop(_keys(account, address)[0], None)


def network_of(address: str) -> str:
    """Return the /24 or /64 of an address: what one attacker has for nothing."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    prefix = 24 if parsed.version == 4 else 64
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


def _keys(account: str, address: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    network = network_of(address)
    return (account.lower(), network), (network,)
