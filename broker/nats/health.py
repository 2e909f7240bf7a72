"""What a NATS server says of itself, asked with a service's certificate on its own listener."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import nats
from cryptography import x509
from nats.aio.client import Client

from broker.nats.configuration import SYSTEM
from broker.nats.errors import NodeError
from broker.nats.link import LOST, server_id

_WITHIN_S: Final = 5.0
_CALLOUT: Final = "$SYS.REQ.USER.AUTH"


class NodeSilent(NodeError):
    """A server does not answer, or refuses us."""

    code = "nats-node-silent"
    hint = "Is it a server with the configuration that 'tensorguard broker nats-config' prints?"


@dataclass(frozen=True, slots=True)
class Health:
    """What one server said; `trouble` is empty when it serves."""

    name: str
    trouble: str
    stored_bytes: int
    stored_limit_bytes: int
    responders: int
    """How many answer the auth callout, on whichever node; without any nobody new gets in."""


async def ask(url: str, context: ssl.SSLContext) -> Health:
    """Ask the server at `tls://host:port`. Raises: NodeSilent."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            connection = await _connect(url, context)
            try:
                return await _ask(connection)
            finally:
                await connection.close()
    except (*LOST, ValueError, LookupError) as error:
        raise NodeSilent(f"{url}: {str(error) or type(error).__name__}"[:300]) from None


async def find_certificate(host: str, port: int, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate that a TLS listener shows now. Raises: NodeSilent."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
                return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        raise NodeSilent(f"{host}:{port}: {str(error) or type(error).__name__}"[:300]) from None


async def _connect(url: str, context: ssl.SSLContext) -> Client:
    return await nats.connect(
        url,
        tls=context,
        tls_handshake_first=True,
        allow_reconnect=False,
        connect_timeout=_WITHIN_S,
        # 0 would be for ever, without a pause that a cancellation could end.
        max_reconnect_attempts=1,
        reconnect_time_wait=0.1,
        error_cb=_ignore,
    )


async def _ignore(_: Exception) -> None:
    """What goes wrong reaches the caller of the request."""


async def _ask(connection: Client) -> Health:
    server = server_id(connection)
    pings = _request(connection, "$SYS.REQ.SERVER.PING", {"server_id": server})
    healthz = _request(connection, f"$SYS.REQ.SERVER.{server}.HEALTHZ", {})
    test = {"acc": SYSTEM, "test": _CALLOUT, "subscriptions": True}
    subsz = _request(connection, f"$SYS.REQ.SERVER.{server}.SUBSZ", test)
    ping, health, subscriptions = await asyncio.gather(pings, healthz, subsz)
    data = health["data"]
    store = ping["statsz"]["jetstream"]
    return Health(
        name=str(ping["server"]["name"]),
        trouble="" if data["status"] == "ok" else str(data.get("error") or data["status"]),
        stored_bytes=int(store["stats"]["storage"]),
        stored_limit_bytes=int(store["config"]["max_storage"]),
        responders=int(subscriptions["data"]["total"]),
    )


async def _request(connection: Client, subject: str, body: Mapping[str, object]) -> dict[str, Any]:
    answer = await connection.request(subject, json.dumps(body).encode(), timeout=_WITHIN_S)
    found: dict[str, Any] = json.loads(answer.data)
    return found
