"""Syslog (RFC 5424) over TLS with octet counting (RFC 5425).

Syslog has no acknowledgement. What comes nearest stands in RFC 5425 §4.4: a receiver that gets
close_notify has read everything before it, and has to answer with its own. So a batch is one
connection, and counts as accepted when the receiver has closed it in order.
"""

import asyncio
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from tensorguard.siem.address_guard import AddressGuard
from tensorguard.siem.answer import Answer, Verdict, failed
from tensorguard.siem.item import Batch, Item, SinkClient
from tensorguard.siem.lane import Lane
from tensorguard.siem.ocsf import shortened

DEFAULT_PORT: Final = 6514
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 2_000_000
DEFAULT_MESSAGE_BYTES: Final = 65_536
FACILITY: Final = 13  # log audit
# The number that IANA keeps for documentation; a site may give its own.
DEFAULT_ENTERPRISE: Final = 32473
_CONNECT_S: Final = 10.0
_LEVELS: Final = {1: 6, 3: 4, 4: 3, 5: 2}  # informational, warning, error, critical
_HEADER_BYTES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogTarget:
    """Where messages go; `confirm` false: accepted as soon as the network has them."""

    host: str
    port: int
    hostname: str
    confirm: bool = True
    enterprise: int = DEFAULT_ENTERPRISE
    message_bytes: int = DEFAULT_MESSAGE_BYTES


class SyslogClient(SinkClient):
    """Sends each batch over a connection of its own."""

    max_items = MAX_ITEMS
    max_bytes = MAX_BYTES

    def __init__(
        self, target: SyslogTarget, guard: AddressGuard, tls: ssl.SSLContext, *, timeout_s: float
    ) -> None:
        self._target = target
        self._guard = guard
        self._tls = tls
        self._timeout_s = timeout_s
        self._lane = Lane("sink-syslog")

    async def send(self, batch: Batch, *, now: datetime) -> Answer:
        """Send, and wait until the receiver has closed the connection in order."""
        frames = b"".join(self._frame(item) for item in batch.items)
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._guard.pin(self._target.host, self._target.port)
            # Its socket has its own deadline: the thread ends, whatever the far end does.
            await self._lane.run(partial(self._deliver, addresses, frames))
        except Exception as error:
            return failed(error)
        how = "closed in order by the receiver" if self._target.confirm else "sent"
        return Answer(verdict=Verdict.ACCEPTED, code="accepted", reason=how)

    def redated(self, item: Item, now: datetime) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """Nothing stays open between batches."""
        self._lane.close()

    def _frame(self, item: Item) -> bytes:
        message = self._message(item)
        return str(len(message)).encode() + b" " + message

    def _message(self, item: Item) -> bytes:
        priority = FACILITY * 8 + _LEVELS.get(item.severity_id, 6)
        moment = item.time.astimezone(UTC).isoformat(timespec="milliseconds")
        moment = moment.removesuffix("+00:00") + "Z"
        name = "".join(character for character in self._target.hostname if "!" <= character <= "~")[
            :255
        ]
        kind = item.type[:32]
        data = (
            f'[tensorguard@{self._target.enterprise} epoch="{item.epoch}"'
            f' leaf_index="{item.leaf_index}"]'
        )
        head = f"<{priority}>1 {moment} {name or '-'} tensorguard - {kind} {data} "
        body = shortened(item, self._target.message_bytes - _HEADER_BYTES)
        return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + body

    def _deliver(self, addresses: list[str], frames: bytes) -> None:
        deadline = time.monotonic() + self._timeout_s
        with self._connect(addresses, deadline) as plain:
            plain.settimeout(_left(deadline))
            with self._tls.wrap_socket(plain, server_hostname=self._target.host) as secure:
                secure.settimeout(_left(deadline))
                secure.sendall(frames)
                secure.settimeout(_left(deadline))
                if self._target.confirm:
                    secure.unwrap()  # raises unless the receiver sends close_notify

    def _connect(self, addresses: list[str], deadline: float) -> socket.socket:
        for address in addresses[:-1]:
            try:
                return self._connect_to(address, deadline)
            except OSError:
                continue
        return self._connect_to(addresses[-1], deadline)

    def _connect_to(self, address: str, deadline: float) -> socket.socket:
        within_s = min(_CONNECT_S, _left(deadline))
        return socket.create_connection((address, self._target.port), timeout=within_s)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
