"""Failed enrollments, counted: nobody can flood a ledger in which nothing is ever deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import SYSTEM, AgentEnrollmentFailed

MOST_COUNTERS: Final = 200
OVERFLOW: Final = "enrollment-failures-not-listed"


@dataclass(frozen=True, slots=True)
class _Kind:
    code: str
    network: str
    minute: datetime


Counts = Mapping[_Kind, int]


class EnrollmentFailures:
    """Counts refusals per (code, /24 or /64, minute), in memory, at most 200 kinds of them.

    The network only keeps counters apart: an address never goes into the ledger.
    """

    def __init__(self, most_counters: int = MOST_COUNTERS) -> None:
        self._counts: dict[_Kind, int] = {}
        self._most_counters = most_counters

    def count(self, code: str, peer_ip: str, now: datetime) -> None:
        """Count one refusal; when there are too many kinds, the rest is counted as one a minute."""
        minute = now.replace(second=0, microsecond=0)
        kind = _Kind(code, network_of(peer_ip), minute)
        if kind not in self._counts and len(self._counts) >= self._most_counters:
            kind = _Kind(OVERFLOW, "", minute)
            if kind not in self._counts:
                # The oldest overflow takes it when flushes fail for long: memory stays bounded.
                kind = next((one for one in self._counts if one.code == OVERFLOW), kind)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def __len__(self) -> int:
        return len(self._counts)

    async def flush(self, session: AsyncSession, *, now: datetime) -> Counts:
        """Write one entry per kind whose minute is over, and return what was written.

        Give it to `forget` once the transaction is committed.
        """
        minute = now.replace(second=0, microsecond=0)
        due = {kind: count for kind, count in self._counts.items() if kind.minute < minute}
        events = [
            AgentEnrollmentFailed(by=SYSTEM, reason=kind.code, count=count, since=kind.minute)
            for kind, count in due.items()
        ]
        await ledger.record_many(session, events, now=now)
        return due

    def forget(self, written: Counts) -> None:
        """Drop what a committed `flush` has written."""
        for kind, count in written.items():
            self._counts[kind] -= count
            if not self._counts[kind]:
                del self._counts[kind]


def network_of(peer_ip: str) -> str:
    """The /24 or /64 that an address is counted in; whatever is no address is counted as one."""
    try:
        address = ip_address(peer_ip.partition("%")[0])
    except ValueError:
        return "unknown"
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
