"""Manufacturer CAs and the devices that come by them, on a real database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tensorguard.pki.errors import PkiError, WrongIssuer
from tensorguard.protocol.messages import DeviceEnrollRequest, Enrolled, EnrollmentPending
from tensorguard.services.enrollment.admission import approve_agent, reject_agent, release_agent
from tensorguard.services.enrollment.device_enrollment import enroll_device
from tensorguard.services.enrollment.manufacturer_errors import (
    BadManufacturerCa,
    BadProof,
    ChallengeExpired,
    DeviceAlreadyEnrolled,
    ManufacturerCaExhausted,
    ManufacturerCaExists,
    ManufacturerCaNotFound,
    ManufacturerCaSettled,
    OperationalKeyNotNew,
    SerialNotListed,
)
from tensorguard.services.enrollment.manufacturers import (
    ManufacturerTerms,
    activate_manufacturer,
    prove_manufacturer,
    register_manufacturer,
    revoke_manufacturer,
)
from tensorguard.services.errors import (
    EnrollmentRefused,
    EnrollmentRejected,
    FleetNotFound,
    KeyAlreadyEnrolled,
)
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Caller, Role
from tensorguard.services.people.approval import Approval
from tensorguard.services.revocation.revocations import revoke_agent
from tests.integration.enrollment.builders import (
    DEVICE_URL,
    FLEET,
    MQTT,
    NOW,
    OPERATOR,
    Device,
    Platform,
)
from tests.manufacturer import MadeDevice, Manufacturer

SECOND = Actor("user", "0195a1b2-0000-7000-8000-000000000002")
CALLER = Caller(OPERATOR, Role.ADMIN, user_id=UUID(OPERATOR.id))


class Registry:
    """An operator's steps, each in a transaction of its own."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    async def register(self, pem: str, *, fleet: str = FLEET, **terms: Any) -> UUID:
        known = {"name": "Acme", "max_agents": 100, "approval": "auto"} | terms
        async with self.platform.maker.begin() as session:
            return await register_manufacturer(
                session, fleet, pem, ManufacturerTerms(**known), by=OPERATOR, now=NOW
            )

    def challenge(self, ca_id: UUID) -> str:
        query = "SELECT challenge FROM manufacturer_cas WHERE id = %s"
        return str(self.platform.rows(query, ca_id)[0][0])

    async def prove(self, ca_id: UUID, pem: str, now: datetime = NOW) -> Approval:
        async with self.platform.maker.begin() as session:
            return await prove_manufacturer(session, ca_id, pem, fleet=FLEET, by=CALLER, now=now)

    async def activate(self, ca_id: UUID) -> None:
        async with self.platform.maker.begin() as session:
            await activate_manufacturer(session, ca_id, by=OPERATOR, approved_by=SECOND, now=NOW)

    async def revoke(self, ca_id: UUID, fleet: str = FLEET) -> None:
        async with self.platform.maker.begin() as session:
            await revoke_manufacturer(session, ca_id, fleet=fleet, by=OPERATOR, now=NOW)

    async def active(self, acme: Manufacturer, **terms: Any) -> UUID:
        """A maker whose devices may enrol."""
        ca_id = await self.register(acme.pem, **terms)
        await self.activate(ca_id)
        return ca_id

    async def revoke_agent(self, agent_id: UUID) -> None:
        async with self.platform.maker.begin() as session:
            await revoke_agent(session, agent_id, reason="lost", by=OPERATOR, now=NOW)

    async def release(self, agent_id: UUID) -> None:
        async with self.platform.maker.begin() as session:
            await release_agent(session, agent_id, reason="found", by=OPERATOR, now=NOW)

    def state(self, ca_id: UUID) -> str:
        query = "SELECT state FROM manufacturer_cas WHERE id = %s"
        return str(self.platform.rows(query, ca_id)[0][0])


@pytest.fixture
def registry(platform: Platform) -> Registry:
    return Registry(platform)


