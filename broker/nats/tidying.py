"""What MQTT makes a NATS server store for clients, kept to nothing that grows.

NATS has a switch neither for retained messages nor for persistent sessions. It keeps both in
streams of the agents' account, whose bounds are ours to set. A retained message is then passed on
as any other and stored nowhere (the log tells who tried); what is kept of an absent client's
session goes after a while, and its consumers with it (`consumer_inactive_threshold`).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from nats.aio.client import Client

from broker.nats.configuration import RETAINED, SESSIONS, agents_stream
from broker.nats.errors import NodeUnreachable
from broker.nats.link import ask

_log = structlog.get_logger()
_HOUR_NS: Final = 3600 * 10**9
_WANTED: Final[Mapping[str, Mapping[str, int]]] = {
    # Any message has a header of its own: none is as small as this.
    RETAINED: {"max_msg_size": 1},
    # Of a session that lives the record is not read again.
    SESSIONS: {"max_age": _HOUR_NS},
}


class _Info(msgspec.Struct):
    config: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Info).decode


async def tidy(client: Client) -> bool:
    """Bound both streams; False where the server has not made them yet (with its first client).

    Raises: NodeUnreachable.
    """
    done = [await _bound(client, name, wanted) for name, wanted in _WANTED.items()]
    return all(done)


async def _bound(client: Client, name: str, wanted: Mapping[str, int]) -> bool:
    found = _read(await ask(client, agents_stream("INFO", name), b""))
    if found is None:
        return False
    if all(found.get(key) == value for key, value in wanted.items()):
        return True
    update = msgspec.json.encode(found | dict(wanted))
    if _read(await ask(client, agents_stream("UPDATE", name), update)) is None:
        raise NodeUnreachable(f"the stream {name} cannot be bounded")
    if name == RETAINED:
        await ask(client, agents_stream("PURGE", name), b"{}")
    _log.info("agents_stream_bounded", stream=name, **wanted)
    return True


def _read(answer: bytes) -> dict[str, Any] | None:
    try:
        return _decode(answer).config
    except msgspec.DecodeError as error:
        raise NodeUnreachable(f"not an answer of JetStream: {error}") from None
