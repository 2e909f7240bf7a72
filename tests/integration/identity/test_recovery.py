"""Off past the certificate's end: back by proof of the old key and a person's approval."""

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.runtime import keys
from agent.runtime.statedir import StateDir
from tensorguard.pki.issuer import certificate_pem
from tensorguard.services.people.access import Role
from tests.integration.identity.stack import Stack

PATH = "/device/v1/recover"
LIFE = timedelta(days=7)


class Device:
    """A device as docs/protocol.md describes it, with the credentials of a real enrollment."""

    def __init__(self, stack: Stack, directory: StateDir, agent_id: UUID) -> None:
        self.stack, self.agent_id = stack, agent_id
        data = directory.get("agent.pem")
        self.certificate = data[data.index(b"-----BEGIN CERTIFICATE") :].decode()
        self.old_key = load_pem_private_key(data, None)
        self.csr = keys.make_csr(ec.generate_private_key(ec.SECP256R1()))

    async def ask(self, **changes: Any) -> httpx.Response:
        made = await self.stack.api.device.get(f"{PATH}/challenge")
        challenge = changes.get("challenge", made.json()["challenge"])
        csr, key = changes.get("csr", self.csr), changes.pop("key", self.old_key)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(csr.encode())
        text = f"tensorguard.recover.v1\n{challenge}\n{digest.finalize().hex()}".encode()
        proof = base64.b64encode(key.sign(text, ec.ECDSA(hashes.SHA256()))).decode()
        body = {"certificate": self.certificate, "csr": csr, "challenge": challenge, "proof": proof}
        return await self.stack.api.device.post(PATH, json=body | changes)

    async def pending(self) -> str:
        """Ask, and return the recovery that now waits."""
        answer = await self.ask()
        assert answer.status_code == 202, answer.text
        [item] = await recoveries(self.stack, "pending")
        return str(item["id"])


async def recoveries(stack: Stack, state: str | None = None) -> list[dict[str, Any]]:
    query = {"limit": 1} | ({"state": state} if state else {})
    found: list[dict[str, Any]] = []
    while True:
        answer = await stack.api.admin.get("/api/v1/recoveries", params=query)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if (cursor := answer.json()["next_cursor"]) is None:
            return found
        query["cursor"] = cursor


async def decide(stack: Stack, recovery_id: str, decision: str, **body: Any) -> httpx.Response:
    return await stack.api.admin.post(f"/api/v1/recoveries/{recovery_id}/{decision}", json=body)


@pytest.fixture
async def device(parts: Stack) -> Device:
    """A device whose certificate ended a day ago."""
    fleet = await parts.new_fleet()
    device = Device(parts, *await parts.enroll(fleet))
    parts.clock.offset = LIFE + timedelta(days=1)
    return device


