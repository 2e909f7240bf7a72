"""One admitted connection: who it is, how it may write, and how it ends."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from broker.embedded.admission import Will
from broker.embedded.limits import Limits
from broker.embedded.strangers import network_of
from broker.rights import Rights
from broker.session import End, Session
from tensorguard.pki.identity import AgentIdentity, Peer, serial_text

_DENIAL_WINDOW_S: Final = 60.0


# The peer went without a word. Whoever we ended ourselves does not speak through a will.
_WILL_SPEAKS: Final = frozenset({End.LOST, End.IDLE, End.MALFORMED, End.OVERSIZE})


class Connection:
    """A peer that has been admitted; ends once, and says why."""

    def __init__(
        self,
        client_id: str,
        peer: Peer,
        rights: Rights,
        will: Will | None,
        keep_alive_s: int,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        limits: Limits,
    ) -> None:
        self.client_id = client_id
        self.peer = peer
        self.rights = rights
        self.will = will
        self.reader, self._writer = streams
        # Asked now: once it has ended the socket no longer tells.
        self.network = network_of(self._writer.get_extra_info("peername"))
        self.ended: End | None = None
        self.on_end: Callable[[Connection, End], None] = _ignore
        self._is_held = False
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._opened_at = self.heard_at = self._loop.time()
        self.admitted_at: datetime | None = None
        longest_s = limits.keep_alive.total_seconds()
        # Section 3.1.2.10: one and a half times the keep-alive. 0 asks for none: ours applies.
        self._silence_s = 1.5 * min(keep_alive_s or longest_s, longest_s)
        self._tokens = float(limits.message_burst)
        self._tokens_at = self.heard_at
        self._denials = 0
        self._denials_since = self.heard_at

    @property
    def is_hub(self) -> bool:
        """Tell whether a hub is at the other end."""
        return self.rights.is_hub

    @property
    def agent(self) -> AgentIdentity | None:
        """The agent at the other end, or None for a hub."""
        identity = self.peer.identity
        return identity if isinstance(identity, AgentIdentity) else None

    @property
    def session(self) -> Session | None:
        """The admitted agent's session, or None for a hub and before the admission."""
        if self.agent is None or self.admitted_at is None:
            return None
        serial = serial_text(self.peer.serial)
        return Session(self.agent, serial, self.address, self.admitted_at)

    @property
    def address(self) -> str:
        """Host and port of the socket's other end."""
        name = self._writer.get_extra_info("peername") or ("?", 0)
        return f"{name[0]}:{name[1]}"

    def send(self, packet: bytes) -> bool:
        """Write one packet without waiting; False where the connection has ended or ends by it."""
        if self.ended is not None:
            return False
        if self._writer.transport.get_write_buffer_size() > self._limits.unsent_bytes:
            self.end(End.SLOW)
            return False
        self._writer.write(packet)
        return True

    async def send_all(self, packets: bytes) -> None:
        """Write, and wait until the peer has taken most of it. Raises: OSError."""
        self._writer.write(packets)
        await self._writer.drain()

    def end(self, reason: End) -> None:
        """Stop at once: nothing that is still buffered is read, written or routed."""
        if self.ended is not None:
            return
        self.ended = reason
        if reason is End.DISCONNECT:
            self._writer.close()
            self._loop.call_later(
                self._limits.close_timeout.total_seconds(), self._writer.transport.abort
            )
        else:
            self._writer.transport.abort()
        self.on_end(self, reason)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the front itself does not read, silence is not the peer's."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self.heard_at = self._loop.time()

    def find_speaking_will(self) -> Will | None:
        """Return the will where the way the connection ended lets it speak."""
        return self.will if self.ended in _WILL_SPEAKS else None

    def overdue(self, now: datetime) -> End | None:
        """Return why the connection has to end by the clock, or None."""
        if now >= self.peer.not_after:
            return End.EXPIRED
        most = self._limits.connection_time
        if most is not None and self._loop.time() - self._opened_at > most.total_seconds():
            return End.TIME_LIMIT
        if not self._is_held and self._loop.time() - self.heard_at > self._silence_s:
            return End.IDLE
        return None

    def take_token(self) -> float:
        """Count one message; return for how many seconds not to read from this agent."""
        now = self._loop.time()
        limits = self._limits
        earned = (now - self._tokens_at) * limits.messages_per_s
        self._tokens = min(float(limits.message_burst), self._tokens + earned) - 1.0
        self._tokens_at = now
        return max(0.0, -self._tokens / limits.messages_per_s)

    def count_denials(self, count: int) -> bool:
        """Count denied operations; True where they are more than a minute may have."""
        now = self._loop.time()
        if now - self._denials_since > _DENIAL_WINDOW_S:
            self._denials, self._denials_since = 0, now
        self._denials += count
        return self._denials > self._limits.denials_per_minute


def _ignore(connection: Connection, reason: End) -> None:
    """Nobody watches a connection that is not registered yet."""
