"""The revocation list, as OpenSSL reads it."""

import asyncio
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography import x509

from agent.runtime.statedir import StateDir
from tensorguard.services.certificates.crl import make_crl
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tests.integration.identity.stack import Stack
from tests.patience import PATIENCE_S

MEDIA_TYPE = "application/pkix-crl"


def openssl(*arguments: str | Path) -> tuple[int, str]:
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: openssl is not installed")
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def fetch(stack: Stack) -> bytes:
    answer = await stack.api.device.get("/device/v1/crl")
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    return answer.content


async def devices(stack: Stack, count: int) -> list[tuple[StateDir, UUID]]:
    fleet = await stack.new_fleet()
    return [await stack.enroll(fleet) for _ in range(count)]


def serial_of(directory: StateDir) -> int:
    return x509.load_pem_x509_certificate(directory.get("agent.pem")).serial_number


async def revoke(stack: Stack, agent_id: UUID) -> None:
    answer = await stack.api.admin.post(
        f"/api/v1/agents/{agent_id}/revoke", json={"reason": "stolen"}
    )
    assert answer.status_code == 200


async def test_openssl_believes_the_list_and_refuses_who_stands_in_it(
    parts: Stack, tmp_path: Path
) -> None:
    (good, _), (stolen, stolen_id), (renewed, renewed_id) = await devices(parts, 3)
    ca, der, pem = tmp_path / "ca.pem", tmp_path / "crl.der", tmp_path / "crl.pem"
    ca.write_text(parts.keyring.ca.certificate_pem)
    empty = x509.load_der_x509_crl(await fetch(parts))
    assert list(empty) == []
    await revoke(parts, stolen_id)
    async with parts.sessions.begin() as session:
        old = tables.certificates.c
        now = parts.clock()
        await session.execute(
            sa.update(tables.certificates)
            .where(old.agent_id == renewed_id)
            .values(superseded_at=now)
        )
        await session.execute(
            sa.insert(tables.revocations).values(
                serial=f"{serial_of(renewed):x}",
                reason="superseded",
                revoked_at=now,
                revoked_by="hub",
            )
        )
    der.write_bytes(await fetch(parts))
    status, said = openssl("crl", "-inform", "DER", "-in", der, "-CAfile", ca, "-out", pem)
    assert (status, "verify OK" in said) == (0, True), said
    for directory, code in ((good, 0), (stolen, 23), (renewed, 23)):
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(directory.get("agent.pem"))
        status, said = openssl("verify", "-crl_check", "-CAfile", ca, "-CRLfile", pem, leaf)
        assert (status == 0) == (code == 0), said
        assert code == 0 or f"error {code}" in said
    crl = x509.load_der_x509_crl(der.read_bytes())
    reasons = {
        one.serial_number: one.extensions.get_extension_for_class(x509.CRLReason).value.reason
        for one in crl
    }
    assert reasons == {
        serial_of(stolen): x509.ReasonFlags.privilege_withdrawn,
        serial_of(renewed): x509.ReasonFlags.superseded,
    }
    assert number_of(crl) > number_of(empty)
    assert crl.next_update_utc - crl.last_update_utc == timedelta(hours=24)
    assert crl.last_update_utc <= parts.clock() < crl.next_update_utc - timedelta(hours=11)


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def test_the_list_is_signed_again_only_after_a_revocation_or_half_a_day(
    parts: Stack,
) -> None:
    (_, agent_id), _ = await devices(parts, 2)
    first = await fetch(parts)
    assert {await fetch(parts) for _ in range(3)} == {first}
    await revoke(parts, agent_id)
    second = await fetch(parts)
    assert second != first
    parts.clock.offset = timedelta(hours=12)
    third = x509.load_der_x509_crl(await fetch(parts))
    assert third.last_update_utc > x509.load_der_x509_crl(second).last_update_utc
    assert number_of(third) > number_of(x509.load_der_x509_crl(second))
    parts.clock.offset = timedelta(days=8)
    assert list(x509.load_der_x509_crl(await fetch(parts))) == [], "what has ended stands no more"


async def test_two_processes_make_the_same_list_of_one_number(parts: Stack) -> None:
    (_, agent_id), _ = await devices(parts, 2)
    await revoke(parts, agent_id)
    lists = []
    for later in (timedelta(0), timedelta(seconds=1)):
        async with parts.sessions() as session:
            made = await make_crl(session, parts.keyring.ca, parts.clock() + later)
        lists.append(x509.load_der_x509_crl(made.der))
    assert lists[0].tbs_certlist_bytes == lists[1].tbs_certlist_bytes


async def test_people_get_the_same_list_with_an_account_only(parts: Stack) -> None:
    path = "/api/v1/trust/crl"
    viewer = await parts.api.as_role(Role.VIEWER)
    answer = await viewer.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    assert answer.content == await fetch(parts)
    assert (await parts.api.nobody.get(path)).status_code == 401


async def test_a_list_of_ten_thousand_is_made_in_a_moment(parts: Stack) -> None:
    [(_, agent_id)] = await devices(parts, 1)
    now = parts.clock()
    key_id = parts.keyring.ca.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value.digest
    rows = [
        {
            "serial": f"{new_id().int:x}",
            "agent_id": agent_id,
            "spki_sha256": b"",
            "certificate": "",
            "not_before": now,
            "not_after": now + timedelta(days=7),
            "issued_at": now,
            "superseded_at": now,
            "authority_key_id": key_id,
        }
        for _ in range(10_000)
    ]
    async with parts.sessions.begin() as session:
        await session.execute(sa.insert(tables.certificates), rows)
    began = time.monotonic()
    der = await asyncio.wait_for(fetch(parts), PATIENCE_S)
    print(f"10,000 entries, {len(der)} bytes, {time.monotonic() - began:.2f} s")
    assert len(x509.load_der_x509_crl(der)) == 10_000
