"""Keeps the map of sessions true: asks every server for its list, as a whole, now and then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import structlog
from nats.aio.client import Client

from broker.nats.errors import BadEvent, NodeUnreachable
from broker.nats.events import Page, page_request, read_page
from broker.nats.link import ask, end_if_cancelled
from broker.nats.sessions import Place
from broker.session import Session

_log = structlog.get_logger()
_PAGE: Final = 1000
# Who leaves moves all behind them forward: pages overlap, and one that does not is asked anew.
_OVERLAP: Final = 100
_TRIES: Final = 10
# All servers answer a PING; how many there are nobody says. Silence for so long means no more.
_SILENCE_S: Final = 0.5
_PAGES: Final = 1000


async def list_sessions(
    client: Client, own: str, trust_domain: str
) -> dict[str, dict[Place, Session]]:
    """Return every server's sessions; a server that does not answer is not in it.

    Raises: NodeUnreachable where our own does not.
    """
    found: dict[str, dict[Place, Session]] = {}
    async for first in _first_pages(client, trust_domain):
        try:
            found[first.server_id] = await _list_rest(client, first, trust_domain)
        except (NodeUnreachable, BadEvent) as error:
            _log.warning("sessions_not_listed", server=first.server_id, error=error.message)
    if own not in found:
        raise NodeUnreachable("the node does not list its connections")
    return found


async def _first_pages(client: Client, trust_domain: str) -> AsyncIterator[Page]:
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox, pending_msgs_limit=_PAGES)
    try:
        await client.publish("$SYS.REQ.SERVER.PING.CONNZ", page_request(0, _PAGE), inbox)
        with contextlib.suppress(TimeoutError):
            while True:
                message = await answers.next_msg(_SILENCE_S)
                end_if_cancelled()
                yield read_page(message.data, trust_domain)
    finally:
        await answers.unsubscribe()
    end_if_cancelled()


async def _list_rest(client: Client, first: Page, trust_domain: str) -> dict[Place, Session]:
    subject = f"$SYS.REQ.SERVER.{first.server_id}.CONNZ"
    for _ in range(_TRIES):
        sessions, page, offset = dict(first.sessions), first, 0
        while page.cids and offset + len(page.cids) < page.total:
            last = page.cids[-1]
            offset += max(len(page.cids) - _OVERLAP, 1)
            answer = await ask(client, subject, page_request(offset, _PAGE))
            page = read_page(answer, trust_domain)
            if page.cids and page.cids[0] > last:
                break  # more have left than overlap: somebody may be between the two
            sessions |= page.sessions
        else:
            return sessions
        first = read_page(await ask(client, subject, page_request(0, _PAGE)), trust_domain)
        await asyncio.sleep(0)
    raise NodeUnreachable("its connections change faster than they can be listed")