async def test_an_approved_device_gets_a_certificate_for_its_new_key(device: Device) -> None:
    stack = device.stack
    recovery_id = await device.pending()
    assert await device.pending() == recovery_id
    [item] = await recoveries(stack)
    assert (item["agent_id"], item["state"]) == (str(device.agent_id), "pending")
    assert item["serial"] == (await stack.agent(device.agent_id))["certificates"][0]["serial"]
    approved = await decide(stack, recovery_id, "approve")
    assert (approved.status_code, approved.json()["state"]) == (200, "approved")
    answers = [await device.ask() for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    leaf = x509.load_pem_x509_certificate(answers[0].json()["certificate"].encode())
    assert leaf.public_key() == x509.load_pem_x509_csr(device.csr.encode()).public_key()
    assert leaf.not_valid_after_utc > stack.clock()
    for type_ in ("recovery.requested", "recovery.approved", "agent.recovered"):
        assert len(await stack.api.events(type_)) == 1, type_
    again = await decide(stack, recovery_id, "reject", reason="too late")
    assert (again.status_code, again.json()["code"]) == (409, "recovery-decided")


async def test_a_rejected_device_is_told_why_and_may_ask_again_a_day_later(
    device: Device,
) -> None:
    recovery_id = await device.pending()
    await decide(device.stack, recovery_id, "reject", reason="it was sold")
    for _ in range(2):
        answer = await device.ask()
        assert (answer.status_code, answer.json()["code"]) == (403, "recovery-rejected")
        assert "it was sold" in answer.json()["detail"]
    device.stack.clock.offset += timedelta(days=1, seconds=1)
    assert await device.pending() != recovery_id


async def test_a_second_key_waits_until_the_first_request_is_decided_or_too_old(
    device: Device,
) -> None:
    await device.pending()
    device.csr = keys.make_csr(ec.generate_private_key(ec.SECP256R1()))
    answer = await device.ask()
    assert (answer.status_code, answer.json()["code"]) == (409, "recovery-other-pending")
    device.stack.clock.offset += timedelta(days=7, seconds=1)
    await device.pending()
    assert sorted(one["state"] for one in await recoveries(device.stack)) == ["expired", "pending"]


async def test_a_proof_by_another_key_or_for_something_else_is_worth_nothing(
    device: Device,
) -> None:
    other_key = ec.generate_private_key(ec.SECP256R1())
    other_csr = keys.make_csr(other_key)
    good = (await device.stack.api.device.get(f"{PATH}/challenge")).json()["challenge"]
    bad = [
        (await device.ask(key=other_key), "recovery-proof-invalid"),
        (await device.ask(proof=base64.b64encode(b"x").decode()), "recovery-proof-invalid"),
        (await device.ask(challenge=good[:-8] + "AAAAAAA="), "recovery-challenge-expired"),
        (await device.ask(challenge=""), "recovery-challenge-expired"),
        (await device.ask(challenge="\u00e9"), "recovery-challenge-expired"),
        (await device.ask(certificate="nothing"), "recovery-proof-invalid"),
        (await device.ask(certificate=_foreign(device)), "recovery-proof-invalid"),
        (await device.ask(csr="nothing"), None),
        (await device.ask(csr=keys.make_csr(device.old_key)), "recovery-proof-invalid"),
    ]
    signed_for = await device.ask()
    assert signed_for.status_code == 202
    for answer, code in bad:
        assert 400 <= answer.status_code < 500, answer.text
        assert code in (None, answer.json()["code"])
    assert len(await recoveries(device.stack)) == 1
    # A proof cannot be kept for later, nor used for another key.
    captured = dict(_sent(signed_for))
    swapped = await device.stack.api.device.post(PATH, json=captured | {"csr": other_csr})
    assert swapped.json()["code"] == "recovery-proof-invalid"
    device.stack.clock.offset += timedelta(minutes=6)
    late = await device.stack.api.device.post(PATH, json=captured)
    assert late.json()["code"] == "recovery-challenge-expired"


def _sent(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(answer.request.content)
    return body


def _foreign(device: Device) -> str:
    """A certificate with the serial of ours and another key, by another CA."""
    ours = x509.load_pem_x509_certificate(device.certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(ours.subject)
        .issuer_name(ours.issuer)
        .public_key(key.public_key())
        .serial_number(ours.serial_number + 1)
        .not_valid_before(ours.not_valid_before_utc)
        .not_valid_after(ours.not_valid_after_utc)
    )
    made = builder.sign(key, hashes.SHA256())
    return certificate_pem(made)


async def test_the_grace_period_has_two_ends(device: Device) -> None:
    clock = device.stack.clock
    clock.offset = timedelta(days=1)
    early = await device.ask()
    assert (early.status_code, early.json()["code"]) == (409, "recovery-certificate-still-good")
    clock.offset = LIFE + timedelta(days=30, minutes=1)
    late = await device.ask()
    assert (late.status_code, late.json()["code"]) == (403, "recovery-too-late")
    clock.offset = LIFE + timedelta(days=29)
    assert (await device.ask()).status_code == 202


async def test_a_revoked_agent_does_not_come_back_not_even_with_an_approval(
    device: Device,
) -> None:
    stack = device.stack
    recovery_id = await device.pending()
    await decide(stack, recovery_id, "approve")
    path = f"/api/v1/agents/{device.agent_id}/revoke"
    assert (await stack.api.admin.post(path, json={"reason": "lost"})).status_code == 200
    answer = await device.ask()
    assert (answer.status_code, answer.json()["code"]) == (403, "recovery-agent-not-active")
    assert len((await stack.agent(device.agent_id))["certificates"]) == 1


async def test_a_superseded_certificate_recovers_nothing(device: Device) -> None:
    async with device.stack.sessions.begin() as session:
        await session.execute(sa.text("UPDATE certificates SET superseded_at = now()"))
    answer = await device.ask()
    assert (answer.status_code, answer.json()["code"]) == (403, "recovery-certificate-superseded")


async def test_many_requests_at_once_make_one_recovery_and_one_certificate(
    device: Device,
) -> None:
    answers = await asyncio.gather(*(device.ask() for _ in range(8)))
    assert {one.status_code for one in answers} == {202}
    [item] = await recoveries(device.stack)
    await decide(device.stack, item["id"], "approve")
    answers = await asyncio.gather(*(device.ask() for _ in range(8)))
    assert len({one.text for one in answers}) == 1
    assert len((await device.stack.agent(device.agent_id))["certificates"]) == 2


async def test_only_who_admits_agents_decides(device: Device) -> None:
    recovery_id = await device.pending()
    reader = await device.stack.api.as_role(Role.COMPLIANCE)
    assert (await reader.get("/api/v1/recoveries")).status_code == 200
    for decision, body in (("approve", {}), ("reject", {"reason": "x"})):
        answer = await reader.post(f"/api/v1/recoveries/{recovery_id}/{decision}", json=body)
        assert answer.status_code == 403
    missing = await decide(device.stack, str(device.agent_id), "approve")
    assert missing.json()["code"] == "recovery-not-found"


async def test_a_real_agent_that_was_off_too_long_comes_back_once_it_is_approved(
    stack: Stack,
) -> None:
    # In the past, because TLS libraries would not take a certificate of the future.
    stack.clock.offset = -LIFE - timedelta(days=3)
    directory, agent_id = await stack.enroll(await stack.new_fleet())
    stack.clock.offset = timedelta(0)
    stack.start(directory, agent_id)

    async def waiting() -> list[dict[str, Any]]:
        return await recoveries(stack, "pending")

    [item] = await stack.until(waiting, "the agent has not asked")
    assert item["agent_id"] == str(agent_id)
    approved = await decide(stack, item["id"], "approve")
    assert approved.status_code == 200
    await stack.until_presence(agent_id, "online")
    new, old = await stack.until_superseded(agent_id, 1)
    assert old["serial"] == item["serial"]
    assert new["first_connected_at"] is not None
    assert await stack.rows("SELECT 1 FROM revocations") == [], "the date alone keeps it out"