@pytest.fixture
def acme(tmp_path: Path) -> Manufacturer:
    return Manufacturer(tmp_path / "maker")


Ask = Callable[..., Awaitable[Enrolled | EnrollmentPending]]


@pytest.fixture
def ask(platform: Platform) -> Ask:
    """What the hub does with a device's request."""

    async def enroll(made: MadeDevice, device: Device, **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "csr": device.csr(),
            "encryption_key": device.encryption_key.public_key().public_bytes_raw(),
            "name": device.name,
            "facts": dict(device.facts),
        }
        request = DeviceEnrollRequest(**{**fields, **changes})
        async with platform.maker.begin() as session:
            return await enroll_device(
                session,
                platform.keyring,
                made.der,
                request,
                mqtt=MQTT,
                device_url=DEVICE_URL,
                now=NOW,
            )

    return enroll


async def test_registered_proven_and_approved_a_ca_is_active_and_each_step_is_in_the_ledger(
    registry: Registry, acme: Manufacturer
) -> None:
    ca_id = await registry.register(acme.pem, serials=["B", "A", "B"], approval="manual")
    challenge = registry.challenge(ca_id)
    assert len(challenge) == 48
    approval = await registry.prove(ca_id, acme.proof(challenge))
    assert registry.state(ca_id) == "unproven"
    assert (approval.kind, approval.fleet) == ("manufacturer-ca.register", FLEET)
    assert approval.request["manufacturer_ca_id"] == str(ca_id)
    assert (approval.request["serials"], approval.request["approval"]) == (2, "manual")
    await registry.activate(ca_id)
    assert registry.state(ca_id) == "active"
    await registry.revoke(ca_id)
    await registry.revoke(ca_id)
    assert registry.state(ca_id) == "revoked"
    for step in ("registered", "proven", "activated", "revoked"):
        (entry,) = registry.platform.events(f"manufacturer-ca.{step}")
        assert str(ca_id) in entry
        assert "Acme" not in entry
    (activated,) = registry.platform.events("manufacturer-ca.activated")
    assert SECOND.id in activated
    assert OPERATOR.id in activated


async def test_a_wrong_proof_is_refused_and_asks_nobody(
    registry: Registry, acme: Manufacturer, tmp_path: Path
) -> None:
    ca_id = await registry.register(acme.pem)
    challenge = registry.challenge(ca_id)
    other = Manufacturer(tmp_path / "other")
    for proof in (acme.proof("0" * 48), other.proof(challenge), acme.pem, "x"):
        with pytest.raises(BadProof):
            await registry.prove(ca_id, proof)
    late = NOW + timedelta(hours=24)
    with pytest.raises(ChallengeExpired):
        await registry.prove(ca_id, acme.proof(challenge), now=late)
    assert registry.platform.rows("SELECT count(*) FROM approvals") == [(0,)]
    assert registry.platform.events("manufacturer-ca.proven") == []


async def test_the_platforms_own_ca_a_leaf_and_a_foreign_fleet_are_refused(
    registry: Registry, acme: Manufacturer
) -> None:
    own = registry.platform.keyring.ca.certificate_pem
    with pytest.raises(BadManufacturerCa, match="the platform's own CA"):
        await registry.register(own)
    with pytest.raises(BadManufacturerCa, match="not that of a CA"):
        await registry.register(acme.device().pem)
    with pytest.raises(FleetNotFound):
        await registry.register(acme.pem, fleet="nowhere")
    ca_id = await registry.register(acme.pem)
    await registry.platform.fleet("another")
    with pytest.raises(ManufacturerCaNotFound):
        await registry.revoke(ca_id, fleet="another")


@pytest.mark.parametrize(
    "terms",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"max_agents": 0},
        {"max_agents": 1_000_001},
        {"serials": []},
        {"serials": ["x" * 65]},
        {"serials": ["a\x00"]},
        {"approval": "maybe"},
        {"tags": {"bad key!": "x"}},
        {"tags": {f"k{n}": "" for n in range(65)}},
    ],
)
async def test_terms_out_of_bounds_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(BadManufacturerCa):
        ManufacturerTerms(**{"name": "Acme", "max_agents": 1} | terms)


