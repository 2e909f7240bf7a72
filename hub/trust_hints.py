"""Tells agents whose trust bundle is behind that there is a newer one, so many a second."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from hub.batch import From
from hub.downlink import Downlinks
from tensorguard.protocol.messages import Heartbeat, TrustVersion
from tensorguard.protocol.topics import DownKind

# Whoever is told asks the api at once, over TLS; who is not told now is told at a later heartbeat.
PER_SECOND: Final = 100.0
BURST: Final = 200.0


class TrustHints:
    """A bucket of hints that fills up with time."""

    def __init__(self) -> None:
        self._left = BURST
        self._at: datetime | None = None

    def tell(
        self,
        heartbeats: Sequence[From[Heartbeat]],
        version: int,
        downlinks: Downlinks,
        now: datetime,
        share: float = 1.0,
    ) -> int:
        """Queue a hint for those that have an older bundle than `version`; return how many.

        `share` is the part of all agents that this hub serves, and of the hints that are its own.
        """
        if self._at is not None:
            passed_s = max(0.0, (now - self._at).total_seconds())
            self._left = min(BURST * share, self._left + PER_SECOND * share * passed_s)
        self._at = now
        behind = [one for one in heartbeats if one.message.has.trust < version]
        told = behind[: int(self._left)]
        self._left -= len(told)
        for one in told:
            hint = TrustVersion(version=version)
            downlinks.to_agent(one.fleet, one.agent_id, DownKind.TRUST_VERSION, hint)
        return len(told)
