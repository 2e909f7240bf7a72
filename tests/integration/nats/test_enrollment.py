"""The enrollment listener beside a NATS front: requests into the stream, answers back."""

import ssl
from pathlib import Path

import msgspec
from cryptography import x509

from broker.denyset import DenySet
from broker.embedded.enrollment import LIMITS, EnrollmentFront
from broker.embedded.front import FrontSetup
from broker.embedded.metrics import FrontMetrics
from tensorguard.protocol.messages import FrontEnroll
from tests.integration.broker.certificates import TRUST_DOMAIN
from tests.integration.broker.wire import Wire
from tests.integration.nats.site import NatsSite
from tests.integration.sites import FRONT_ID
from tests.manufacturer import Manufacturer


async def test_a_device_asks_through_the_stream_and_gets_its_answer(
    site: NatsSite, tmp_path: Path
) -> None:
    maker = Manufacturer(tmp_path)
    device, other, cas = (
        maker.device(),
        maker.device(),
        [x509.load_pem_x509_certificate(maker.pem.encode())],
    )
    platform = site.platform
    tls = platform.server_certificate.server_context(
        cas, ours=False, chain=[platform.authority.certificate]
    )
    listener = EnrollmentFront(
        FrontSetup(
            front_id=FRONT_ID,
            host="127.0.0.1",
            port=0,
            trust_domain=TRUST_DOMAIN,
            tls=lambda: tls,
            cas=lambda: cas,
            denied=DenySet(stale_after=None),
            limits=LIMITS,
            metrics=FrontMetrics(prefix="tensorguard_broker_enroll"),
        ),
        site.front.router,
    )
    await listener.start()
    try:
        hub = await site.hub()
        wires = []
        for one in (device, other):
            context = ssl.create_default_context(cafile=platform.ca_path)
            context.load_cert_chain(one.certificate_path, one.key_path)
            wires.append(await Wire.open(listener.address, context))
            assert await wires[-1].connect(one.client_id) == 0
            assert await wires[-1].subscribe(one.down) == [0]
        await wires[0].publish(device.up, b'{"hello": 1}')
        acked = await wires[0].hear()
        assert acked is not None
        assert acked.kind == 4
        vouched = msgspec.json.decode(await hub.enrollment(), type=FrontEnroll)
        assert (vouched.certificate, vouched.request) == (device.der, b'{"hello": 1}')
        await hub.publish(device.down, b'{"status": "pending"}')
        answer = await wires[0].hear_publish()
        assert (answer.topic, answer.payload) == (device.down, b'{"status": "pending"}')
        assert await wires[1].ping(), "another device was answered"
    finally:
        await listener.shutdown()