async def test_one_key_is_active_once_wherever(registry: Registry, acme: Manufacturer) -> None:
    first, second = await registry.register(acme.pem), await registry.register(acme.pem)
    await registry.activate(first)
    with pytest.raises(ManufacturerCaExists):
        await registry.activate(second)
    with pytest.raises(ManufacturerCaExists):
        await registry.prove(second, acme.proof(registry.challenge(second)))
    with pytest.raises(ManufacturerCaExists):
        await registry.register(acme.pem)
    with pytest.raises(ManufacturerCaSettled):
        await registry.activate(first)
    await registry.revoke(first)
    await registry.activate(second)
    with pytest.raises(ManufacturerCaSettled):
        await registry.activate(first)


async def test_a_device_becomes_an_agent_as_its_ca_says(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    ca_id = await registry.active(acme, tags={"gpu": "true"})
    device, made = Device(), acme.device("SN-1")
    answer = await ask(made, device)
    assert isinstance(answer, Enrolled)
    assert (answer.fleet, answer.mqtt, answer.device_url) == (FLEET, MQTT, DEVICE_URL)
    issued = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert issued.public_key() == device.key.public_key()
    query = """SELECT enrolled_by, manufacturer_ca_id, device_serial, tags, status, token_id,
        enrolled_at FROM agents WHERE id = %s"""
    assert registry.platform.rows(query, answer.agent_id) == [
        ("mtls", ca_id, "SN-1", {"gpu": "true"}, "active", None, NOW)
    ]
    (event,) = registry.platform.events("agent.enrolled")
    assert str(ca_id) in event
    # A lost answer costs nothing.
    assert await ask(made, device) == answer
    assert registry.platform.rows("SELECT count(*) FROM certificates") == [(1,)]


async def test_a_device_waits_for_its_approval_and_then_gets_its_certificate(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme, approval="manual")
    device, made = Device(), acme.device()
    first = await ask(made, device)
    assert isinstance(first, EnrollmentPending)
    assert await ask(made, device) == first
    assert registry.platform.rows("SELECT count(*) FROM certificates") == [(0,)]
    (pending,) = registry.platform.events("agent.pending")
    assert "manufacturer_ca_id" in pending
    async with registry.platform.maker.begin() as session:
        await approve_agent(session, first.agent_id, by=OPERATOR, now=NOW)
    answer = await ask(made, device)
    assert isinstance(answer, Enrolled)
    assert answer.agent_id == first.agent_id


async def test_a_rejected_device_stays_out(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme, approval="manual")
    device, made = Device(), acme.device()
    waiting = await ask(made, device)
    async with registry.platform.maker.begin() as session:
        await reject_agent(session, waiting.agent_id, reason="not ours", by=OPERATOR, now=NOW)
    with pytest.raises(EnrollmentRejected, match="not ours"):
        await ask(made, device)
    await registry.release(waiting.agent_id)
    again = await ask(made, device)
    assert again.agent_id != waiting.agent_id


async def test_a_device_enrols_once_by_key_and_by_serial_number(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme)
    device, made = Device(), acme.device("SN-1")
    await ask(made, device)
    before = registry.platform.stored()
    same_key, same_serial = acme.device("SN-2", key_of=made), acme.device("SN-1")
    for shown, asking in (
        (made, Device()),
        (same_key, Device()),
        (same_key, device),
        (same_serial, Device()),
        (same_serial, device),
        (acme.device("SN-3"), Device(encryption_key=device.encryption_key)),
    ):
        with pytest.raises(DeviceAlreadyEnrolled):
            await ask(shown, asking)
    with pytest.raises(DeviceAlreadyEnrolled, match="another key"):
        await ask(made, Device(encryption_key=device.encryption_key))
    with pytest.raises(KeyAlreadyEnrolled):
        await ask(acme.device("SN-4"), Device(key=device.key))
    registry.platform.run("UPDATE certificates SET first_connected_at = now()")
    with pytest.raises(DeviceAlreadyEnrolled, match="connected already"):
        await ask(made, device)
    assert registry.platform.stored() == before


async def test_a_revoked_device_is_blocked_until_it_is_released_and_gets_a_new_id_then(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme)
    made = acme.device("SN-1")
    first = await ask(made, Device())
    await registry.revoke_agent(first.agent_id)
    with pytest.raises(DeviceAlreadyEnrolled):
        await ask(made, Device())
    with pytest.raises(DeviceAlreadyEnrolled):
        await ask(acme.device("SN-1"), Device())
    await registry.release(first.agent_id)
    second = await ask(made, Device())
    assert isinstance(second, Enrolled)
    assert second.agent_id != first.agent_id


async def test_serials_off_the_list_are_refused(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme, serials=["SN-1", "SN-2"])
    assert isinstance(await ask(acme.device("SN-2"), Device()), Enrolled)
    for serial in ("SN-3", "sn-1", "SN-1 "):
        with pytest.raises((SerialNotListed, PkiError)):
            await ask(acme.device(serial), Device())
    assert registry.platform.rows("SELECT count(*) FROM agents") == [(1,)]


async def test_a_ca_brings_exactly_as_many_agents_as_it_may_however_many_ask_at_once(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    ca_id = await registry.active(acme, max_agents=5)
    made = [acme.device() for _ in range(20)]
    answers = await asyncio.gather(*(ask(one, Device()) for one in made), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, ManufacturerCaExhausted)]
    assert len(refused) == 15
    assert sum(isinstance(one, Enrolled) for one in answers) == 5
    query = "SELECT count(*) FROM agents WHERE manufacturer_ca_id = %s"
    assert registry.platform.rows(query, ca_id) == [(5,)]
    # Who is in stays in, and a released place is free again.
    kept = next(n for n, one in enumerate(answers) if isinstance(one, Enrolled))
    await registry.revoke_agent(answers[kept].agent_id)
    await registry.release(answers[kept].agent_id)
    lucky = next(n for n, one in enumerate(answers) if not isinstance(one, Enrolled))
    assert isinstance(await ask(made[lucky], Device()), Enrolled)
    with pytest.raises(ManufacturerCaExhausted):
        await ask(made[kept], Device())


async def test_twins_of_one_device_become_one_agent(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme)
    device, made = Device(), acme.device()
    answers = await asyncio.gather(*(ask(made, device) for _ in range(8)))
    assert len({one.agent_id for one in answers}) == 1
    assert registry.platform.rows("SELECT count(*) FROM agents") == [(1,)]


async def test_devices_of_unproven_and_revoked_cas_are_refused(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    ca_id = await registry.register(acme.pem)
    made = acme.device()
    with pytest.raises(WrongIssuer):
        await ask(made, Device())
    await registry.activate(ca_id)
    await registry.revoke(ca_id)
    with pytest.raises(WrongIssuer):
        await ask(made, Device())
    assert registry.platform.rows("SELECT count(*) FROM agents") == [(0,)]


async def test_the_manufacturers_key_is_not_certified_again(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    await registry.active(acme)
    made = acme.device()
    key = load_pem_private_key(made.key_path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(OperationalKeyNotNew):
        await ask(made, Device(), csr=csr)


async def test_an_agent_that_came_by_a_token_keeps_its_keys_to_itself(
    registry: Registry, acme: Manufacturer, ask: Ask
) -> None:
    platform = registry.platform
    await registry.active(acme)
    device = Device()
    token = await platform.token()
    await platform.enroll(device.request(token.join))
    with pytest.raises(EnrollmentRefused):
        await ask(acme.device(), Device(key=device.key))
    with pytest.raises(EnrollmentRefused):
        await ask(acme.device(), Device(encryption_key=device.encryption_key))
