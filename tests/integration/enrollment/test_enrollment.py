"""Joining: a device with a join string becomes an agent, all at once or not at all."""

import asyncio
import collections
import hashlib
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.errors import BadKey, CsrMalformed, CsrTooLarge, CsrWrongKey, PkiError
from tensorguard.pki.identity import AgentIdentity, verify_peer
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.join import parse_join
from tensorguard.protocol.messages import Enrolled, EnrollmentPending, EnrollRequest, FleetConfig
from tensorguard.services.enrollment.tokens import list_tokens, revoke_token
from tensorguard.services.errors import (
    BadFacts,
    EnrollmentRejected,
    FleetNotFound,
    Invalid,
    KeyAlreadyEnrolled,
    ServiceError,
    TokenExhausted,
    TokenExpired,
    TokenNotFound,
    TokenRevoked,
    TokenWrongNetwork,
    UnknownToken,
)
from tests.integration.enrollment.builders import (
    DEVICE_URL,
    FLEET,
    MQTT,
    NOW,
    OPERATOR,
    TRUST_DOMAIN,
    Device,
    Platform,
)


async def enrolled(platform: Platform, request: EnrollRequest, **kwargs: Any) -> Enrolled:
    answer = await platform.enroll(request, **kwargs)
    assert isinstance(answer, Enrolled)
    return answer


async def test_a_device_that_joins_gets_an_identity_its_config_and_the_trust_bundle(
    platform: Platform,
) -> None:
    token = await platform.token(tags={"gpu": "true"})
    device = Device()

    answer = await enrolled(platform, device.request(token.join))

    leaf = x509.load_pem_x509_certificate(answer.certificate.encode())
    trust = TrustStore.open_first(msgspec.json.encode(answer.trust), trust_domain=TRUST_DOMAIN)
    peer = verify_peer(leaf.public_bytes(Encoding.DER), trust.cas, TRUST_DOMAIN, NOW)
    assert peer.identity == AgentIdentity(TRUST_DOMAIN, FLEET, answer.agent_id)
    assert peer.not_after == NOW + timedelta(days=7)
    assert leaf.public_key() == device.key.public_key()
    assert answer.agent_id.version == 7
    assert (answer.fleet, answer.mqtt, answer.status) == (FLEET, MQTT, "active")
    config = open_signed(
        msgspec.json.encode(answer.config),
        FleetConfig,
        keys=trust.keys_for("config", NOW),
        trust_domain=TRUST_DOMAIN,
        now=NOW,
        fleet=FLEET,
    )
    assert config.heartbeat_interval_s == 10
    (row,) = platform.rows("SELECT id, fleet, name, tags, facts, status FROM agents")
    assert row == (answer.agent_id, FLEET, device.name, {"gpu": "true"}, device.facts, "active")
    (serial,) = platform.rows("SELECT serial FROM certificates")[0]
    assert serial == format(peer.serial, "x")
    assert platform.rows("SELECT presence FROM agent_status") == [("never",)]


async def test_the_join_string_is_all_a_device_needs_and_its_secret_is_not_stored(
    platform: Platform,
) -> None:
    token = await platform.token()
    join = parse_join(token.join)
    assert join.url == DEVICE_URL
    assert join.ca == platform.keyring.ca.spki_sha256
    assert len(join.token) == 43
    assert token.join not in repr(token)
    (dump,) = platform.rows("SELECT string_agg(t::text, '') FROM enrollment_tokens t")[0]
    assert join.token not in dump
    assert join.token not in "".join(platform.events("token.created"))


async def test_the_ledger_has_the_enrollment_and_no_host_name(platform: Platform) -> None:
    token = await platform.token()
    device = Device(name="nurse-station-9", facts={"hostname": "secret-host"})
    answer = await enrolled(platform, device.request(token.join))

    (entry,) = platform.events("agent.enrolled")

    assert str(answer.agent_id) in entry
    assert str(token.id) in entry
    everything = b"".join(bytes(e) for (e,) in platform.rows("SELECT entry FROM ledger_events"))
    assert b"secret-host" not in everything
    assert b"nurse-station" not in everything


