"""Fetching the next trust bundle, also from a platform whose CA is newer than what we know."""

import ssl
from datetime import datetime

import structlog

from agent.errors import NotTheServer
from agent.runtime.https import Answer, request, unverified_context

log = structlog.get_logger()


def fetch_bundle(
    verified: ssl.SSLContext, device_url: str, version: int, *, agent_time: datetime | None = None
) -> Answer:
    """Ask for one trust bundle: of a server that `verified` believes or, if it is none, of anyone.

    Whoever was away while the CA changed cannot verify the server before it has the bundles that
    it asks for. They prove themselves by their signatures, and such a connection carries nothing
    else: no client certificate, no credential, one GET (docs/protocol.md, Trust bundle).
    Raises: Unreachable, NotTheServer.
    """
    path = f"/device/v1/trust/{version}"
    try:
        return request(verified, device_url, path, agent_time=agent_time)
    except NotTheServer as error:
        log.info("trust_asked_unverified", version=version, reason=error.message)
        return request(unverified_context(), device_url, path)
