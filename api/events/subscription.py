"""One listener: what it may and wants to hear, and a bounded queue of it."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tensorguard.services.hints import HintKind
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.stream import StoredHint

MAX_PENDING_BYTES: Final = 256 * 1024
PERMISSIONS: Final[Mapping[str, Permission]] = {
    HintKind.AGENT: Permission.AGENTS_READ,
    HintKind.DEPLOYMENT: Permission.DEPLOYMENTS_READ,
    HintKind.FLEET: Permission.FLEETS_READ,
    HintKind.PACKAGE: Permission.PACKAGES_READ,
    HintKind.RELEASE: Permission.RELEASES_READ,
    HintKind.APPROVAL: Permission.APPROVALS_READ,
    HintKind.TRUST: Permission.TRUST_READ,
    HintKind.LEDGER: Permission.LEDGER_READ,
    HintKind.OVERVIEW: Permission.OVERVIEW_READ,
    HintKind.HEARTBEATS: Permission.OVERVIEW_READ,
    HintKind.SINK: Permission.SINKS_READ,
}


@dataclass(frozen=True, slots=True)
class Interest:
    """What a listener asked for; None is everything. Hints of no fleet pass every fleet."""

    kinds: frozenset[HintKind] | None = None
    fleet: str | None = None


class Told:
    """Hints that became visible together: written out once, however many listen."""

    def __init__(self, hints: Sequence[StoredHint], position: int) -> None:
        merged: dict[tuple[str, str | None, str | None], int | None] = {}
        for hint in hints:
            key = (hint.kind, hint.id, hint.fleet)
            known = merged.get(key)
            merged[key] = hint.count if known is None else known + (hint.count or 0)
        self.position = position
        self.events = [
            (kind, fleet, _event(kind, id, fleet, count))
            for (kind, id, fleet), count in merged.items()
        ]

    def to(self, caller: Caller, interest: Interest) -> bytes:
        """Return what one listener gets; nothing if none of it is for them.

        Only the last event carries the position: whoever is cut off before it gets all again.
        """
        found = [
            event
            for kind, fleet, event in self.events
            if caller.may(PERMISSIONS[kind])
            and (interest.kinds is None or kind in interest.kinds)
            and (interest.fleet is None or fleet is None or fleet == interest.fleet)
        ]
        return b"\n".join(found) + b"id: %d\n\n" % self.position if found else b""


def _event(kind: str, id: str | None, fleet: str | None, count: int | None) -> bytes:
    data: dict[str, object] = {"kind": kind, "id": id, "fleet": fleet}
    if count is not None:
        data["count"] = count
    return b"event: %s\ndata: %s\n" % (kind.encode(), msgspec.json.encode(data))


def reset_at(position: int) -> bytes:
    """Return the event that says: some hints are lost, read everything again."""
    return _event("reset", None, None, None) + b"id: %d\n\n" % position


def keep_alive_at(position: int) -> bytes:
    """Return what no listener sees, and what keeps connection and position alive."""
    return b": keep-alive\nid: %d\n\n" % position


class Subscription:
    """What is still to be sent to one listener; ends when it does not keep up, or must not."""

    def __init__(self, caller: Caller, interest: Interest, position: int) -> None:
        self.caller = caller
        self.interest = interest
        self.position = position
        self.ended = asyncio.Event()
        self.ended_because: str | None = None
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._woken = asyncio.Event()

    def tell(self, told: Told) -> None:
        """Queue what is for this listener."""
        self.position = told.position
        self.put(told.to(self.caller, self.interest))

    def put(self, chunk: bytes) -> None:
        """Queue bytes; ends the subscription when too many wait already."""
        if not chunk or self.ended_because is not None:
            return
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.end("slow")
            return
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        self._woken.set()

    def put_first(self, chunk: bytes) -> None:
        """Queue bytes before everything that waits already."""
        waiting = list(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        for one in (chunk, *waiting):
            self.put(one)

    def end(self, reason: str) -> None:
        """Send nothing more."""
        if self.ended_because is None:
            self.ended_because = reason
            self._pending.clear()
            self._woken.set()
            self.ended.set()

    async def next(self, keep_alive_s: float) -> bytes | None:
        """Return what is to be sent next, sooner or later; None once the subscription has ended."""
        try:
            async with asyncio.timeout(keep_alive_s):
                await self._woken.wait()
        except TimeoutError:
            if not self._woken.is_set():
                return keep_alive_at(self.position)
        if self.ended_because is not None:
            return None
        chunk = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._woken.clear()
        return chunk
