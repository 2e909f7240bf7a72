"""The listener for devices without an identity: one request, one answer, and nothing else."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from broker.denyset import DenySet
from broker.embedded.enrollment import LIMITS, EnrollmentFront
from broker.embedded.front import FrontSetup
from broker.embedded.metrics import FrontMetrics
from tensorguard.protocol.messages import FrontConnected, FrontEnroll
from tests.integration.broker.certificates import TRUST_DOMAIN, AgentCredentials, Platform
from tests.integration.broker.conftest import Site, run_program
from tests.integration.broker.wire import Wire
from tests.integration.sites import FRONT_ID
from tests.manufacturer import MadeDevice, Manufacturer

IDENTIFIER_REJECTED, UNAVAILABLE, NOT_AUTHORIZED = 2, 3, 5
FRONT_TOPIC = f"tg/v1/_front/{FRONT_ID}/up/enroll"


@dataclass
class Entrance:
    """An enrollment listener beside a running front, and the CAs that it believes."""

    site: Site
    front: EnrollmentFront
    cas: list[x509.Certificate]
    metrics: FrontMetrics
    opened: list[Wire] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.front.address[1]

    def believe(self, *makers: Manufacturer) -> None:
        self.cas[:] = [x509.load_pem_x509_certificate(maker.pem.encode()) for maker in makers]
        self.front.end_distrusted()

    async def open(self, device: MadeDevice) -> Wire:
        context = ssl.create_default_context(cafile=self.site.platform.ca_path)
        context.load_cert_chain(device.certificate_path, device.key_path)
        self.opened.append(await Wire.open(self.front.address, context))
        return self.opened[-1]

    async def device(self, device: MadeDevice) -> Wire:
        """A device that was admitted and waits for its answer."""
        wire = await self.open(device)
        assert await wire.connect(device.client_id) == 0
        assert await wire.subscribe(device.down) == [0]
        return wire

    def counted(self, name: str, **labels: str) -> float:
        full = f"tensorguard_broker_enroll_{name}"
        return self.metrics.registry.get_sample_value(full, labels) or 0.0


OpenEntrance = Callable[..., contextlib.AbstractAsyncContextManager[Entrance]]


@pytest.fixture
def open_entrance(site: Site) -> OpenEntrance:
    """Start an enrollment listener with other limits."""

    @contextlib.asynccontextmanager
    async def start(**limits: object) -> AsyncIterator[Entrance]:
        cas: list[x509.Certificate] = []
        platform, metrics = site.platform, FrontMetrics(prefix="tensorguard_broker_enroll")
        often = {"report_every": timedelta(milliseconds=20), "sweep_every": timedelta(0, 0.02)}
        setup = FrontSetup(
            front_id=FRONT_ID,
            host="127.0.0.1",
            port=0,
            trust_domain=TRUST_DOMAIN,
            tls=lambda: platform.server_certificate.server_context(
                cas, ours=False, chain=[platform.authority.certificate]
            ),
            cas=lambda: cas,
            denied=DenySet(stale_after=None),
            limits=replace(LIMITS, **(often | limits)),  # type: ignore[arg-type] # real names
            metrics=metrics,
            clock=site.clock,
        )
        front = EnrollmentFront(setup, site.front.router)
        await front.start()
        entrance = Entrance(site, front, cas, metrics)
        try:
            yield entrance
        finally:
            for wire in entrance.opened:
                wire.abort()
            await front.shutdown()

    return start


@pytest.fixture
async def entrance(open_entrance: OpenEntrance, acme: Manufacturer) -> AsyncIterator[Entrance]:
    """A listener that believes one maker."""
    async with open_entrance() as running:
        running.believe(acme)
        yield running


@pytest.fixture(scope="session")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Manufacturer:
    return Manufacturer(tmp_path_factory.mktemp("acme"))


async def mosquitto_rr(
    entrance: Entrance, device: MadeDevice | AgentCredentials, *more: str, port: int | None = None
) -> str:
    """Ask as a foreign client does: subscribe, publish, wait for one message."""
    files = ("--cert", device.certificate_path, "--key", device.key_path)
    up = device.up if isinstance(device, MadeDevice) else device.up("heartbeat")
    down = device.down if isinstance(device, MadeDevice) else device.down("ack")
    return await run_program(
        *("mosquitto_rr", "-V", "mqttv311", "-h", "localhost", "-p", str(port or entrance.port)),
        *("--cafile", entrance.site.platform.ca_path, *files, "-i", device.client_id),
        *("-t", up, "-e", down, "-q", "1", "-W", "3", "-m", '{"hello": 1}', *more),
    )


async def assert_kept_out(entrance: Entrance, said: str) -> None:
    assert not said.startswith("exit 0"), said
    assert entrance.front.registry.list_all() == []


async def test_a_device_asks_with_mosquitto_and_gets_its_answer(
    entrance: Entrance, acme: Manufacturer
) -> None:
    device, hub = acme.device(), await entrance.site.hub()
    asking = asyncio.create_task(mosquitto_rr(entrance, device))
    heard = await hub.wire.hear_publish()
    assert heard.topic == FRONT_TOPIC
    vouched = msgspec.json.decode(heard.payload, type=FrontEnroll)
    assert vouched.certificate == device.der
    assert json.loads(vouched.request) == {"hello": 1}
    assert vouched.peer.startswith("127.0.0.1:")
    await hub.wire.publish(device.down, b'{"status": "pending"}', qos=0)
    assert await asking == 'exit 0\n{"status": "pending"}\n'


async def test_only_a_certificate_of_a_believed_maker_comes_in(
    entrance: Entrance, acme: Manufacturer, platform: Platform, tmp_path: Path
) -> None:
    stranger = Manufacturer(tmp_path).device()
    await assert_kept_out(entrance, await mosquitto_rr(entrance, stranger))
    await assert_kept_out(entrance, await mosquitto_rr(entrance, platform.agent()))
    now = datetime.now(UTC)
    expired = acme.device(end=now - timedelta(days=1))
    await assert_kept_out(entrance, await mosquitto_rr(entrance, expired))
    early = acme.device(start=now + timedelta(days=1))
    await assert_kept_out(entrance, await mosquitto_rr(entrance, early))
    assert entrance.counted("handshakes_failed_total", reason="untrusted-certificate") == 2
    assert entrance.counted("handshakes_failed_total", reason="expired") == 1
    assert entrance.counted("handshakes_failed_total", reason="not-yet-valid") == 1


async def test_a_device_certificate_is_refused_on_the_agents_listener(
    entrance: Entrance, acme: Manufacturer
) -> None:
    said = await mosquitto_rr(entrance, acme.device(), port=entrance.site.address[1])
    assert not said.startswith("exit 0"), said
    assert entrance.site.front.registry.agents == 0
    name = "tensorguard_broker_handshakes_failed_total"
    assert entrance.site.counted(name, reason="untrusted-certificate") == 1


async def test_a_maker_that_names_somebody_elses_identity_gets_nothing(
    entrance: Entrance, acme: Manufacturer, platform: Platform
) -> None:
    victim = platform.agent()
    hub = await entrance.site.hub()
    watching = await entrance.site.agent(victim)
    forged = acme.device(
        subject=f"/CN={victim.agent_id}/serialNumber=S",
        extensions=(
            f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}/fleet/{victim.fleet}/agent/"
            f"{victim.agent_id}",
            "extendedKeyUsage=clientAuth",
        ),
    )
    for port in (entrance.port, entrance.site.address[1]):
        said = await run_program(
            *("mosquitto_pub", "-V", "mqttv311", "-h", "localhost", "-p", str(port)),
            *("--cafile", platform.ca_path, "-i", victim.client_id),
            *("--cert", forged.certificate_path, "--key", forged.key_path),
            *("-q", "1", "-t", victim.up("heartbeat"), "-m", "{}"),
        )
        assert not said.startswith("exit 0"), said
    assert await hub.quiet(victim, watching) == []
    assert await watching.ping()
    wire = await entrance.open(forged)
    assert await wire.connect(forged.client_id) == NOT_AUTHORIZED


async def test_every_other_topic_is_refused(
    open_entrance: OpenEntrance, acme: Manufacturer, platform: Platform
) -> None:
    async with open_entrance(denials_per_minute=100) as entrance:
        entrance.believe(acme)
        await try_other_topics(entrance, acme, platform.agent())


async def try_other_topics(entrance: Entrance, acme: Manufacturer, agent: AgentCredentials) -> None:
    device, other = acme.device(), acme.device()
    hub = await entrance.site.hub()
    listening = await entrance.site.agent(agent)
    wire = await entrance.device(device)
    filters = ["#", "+/#", "$SYS/#", f"$share/x/{device.down}", other.down, device.up]
    filters += [device.down.replace("enrolled", "#"), agent.down("#"), "tg/v1/_front/+/up/+"]
    assert await wire.subscribe(*filters) == [128] * len(filters)
    for topic in (other.up, device.down, agent.up("heartbeat"), agent.down("ack"), FRONT_TOPIC):
        await wire.publish(topic, b"{}")
        answer = await wire.hear()
        assert answer is not None
        assert answer.kind == 4
    await wire.publish(device.up, b"{}", retain=True)
    assert (await wire.hear()) is not None
    # Nothing of it went anywhere: the first thing that the hub hears is the request.
    await wire.publish(device.up, b"the request")
    reports = {f"tg/v1/_front/{FRONT_ID}/up/{kind}" for kind in ("connected", "denied")}
    while (heard := await hub.wire.hear_publish()).topic in reports:
        continue
    assert heard.topic == FRONT_TOPIC
    assert msgspec.json.decode(heard.payload, type=FrontEnroll).request == b"the request"
    assert await listening.ping()


async def test_who_tries_one_topic_after_the_other_is_put_out(
    entrance: Entrance, acme: Manufacturer
) -> None:
    device = acme.device()
    wire = await entrance.device(device)
    for number in range(LIMITS.denials_per_minute + 1):
        await wire.publish(f"tg/v1/_enroll/{number}/up/enroll", qos=0)
    assert await wire.hear() is None
    assert entrance.counted("disconnects_total", reason="flooded") == 1


async def test_an_answer_reaches_its_device_and_no_other(
    entrance: Entrance, acme: Manufacturer
) -> None:
    one, other, hub = acme.device(), acme.device(), await entrance.site.hub()
    first, second = await entrance.device(one), await entrance.device(other)
    await hub.wire.publish(one.down, b"yours", qos=0)
    heard = await first.hear_publish()
    assert (heard.topic, heard.payload) == (one.down, b"yours")
    assert await second.ping()


@pytest.mark.parametrize("client_id", ["", "x", "hub-1", "A" * 64])
async def test_another_client_id_is_refused(
    entrance: Entrance, acme: Manufacturer, client_id: str
) -> None:
    wire = await entrance.open(acme.device())
    assert await wire.connect(client_id) == IDENTIFIER_REJECTED


async def test_another_devices_client_id_is_refused_and_disturbs_nobody(
    entrance: Entrance, acme: Manufacturer
) -> None:
    victim = acme.device()
    wire = await entrance.device(victim)
    thief = await entrance.open(acme.device())
    assert await thief.connect(victim.client_id) == IDENTIFIER_REJECTED
    assert await wire.ping()


async def test_a_will_and_a_persistent_session_are_refused(
    entrance: Entrance, acme: Manufacturer
) -> None:
    device = acme.device()
    wire = await entrance.open(device)
    assert await wire.connect(device.client_id, will=(device.up, b"{}")) == NOT_AUTHORIZED
    wire = await entrance.open(device)
    assert await wire.connect(device.client_id, clean=False) == NOT_AUTHORIZED


async def test_a_large_request_ends_the_connection(entrance: Entrance, acme: Manufacturer) -> None:
    device = acme.device()
    wire = await entrance.device(device)
    await wire.publish(device.up, b"x" * (64 * 1024 + 600))
    assert await wire.hear() is None


async def test_a_connection_has_its_time(open_entrance: OpenEntrance, acme: Manufacturer) -> None:
    async with open_entrance(connection_time=timedelta(milliseconds=300)) as entrance:
        entrance.believe(acme)
        wire = await entrance.device(acme.device())
        assert await wire.hear(timeout_s=5) is None
        assert entrance.counted("disconnects_total", reason="time_limit") == 1


async def test_who_says_nothing_is_dropped(open_entrance: OpenEntrance, acme: Manufacturer) -> None:
    async with open_entrance(connect_timeout=timedelta(milliseconds=200)) as entrance:
        entrance.believe(acme)
        wire = await entrance.open(acme.device())
        assert await wire.hear(timeout_s=5) is None
        assert entrance.counted("handshakes_failed_total", reason="no-connect") == 1


async def test_connections_are_bounded(open_entrance: OpenEntrance, acme: Manufacturer) -> None:
    async with open_entrance(connections=2) as entrance:
        entrance.believe(acme)
        present = acme.device()
        await entrance.device(present)
        await entrance.device(acme.device())
        late = acme.device()
        wire = await entrance.open(late)
        assert await wire.connect(late.client_id) == UNAVAILABLE
        await entrance.device(present)


async def test_with_no_active_maker_nobody_comes_in(
    open_entrance: OpenEntrance, acme: Manufacturer
) -> None:
    async with open_entrance() as entrance:
        await assert_kept_out(entrance, await mosquitto_rr(entrance, acme.device()))
        await assert_kept_out(
            entrance, await mosquitto_rr(entrance, entrance.site.platform.agent())
        )


async def test_devices_of_a_revoked_maker_are_put_out_and_the_others_stay(
    entrance: Entrance, acme: Manufacturer, tmp_path: Path
) -> None:
    other = Manufacturer(tmp_path)
    entrance.believe(acme, other)
    device = acme.device()
    leaving, staying = await entrance.device(device), await entrance.device(other.device())
    entrance.believe(other)
    assert await leaving.hear() is None
    assert await staying.ping()
    await assert_kept_in(entrance, await mosquitto_rr(entrance, device))


async def assert_kept_in(entrance: Entrance, said: str) -> None:
    """The client fails, and one device is still there."""
    assert not said.startswith("exit 0"), said
    assert len(entrance.front.registry.list_all()) == 1


async def test_an_intermediate_may_be_registered_without_its_root(
    entrance: Entrance, tmp_path: Path, acme: Manufacturer
) -> None:
    issuing = acme.device(
        subject="/O=Acme/CN=issuing CA",
        extensions=(
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign",
            "subjectKeyIdentifier=hash",
        ),
    )
    maker = Manufacturer(tmp_path)
    maker.certificate_path.write_text(issuing.pem)
    maker.key_path.write_text(issuing.key_path.read_text())
    entrance.believe(maker)
    await entrance.device(maker.device())
    # The root is not registered: what it has issued itself stays out.
    await assert_kept_in(entrance, await mosquitto_rr(entrance, acme.device()))


async def test_the_platforms_ca_is_shown_for_those_who_know_its_pin(
    entrance: Entrance, acme: Manufacturer
) -> None:
    device = acme.device()
    said = await run_program(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{entrance.port}", "-showcerts"),
        *("-cert", device.certificate_path, "-key", device.key_path),
    )
    der = ssl.PEM_cert_to_DER_cert(entrance.site.platform.ca_path.read_text())
    shown = [part.split("-----END")[0] for part in said.split("-----BEGIN CERTIFICATE-----")[1:]]
    ends = "-----BEGIN CERTIFICATE-----{}-----END CERTIFICATE-----"
    assert der in [ssl.PEM_cert_to_DER_cert(ends.format(one)) for one in shown]


async def test_a_hub_that_joins_is_still_told_which_agents_there_are(
    entrance: Entrance, acme: Manufacturer, platform: Platform
) -> None:
    agent = platform.agent()
    await entrance.site.agent(agent)
    await entrance.device(acme.device())
    hub = await entrance.site.hub()
    report = await hub.report("connected")
    assert isinstance(report, FrontConnected)
    assert report.agent_id == agent.agent_id
