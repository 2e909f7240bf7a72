"""The listener where devices enrol with a certificate of their manufacturer.

It shares the hubs' side with the agents' front and nothing else: its own trust store, its own
topics, connections that are few and short. What it relays it vouches for: the certificate whose key
the device has proven to hold travels with the request, on the front's own topic.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import ClassVar, Final

import psycopg
from cryptography import x509
from prometheus_client import CollectorRegistry

from broker.embedded.connection import Connection
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.embedded.packets import Publish
from broker.embedded.routing import Router
from broker.errors import ConnectRefused
from broker.front import UpMessage
from broker.manufacturers import Manufacturers
from broker.rights import NOT_AUTHORIZED
from broker.session import End
from tensorguard.pki.identity import DeviceIdentity, Holder, Peer, key_sha256
from tensorguard.pki.manufacturer import verify_device
from tensorguard.protocol.codec import encode
from tensorguard.protocol.messages import FrontEnroll
from tensorguard.protocol.topics import FrontKind, FrontTopic
from tensorguard.services.certificates.certificates import PresentedCertificate
from tensorguard.store.errors import DatabaseUnreachable

# A device asks once and waits; one that an operator has to approve comes back later.
LIMITS: Final = Limits(
    connections=200,
    pending=64,
    held=200,
    connection_time=timedelta(seconds=120),
    messages_per_s=0.2,
    message_burst=3,
    denials_per_minute=10,
)


class EnrollmentFront(Front):
    """A second listener in the process of `agents`, for devices that are not agents yet."""

    newcomer: ClassVar[str] = "device"

    def __init__(self, setup: FrontSetup, router: Router) -> None:
        super().__init__(setup, router)

    def end_distrusted(self) -> None:
        """End every connection whose manufacturer CA is not believed any more."""
        for connection in self.registry.list_all():
            if not self._is_believed(connection.peer.identity):
                connection.end(End.REVOKED)

    def _is_believed(self, holder: Holder) -> bool:
        believed = {key_sha256(ca.public_key()) for ca in self._setup.cas()}
        return isinstance(holder, DeviceIdentity) and holder.issuer_spki_sha256 in believed

    def _check_room(self, identity: Holder, client_id: str, *, is_hub: bool) -> None:
        # Once more: since its certificate was verified, its CA may have been revoked.
        if not self._is_believed(identity):
            raise ConnectRefused("wrong-issuer", return_code=NOT_AUTHORIZED)
        super()._check_room(identity, client_id, is_hub=is_hub)

    def _believe(self, leaf: bytes) -> Peer:
        return verify_device(leaf, self._setup.cas(), self._setup.clock())

    def _relay(self, connection: Connection, message: Publish) -> UpMessage:
        device = connection.peer.identity
        assert isinstance(device, DeviceIdentity)  # nobody else is believed here
        vouched = FrontEnroll(
            certificate=device.certificate,
            request=message.payload,
            peer=connection.address,
            at=self._setup.clock(),
        )
        topic = FrontTopic(self._setup.front_id, FrontKind.ENROLL)
        return UpMessage(str(topic), encode(vouched), 1)


@asynccontextmanager
async def serving_enrollment(
    address: tuple[str, int],
    router: Router,
    *,
    front_id: str,
    trust_domain: str,
    registry: CollectorRegistry,
    clock: Callable[[], datetime],
    database_url: str,
    certificate: PresentedCertificate,
    platform_cas: Callable[[], Sequence[x509.Certificate]],
) -> AsyncIterator[EnrollmentFront]:
    """Listen for devices beside the agents' front; `router` leads to the hubs that it speaks to.

    Raises: ListenFailed, DatabaseUnreachable.
    """
    manufacturers = Manufacturers(database_url, certificate, platform_cas, clock)
    try:
        await manufacturers.load()
    except (psycopg.Error, TimeoutError) as error:
        raise DatabaseUnreachable(f"manufacturer CAs cannot be read: {error}") from None
    setup = FrontSetup(
        front_id=front_id,
        trust_domain=trust_domain,
        clock=clock,
        host=address[0],
        port=address[1],
        tls=lambda: manufacturers.context,
        cas=lambda: manufacturers.cas,
        denied=manufacturers.denied,
        limits=LIMITS,
        metrics=FrontMetrics(registry, "tensorguard_broker_enroll"),
    )
    enrollment = EnrollmentFront(setup, router)
    await enrollment.start()
    stop = asyncio.Event()
    following = asyncio.create_task(
        manufacturers.run(stop, enrollment.end_distrusted), name="manufacturers"
    )
    try:
        yield enrollment
    finally:
        stop.set()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await enrollment.shutdown()
