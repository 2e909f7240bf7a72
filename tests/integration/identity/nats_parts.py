"""The parts of a stack that are NATS's: the server, its front, the hub's source."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import nats

from broker.denyset import DenySet
from broker.embedded.limits import Limits
from broker.nats.front import NatsFront, NatsSetup
from broker.nats.keys import CalloutKeys
from hub.nats.source import JetStreamUplink
from hub.nats.stream import StreamSettings
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.protocol.subjects import to_subject
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker
from tests.integration.nats.server import RunningServer, running_server

OFTEN = timedelta(milliseconds=50)
KEYS = "callout-keys"


@asynccontextmanager
async def running_node(
    folder: Path, keyring: Keyring, engine: str
) -> AsyncIterator[RunningServer | None]:
    """A server for the NATS engine, else none."""
    if engine != "nats":
        yield None
        return
    place, keys = folder / "node", CalloutKeys.generate()
    place.mkdir()
    keys.store(place / KEYS)
    async with running_server(place, keyring.ca, keys, keyring.trust_domain) as server:
        yield server


def nats_front(
    node: RunningServer,
    keyring: Keyring,
    front_id: str,
    denied: DenySet,
    clock: Callable[[], datetime],
) -> NatsFront:
    """The front of that server."""
    cas = [keyring.ca.certificate]
    certificate = ServiceCertificate(keyring.ca, ServiceIdentity(keyring.trust_domain, "broker"))
    return NatsFront(
        NatsSetup(
            front_id=front_id,
            url=node.url,
            address=("127.0.0.1", node.mqtt_port),
            trust_domain=keyring.trust_domain,
            keys=CalloutKeys.load(node.log_path.parent / KEYS),
            tls=lambda: certificate.client_context(cas),
            cas=lambda: cas,
            denied=denied,
            log=node.log_path,
            limits=Limits(report_every=OFTEN, sweep_every=OFTEN),
            clock=clock,
        )
    )


def nats_uplink(
    node: RunningServer, tls: ssl.SSLContext, sessions: SessionMaker
) -> JetStreamUplink:
    """The hub's source, of a stream of few partitions."""
    return JetStreamUplink(
        urls=[node.url],
        tls=tls,
        sessions=sessions,
        stream=StreamSettings(partitions=4, max_bytes=64 * 1024**2),
        intake_limit=1000,
        downlink_limit=1000,
    )


async def publish_down(node: RunningServer, keyring: Keyring, topic: str, payload: bytes) -> None:
    """Say something to an agent as a hub does."""
    certificate = ServiceCertificate(keyring.ca, ServiceIdentity(keyring.trust_domain, "hub"))
    context = certificate.client_context([keyring.ca.certificate])
    client = await nats.connect(node.url, tls=context, tls_handshake_first=True)
    try:
        await client.publish(to_subject(topic), payload)
        await client.flush()
    finally:
        await client.close()
