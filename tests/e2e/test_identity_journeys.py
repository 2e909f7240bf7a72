"""What people do to let devices in and to shut them out, done in a real browser."""

import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform, run_json
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.timeout(300)
Journey = Callable[..., dict[str, Any]]
Account = dict[str, str]
Hire = Callable[[str], Account]

DEVICES = 30
"""More than a page shows."""


@pytest.fixture
def fleet(operator: Operator) -> str:
    slug = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(slug)
    return slug


@pytest.fixture
def hire(platform: RunningPlatform) -> Hire:
    """Makes people behind whom nobody else is: on the platform's own machine."""

    def hire(role: str) -> Account:
        email = f"{role}-{secrets.token_hex(4)}@example.org"
        made = run_json(
            *("admin", "user", "create", "--email", email, "--role", role),
            *("--data-dir", str(platform.data)),
        )
        return {"email": email, "password": made["password"]}

    return hire


def test_devices_that_wait_are_let_in_and_turned_away_many_at_once(
    journey: Journey, operator: Operator, fleet: str, tmp_path: Path
) -> None:
    token = {"ttl_s": 600, "max_uses": DEVICES, "approval": "manual"}
    join = operator.post(f"fleets/{fleet}/enrollment-tokens", token)["join"]
    names = [f"camera-{n:02d}" for n in range(DEVICES)]
    devices = {name: Device(tmp_path / name) for name in names}
    for name, device in devices.items():
        assert device.enroll(join, name=name).status_code == 202
    journey("admission", fleet=fleet, names=names)
    kept, rejected, *others = names
    statuses = {agent["name"]: agent["status"] for agent in operator.agents(fleet)}
    assert statuses == dict.fromkeys([kept, *others], "active") | {rejected: "rejected"}
    assert devices[others[-1]].enroll(join, name=others[-1]).status_code == 201


def test_a_fleet_is_revoked_by_two_people_with_a_second_factor(
    journey: Journey, operator: Operator, hire: Hire, fleet: str, tmp_path: Path
) -> None:
    connected, away = Device(tmp_path / "connected"), Device(tmp_path / "away")
    for device in (connected, away):
        assert device.enroll(operator.mint(fleet)).status_code == 201
    with connected.session() as session:
        journey(
            "fleet-kill",
            fleet=fleet,
            agents=2,
            requester=hire("admin"),
            approver=hire("compliance"),
        )
        assert session.ends.get(timeout=PATIENCE_S)
    entry = operator.wait_entry("fleet.revoked", subject=fleet)
    assert entry["details"]["reason"] == "The site's key is stolen"


def test_a_makers_ca_is_proven_by_the_commands_that_the_page_shows(
    journey: Journey, operator: Operator, hire: Hire, fleet: str, tmp_path: Path
) -> None:
    write_ca(tmp_path)
    journey(
        "manufacturer",
        fleet=fleet,
        requester=hire("admin"),
        approver=hire("admin"),
    )
    entries = operator.entries(type="manufacturer-ca", fleet=fleet)
    assert [entry["type"].removeprefix("manufacturer-ca.") for entry in entries] == [
        "registered",
        "proven",
        "activated",
        "revoked",
    ]


def test_a_code_is_asked_for_in_time_and_what_was_typed_goes_on(
    journey: Journey, operator: Operator, hire: Hire
) -> None:
    first, second = (ask_for_publisher(operator) for _ in range(2))
    journey(
        "step-up",
        person=hire("admin"),
        approvalId=first["id"],
        secondApprovalId=second["id"],
    )
    rejected, approved = (operator.get(f"approvals/{one['id']}") for one in (first, second))
    assert (rejected["state"], rejected["reason"]) == ("rejected", "Nobody told me of this")
    assert approved["state"] == "approved"
    kids = {publisher["kid"] for publisher in operator.get("publishers")["items"]}
    assert approved["result"]["kid"] in kids
    operator.wait_entry("session.stepped-up")


def test_agents_are_told_of_a_publisher_by_a_bundle_that_was_signed_elsewhere(
    journey: Journey, operator: Operator, platform: RunningPlatform, hire: Hire
) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    kid = hashlib.sha256(public.public_bytes_raw()).hexdigest()
    journey(
        "publisher",
        requester=hire("admin"),
        approver=hire("admin"),
        publisher=f"team-{secrets.token_hex(4)}",
        pem=pem,
        kid=kid,
        rootKey=str(next((platform.data / "root-keys").glob("root-*.key"))),
    )
    known = next(one for one in operator.get("publishers")["items"] if one["kid"] == kid)
    assert known["told_in"] == operator.get("trust")["version"]


def test_the_pages_of_identity_are_accessible_and_fit_a_narrow_screen(
    journey: Journey, operator: Operator, fleet: str, tmp_path: Path
) -> None:
    token = {"ttl_s": 600, "max_uses": 1, "approval": "manual"}
    join = operator.post(f"fleets/{fleet}/enrollment-tokens", token)["join"]
    assert Device(tmp_path / "waits").enroll(join, name="W" * 100).status_code == 202
    active = Device(tmp_path / "active")
    assert active.enroll(operator.mint(fleet)).status_code == 201
    waiting = next(one["id"] for one in operator.agents(fleet) if one["status"] == "pending")
    write_ca(tmp_path)
    ca = {"name": "M" * 100, "certificate": (tmp_path / "ca.pem").read_text(), "max_agents": 5}
    operator.post(f"fleets/{fleet}/manufacturer-cas", ca)
    approval = ask_for_publisher(operator)["id"]
    journey(
        "accessibility",
        patience_s=250,
        isAll=False,
        pages=[
            *("/enrollment", f"/enrollment?fleet={fleet}", "/enrollment?tab=recoveries"),
            *("/approvals", f"/approvals?approval={approval}", "/approvals?state=rejected"),
            *("/trust", "/agents?expires=30d&sort=expiry", f"/agents/{waiting}"),
            *(f"/fleets/{fleet}", "/users"),
        ],
        dialogs=[
            *([f"/fleets/{fleet}", "Revoke fleet"], [f"/fleets/{fleet}", "Register CA"]),
            *([f"/fleets/{fleet}", "Prove"], [f"/agents/{active.agent_id}", "Move"]),
            [f"/agents/{waiting}", "Reject…"],
        ],
    )


def ask_for_publisher(operator: Operator) -> dict[str, Any]:
    """What waits for a second person."""
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    name = f"team-{secrets.token_hex(4)}"
    until = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    body = {"name": name, "public_pem": pem, "names": [f"{name}-*"], "not_after": until}
    return operator.post("publishers", body)


def write_ca(directory: Path) -> None:
    """A maker's CA: `ca.pem`, and `ca.key` as only the maker has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Maker {secrets.token_hex(4)}")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "ca.key").write_bytes(pem)
