"""The certificates that an agent holds: the one that works, and a newer one that has yet to."""

from datetime import datetime
from typing import Literal

from agent.core.effects import PromoteCertificate
from agent.core.settings import Certified, Credentials
from agent.core.turn import Turn
from tensorguard.pki.identity import AgentIdentity
from tensorguard.protocol.messages import Position

Which = Literal["current", "next"]


class Certificates:
    """Tries the newer one first, and goes back to the older while that alone works.

    The older one is kept until the newer has connected, so that no answer of the platform, however
    wrong, can leave the device without a way in.
    """

    __slots__ = ("_current", "_next", "_tried")

    def __init__(self, credentials: Credentials) -> None:
        self._current = Certified(
            credentials.identity, credentials.not_before, credentials.not_after, credentials.issuer
        )
        self._next = credentials.next
        self._tried: Which = "current"

    @property
    def identity(self) -> AgentIdentity:
        """Who the agent is by the certificate that is tried, or was tried last."""
        return self._active.identity

    @property
    def current(self) -> Certified:
        """The one that has connected last."""
        return self._current

    @property
    def newest(self) -> Certified:
        """The one by whose life a renewal is planned."""
        return self._next or self._current

    def choose(self) -> Which:
        """Decide for the next try: the newer one, and each other time the older."""
        waits = self._next is not None
        self._tried = "next" if waits and self._tried == "current" else "current"
        return self._tried

    def prefer_next(self) -> None:
        """Have the next try use the newer one, if there is one."""
        self._tried = "current"

    def take(self, certified: Certified) -> None:
        """Hold a certificate that is on disk beside the current one, to be tried next."""
        self._next = certified
        self.prefer_next()

    def connected(self, turn: Turn) -> None:
        """The one that was tried has connected: a newer one takes the older one's place."""
        if self._tried == "current" or self._next is None:
            return
        if self._next.identity.fleet != self._current.identity.fleet:
            # The other fleet counts its revisions for itself.
            turn.state.config = Position(epoch=0, revision=0)
            turn.persist()
        self._current, self._next, self._tried = self._next, None, "current"
        turn.do(PromoteCertificate())

    @property
    def waits(self) -> bool:
        """Tell whether a newer one has not connected yet."""
        return self._next is not None

    def have_ended(self, now: datetime) -> bool:
        """Tell whether none is good any more."""
        return now >= self._current.not_after and (
            self._next is None or now >= self._next.not_after
        )

    @property
    def _active(self) -> Certified:
        return self._next if self._tried == "next" and self._next is not None else self._current