async def test_openssl_believes_the_certificate_of_a_request_that_openssl_made(
    platform: Platform, tmp_path: Path
) -> None:
    def openssl(*arguments: str) -> str:
        done = subprocess.run(
            ["openssl", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl(
        *("req", "-new", "-sha256", "-key", "key.pem", "-subj", "/CN=root/O=x"),
        *("-addext", "subjectAltName=URI:spiffe://example.tensorguard/service/hub"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-out", "csr.pem"),
    )
    token = await platform.token()
    request = Device().request(token.join, csr=(tmp_path / "csr.pem").read_text())

    answer = await enrolled(platform, request)

    (tmp_path / "leaf.pem").write_text(answer.certificate)
    (tmp_path / "ca.pem").write_text(platform.keyring.ca.certificate_pem)
    at = ("-attime", str(int(NOW.timestamp())))
    verdict = openssl(
        *("verify", "-x509_strict", *at, "-purpose", "sslclient"),
        *("-CAfile", "ca.pem", "leaf.pem"),
    )
    text = openssl("x509", "-in", "leaf.pem", "-noout", "-text")
    assert verdict == "leaf.pem: OK\n"
    assert "service/hub" not in text
    assert "CA:TRUE" not in text
    assert f"CN = {answer.agent_id}" in text


# Retries


async def test_the_same_request_again_gives_the_same_answer_and_uses_nothing_more(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=2)
    device = Device()
    first = await enrolled(platform, device.request(token.join))
    stored = platform.stored()
    assert stored["uses_left"] == 1

    # ECDSA signatures are random: a retry has another CSR with the same key.
    again = await enrolled(platform, device.request(token.join), now=NOW + timedelta(minutes=5))

    assert again == first
    assert platform.stored() == stored


async def test_an_answer_is_given_again_though_the_token_is_spent_or_has_expired(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=1, ttl=timedelta(minutes=1))
    device = Device()
    first = await enrolled(platform, device.request(token.join))
    later = NOW + timedelta(hours=1)
    assert await enrolled(platform, device.request(token.join), now=later) == first


@pytest.mark.parametrize("max_uses", [1, 3])
async def test_twins_of_one_request_at_the_same_time_become_one_agent(
    platform: Platform, max_uses: int
) -> None:
    token = await platform.token(max_uses=max_uses)
    device = Device()
    answers = await asyncio.gather(
        *(enrolled(platform, device.request(token.join)) for _ in range(6))
    )
    assert all(answer == answers[0] for answer in answers)
    assert platform.stored() | {"ledger_events": 0} == {
        **{"agents": 1, "certificates": 1, "agent_state": 1, "agent_status": 1},
        **{"ledger_events": 0, "uses_left": max_uses - 1},
    }


async def test_once_the_certificate_has_connected_the_answer_is_not_given_again(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=5)
    device = Device()
    await enrolled(platform, device.request(token.join))
    platform.run("UPDATE certificates SET first_connected_at = %s", NOW)
    stored = platform.stored()
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(device.request(token.join))
    assert platform.stored() == stored


async def test_a_key_of_another_agent_is_refused_whatever_the_token(platform: Platform) -> None:
    token, other = await platform.token(max_uses=5), await platform.token(max_uses=5)
    device = Device()
    await enrolled(platform, device.request(token.join))
    stored = platform.stored()
    for request in (
        device.request(other.join),
        Device(key=device.key).request(token.join),
        Device(key=device.key).request(other.join),
        Device(encryption_key=device.encryption_key).request(token.join),
        Device(encryption_key=device.encryption_key).request(other.join),
    ):
        with pytest.raises(KeyAlreadyEnrolled):
            await platform.enroll(request)
    assert platform.stored() == stored


async def test_one_key_with_two_tokens_at_the_same_time_becomes_one_agent(
    platform: Platform,
) -> None:
    tokens = [await platform.token(max_uses=2) for _ in range(4)]
    device = Device()
    answers = await asyncio.gather(
        *(platform.enroll(device.request(token.join)) for token in tokens), return_exceptions=True
    )
    kinds = collections.Counter(type(answer) for answer in answers)
    assert kinds == {Enrolled: 1, KeyAlreadyEnrolled: 3}
    assert platform.stored()["uses_left"] == 7


@pytest.mark.parametrize("status", ["revoked", "rejected"])
async def test_a_revoked_or_rejected_key_never_comes_back(platform: Platform, status: str) -> None:
    token = await platform.token(max_uses=5)
    device = Device()
    await enrolled(platform, device.request(token.join))
    platform.run("UPDATE agents SET status = %s", status)
    with pytest.raises((KeyAlreadyEnrolled, EnrollmentRejected)):
        await platform.enroll(device.request(token.join))
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(Device(key=device.key).request(token.join))


# Tokens


async def test_fifty_devices_at_once_with_a_token_for_twenty_become_exactly_twenty_agents(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=20)
    answers = await asyncio.gather(
        *(platform.enroll(Device().request(token.join)) for _ in range(50)), return_exceptions=True
    )
    kinds = collections.Counter(type(answer) for answer in answers)
    assert kinds == {Enrolled: 20, TokenExhausted: 30}
    stored = platform.stored()
    assert (stored["agents"], stored["certificates"], stored["uses_left"]) == (20, 20, 0)
    assert len(platform.events("agent.enrolled")) == 20


async def refuse(
    platform: Platform, request: EnrollRequest, error: type[Exception], **kw: Any
) -> None:
    stored = platform.stored()
    with pytest.raises(error):
        await platform.enroll(request, **kw)
    assert platform.stored() == stored


async def test_an_expired_token_is_refused_and_stores_nothing(platform: Platform) -> None:
    token = await platform.token(ttl=timedelta(minutes=10))
    late = NOW + timedelta(minutes=10)
    await refuse(platform, Device().request(token.join), TokenExpired, now=late)
    assert await platform.enroll(Device().request(token.join), now=late - timedelta(seconds=1))


async def test_a_spent_token_is_refused_and_stores_nothing(platform: Platform) -> None:
    token = await platform.token(max_uses=1)
    await platform.enroll(Device().request(token.join))
    await refuse(platform, Device().request(token.join), TokenExhausted)


async def test_a_revoked_token_is_refused_and_stores_nothing(platform: Platform) -> None:
    token = await platform.token(max_uses=5)
    for _ in range(2):
        async with platform.maker() as session, session.begin():
            await revoke_token(session, token.id, by=OPERATOR, now=NOW)
    await refuse(platform, Device().request(token.join), TokenRevoked)
    assert len(platform.events("token.revoked")) == 1


@pytest.mark.parametrize("secret", ["x", "A" * 43, "\x00", "é", "\ud800", "' OR 1=1 --"])
async def test_an_unknown_token_is_refused_and_stores_nothing(
    platform: Platform, secret: str
) -> None:
    token = await platform.token()
    await refuse(platform, Device().request(token.join, token=secret), UnknownToken)


@pytest.mark.parametrize(
    ("cidr", "peer", "inside"),
    [
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("192.0.2.0/24", "198.51.100.1", False),
        ("192.0.2.0/24", "2001:db8::1", False),
        ("192.0.2.0/24", "unix:", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
async def test_a_token_for_a_network_works_from_there_only(
    platform: Platform, cidr: str, peer: str, inside: bool
) -> None:
    token = await platform.token(cidr=cidr)
    request = Device().request(token.join)
    if inside:
        assert await platform.enroll(request, peer_ip=peer)
    else:
        await refuse(platform, request, TokenWrongNetwork, peer_ip=peer)


@pytest.mark.parametrize(
    "terms",
    [
        {"ttl": timedelta(0)},
        {"ttl": timedelta(days=366)},
        {"max_uses": 0},
        {"max_uses": 1_000_001},
        {"tags": {"": "x"}},
        {"tags": {"a b": "x"}},
        {"tags": {"a": "x\x00"}},
        {"tags": {f"k{n}": "v" for n in range(65)}},
        {"approval": "perhaps"},
        {"cidr": "nowhere"},
        {"cidr": "192.0.2.1/24"},
    ],
    ids=str,
)
async def test_terms_that_make_no_sense_make_no_token(
    platform: Platform, terms: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        await platform.token(**terms)
    assert platform.rows("SELECT count(*) FROM enrollment_tokens") == [(0,)]


async def test_tokens_are_listed_page_by_page_without_their_secrets(platform: Platform) -> None:
    made = [await platform.token() for _ in range(3)]
    await platform.fleet("other")
    await platform.token("other")
    async with platform.maker() as session:
        page = await list_tokens(session, FLEET, limit=2)
        rest = await list_tokens(session, FLEET, after=page[-1].id)
        with pytest.raises(TokenNotFound):
            await revoke_token(session, UUID(int=1), by=OPERATOR, now=NOW)
    assert [row.id for row in (*page, *rest)] == [token.id for token in made]
    assert "secret_sha256" not in page[0]._fields


async def test_a_token_for_no_fleet_is_not_made(platform: Platform) -> None:
    with pytest.raises(FleetNotFound):
        await platform.token("nowhere")


# Approval by an operator


async def test_with_manual_approval_a_device_waits_and_is_certified_once_approved(
    platform: Platform,
) -> None:
    token = await platform.token(approval="manual")
    device = Device()
    first = await platform.enroll(device.request(token.join))
    assert isinstance(first, EnrollmentPending)
    assert await platform.enroll(device.request(token.join)) == first
    assert platform.stored()["certificates"] == 0
    assert platform.events("agent.enrolled") == []

    platform.run("UPDATE agents SET status = 'active', enrolled_at = %s", NOW)

    answers = await asyncio.gather(
        *(enrolled(platform, device.request(token.join)) for _ in range(4))
    )
    assert answers[0].agent_id == first.agent_id
    assert {answer.certificate for answer in answers} == {answers[0].certificate}
    assert platform.stored()["certificates"] == 1


# What the device sends

LABEL = "CERTIFICATE REQUEST"


@pytest.mark.parametrize(
    ("csr", "error"),
    [
        ("", CsrMalformed),
        ("x" * 1_000_000, CsrTooLarge),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
            CsrMalformed,
        ),
    ],
    ids=["empty", "a megabyte", "no request"],
)
async def test_a_bad_request_for_a_certificate_stores_nothing(
    platform: Platform, csr: str, error: type[PkiError]
) -> None:
    token = await platform.token()
    await refuse(platform, Device().request(token.join, csr=csr), error)


async def test_a_key_of_another_curve_stores_nothing(platform: Platform) -> None:
    token = await platform.token()
    device = Device(key=ec.generate_private_key(ec.SECP384R1()))
    await refuse(platform, device.request(token.join), CsrWrongKey)


@pytest.mark.parametrize("raw", [b"", bytes(32), b"\x01" + bytes(31), b"x" * 33])
async def test_a_bad_encryption_key_stores_nothing(platform: Platform, raw: bytes) -> None:
    token = await platform.token()
    await refuse(platform, Device().request(token.join, encryption_key=raw), BadKey)


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "n" * 201},
        {"name": "a\x00b"},
        {"name": "a\x1b[31mb"},
        {"facts": {"os": "\x00"}},
        {"facts": {"\x00": 1}},
        {"facts": {"os": ["x", {"y": "a\nb"}]}},
        {"facts": {"big": "x" * 16_384}},
        {"facts": {"n": 2**53}},
        {"facts": {"n": float("nan")}},
        {"facts": {"n": float("inf")}},
        {"facts": {"half": "\ud800"}},
        {"facts": nested(100)},
        {"facts": {"bytes": b"x"}},
    ],
    ids=lambda changes: str(changes)[:40],
)
async def test_a_name_or_facts_that_cannot_be_kept_store_nothing(
    platform: Platform, changes: dict[str, Any]
) -> None:
    token = await platform.token()
    await refuse(platform, Device().request(token.join, **changes), BadFacts)


async def test_facts_of_any_legal_kind_are_kept_as_they_are(platform: Platform) -> None:
    facts = {
        "os": "linux",
        "accelerators": [{"name": "Ünïcode 🚀", "memory_bytes": 2**40, "share": 0.5}],
        "nothing": None,
        "yes": True,
        "text": "x" * 15_000,
    }
    token = await platform.token()
    await platform.enroll(Device(facts=facts).request(token.join))
    assert platform.rows("SELECT facts FROM agents") == [(facts,)]


async def test_every_refusal_says_what_to_do_and_none_repeats_the_token(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=1)
    await platform.enroll(Device().request(token.join))
    secret = parse_join(token.join).token
    requests = [
        Device().request(token.join),
        Device().request(token.join, token="wrong"),
        Device().request(token.join, csr="wrong"),
        Device().request(token.join, name=""),
    ]
    for request in requests:
        with pytest.raises((ServiceError, PkiError)) as refusal:
            await platform.enroll(request)
        assert isinstance(refusal.value, ServiceError | PkiError)
        assert refusal.value.hint
        assert secret not in f"{refusal.value!r}{refusal.value.hint}"


async def test_a_certificate_s_key_is_stored_as_its_spki(platform: Platform) -> None:
    token = await platform.token()
    device = Device()
    await platform.enroll(device.request(token.join))
    der = device.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(der).digest()
    assert platform.rows("SELECT spki_sha256 FROM certificates") == [(digest,)]
    assert platform.rows("SELECT enrolled_spki_sha256 FROM agents") == [(digest,)]
