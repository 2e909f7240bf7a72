import os
import ssl
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.pki.errors import (
    BadCertificate,
    BadIdentity,
    CertificateExpired,
    CertificateNotYetValid,
    PkiError,
    WrongIssuer,
    WrongTrustDomain,
)
from tensorguard.pki.identity import (
    AgentIdentity,
    ServiceIdentity,
    identity_from_certificate,
    parse_uri,
    verify_peer,
)
from tensorguard.pki.issuer import CertificateAuthority
from tests.unit.pki.builders import (
    AGENT,
    AGENT_ID,
    NOW,
    TRUST_DOMAIN,
    Change,
    der,
    forge_leaf,
    p256,
)

slugs = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,60}[a-z0-9])?", fullmatch=True)


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(TRUST_DOMAIN, NOW)


@given(domains, slugs, st.uuids())
def test_an_agents_uri_parses_to_the_same_agent(domain: str, fleet: str, agent_id: UUID) -> None:
    identity = AgentIdentity(domain, fleet, agent_id)
    assert parse_uri(identity.uri) == identity


@given(domains, slugs)
def test_a_services_uri_parses_to_the_same_service(domain: str, name: str) -> None:
    identity = ServiceIdentity(domain, name)
    assert parse_uri(identity.uri) == identity


@given(st.one_of(st.text(), st.text().map(lambda text: "spiffe://" + text)))
def test_any_other_text_is_refused_with_a_typed_error_or_names_itself(text: str) -> None:
    try:
        identity = parse_uri(text)
    except BadIdentity:
        return
    assert identity.uri == text


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://td/fleet/f/agent/" + str(AGENT_ID),
        f"spiffe://td/fleet/f/agent/{AGENT_ID}/",
        f"spiffe://td/fleet/f/agent/{AGENT_ID}?x=1",
        f"spiffe://td/fleet/f/agent/{AGENT_ID}\n",
        f"spiffe://td/fleet/F/agent/{AGENT_ID}",
        f"spiffe://td/fleet/-f/agent/{AGENT_ID}",
        f"spiffe://td/fleet/{'f' * 41}/agent/{AGENT_ID}",
        f"spiffe://td/fleet//agent/{AGENT_ID}",
        f"spiffe://td:8443/fleet/f/agent/{AGENT_ID}",
        f"spiffe://user@td/fleet/f/agent/{AGENT_ID}",
        f"spiffe://TD/fleet/f/agent/{AGENT_ID}",
        f"spiffe://td/fleet/f/agent/{str(AGENT_ID).upper()}",
        f"spiffe://td/fleet/f/agent/{AGENT_ID.hex}",
        f"spiffe://td/fleet/f/agent/{{{AGENT_ID}}}",
        f"spiffe://td/fleet/f/agent/urn:uuid:{AGENT_ID}",
        "spiffe://td/fleet/f/agent/x",
        "spiffe://td/service/",
        "spiffe://td/service/hub/x",
        "spiffe://td/service/" + "h" * 3000,
        "spiffe:///service/hub",
    ],
)
def test_a_uri_in_any_other_form_is_refused(uri: str) -> None:
    with pytest.raises(BadIdentity):
        parse_uri(uri)


def test_what_the_issuer_writes_for_an_agent_is_believed(ca: CertificateAuthority) -> None:
    leaf = ca.issue_agent(p256().public_key(), AGENT, NOW)

    peer = verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW)

    assert peer.identity == AGENT
    assert peer.serial == leaf.serial_number
    assert peer.not_after == NOW + timedelta(days=7)
    assert len(peer.spki_sha256) == 64


def test_what_the_issuer_writes_for_a_service_is_believed(ca: CertificateAuthority) -> None:
    identity = ServiceIdentity(TRUST_DOMAIN, "hub")
    leaf = ca.issue_service(p256().public_key(), identity, NOW, dns_names=["localhost"])

    assert verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW).identity == identity


URI = x509.UniformResourceIdentifier
SECOND_AGENT = AgentIdentity(TRUST_DOMAIN, "hospital-a", UUID(int=7))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"names": []},
        {"names": [URI(AGENT.uri), URI(SECOND_AGENT.uri)]},
        {"names": [URI(AGENT.uri), URI(AGENT.uri)]},
        {"names": [x509.DNSName("localhost")]},
        {"names": [URI(AGENT.uri), x509.DNSName("localhost")]},
        {"names": [URI(AGENT.uri), x509.RFC822Name("a@example.org")]},
        {"names": [URI("https://example.org/")]},
        {"common_name": str(UUID(int=7))},
        {"common_name": str(AGENT_ID).upper()},
        {"usages": [ExtendedKeyUsageOID.SERVER_AUTH]},
        {"usages": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]},
        {"usages": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
        {"is_ca": True},
        {"key_cert_sign": True},
        {"leave_out": x509.BasicConstraints},
        {"leave_out": x509.ExtendedKeyUsage},
        {"leave_out": x509.SubjectAlternativeName},
        {"leave_out": x509.KeyUsage},
        {"key": ec.generate_private_key(ec.SECP384R1())},
        {"key": rsa.generate_private_key(65537, 2048)},
    ],
    ids=str.split(
        "no-uri two-uris the-same-uri-twice no-uri-but-dns dns-beside-uri mail-beside-uri "
        "foreign-uri other-cn cn-in-capitals server-only server-too any-usage ca "
        "signs-certificates no-constraints no-usage no-names no-key-usage p384 rsa"
    ),
)
def test_a_leaf_of_another_profile_is_refused_though_the_ca_signed_it(
    ca: CertificateAuthority, spoiled: dict[str, object]
) -> None:
    leaf = forge_leaf(ca, **spoiled)  # type: ignore[arg-type]  # one keyword, typed at its use
    with pytest.raises((BadCertificate, BadIdentity)):
        verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW)


def test_the_forger_of_these_tests_makes_a_good_leaf_when_nothing_is_spoiled(
    ca: CertificateAuthority,
) -> None:
    leaf = forge_leaf(ca)
    assert verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW).identity == AGENT


def test_an_unknown_critical_extension_is_refused(ca: CertificateAuthority) -> None:
    add: Change = lambda builder: builder.add_extension(  # noqa: E731  # typed as the builder wants it
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"),
        critical=True,
    )
    with pytest.raises(BadCertificate, match=r"1\.3\.6\.1\.4\.1\.99999\.1"):
        verify_peer(der(forge_leaf(ca, extra=add)), [ca.certificate], TRUST_DOMAIN, NOW)


def test_a_leaf_signed_by_another_ca_with_the_same_name_is_refused(
    ca: CertificateAuthority,
) -> None:
    leaf = forge_leaf(ca, signing_key=p256())
    with pytest.raises(WrongIssuer):
        verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW)


def test_a_leaf_signed_with_an_agents_key_is_refused(ca: CertificateAuthority) -> None:
    agent_key = p256()
    agent = ca.issue_agent(agent_key.public_key(), SECOND_AGENT, NOW)
    rogue = CertificateAuthority(agent, agent_key)
    leaf = forge_leaf(rogue)
    with pytest.raises(WrongIssuer):
        verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW)


def test_a_leaf_of_an_intermediate_is_refused_though_the_chain_is_good(
    ca: CertificateAuthority,
) -> None:
    key = p256()
    intermediate = CertificateAuthority(forge_leaf(ca, key=key, is_ca=True), key)
    with pytest.raises(WrongIssuer):
        verify_peer(der(forge_leaf(intermediate)), [ca.certificate], TRUST_DOMAIN, NOW)


def test_a_leaf_of_a_ca_that_is_no_longer_current_is_refused(ca: CertificateAuthority) -> None:
    old = CertificateAuthority.create(TRUST_DOMAIN, NOW, timedelta(days=1))
    leaf = forge_leaf(old)
    later = NOW + timedelta(days=2)
    with pytest.raises(WrongIssuer):
        verify_peer(der(leaf), [old.certificate, ca.certificate], TRUST_DOMAIN, later)


def test_each_of_several_current_cas_is_believed(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.create(TRUST_DOMAIN, NOW)
    for issuer in (ca, other):
        leaf = issuer.issue_agent(p256().public_key(), AGENT, NOW)
        cas = [ca.certificate, other.certificate]
        assert verify_peer(der(leaf), cas, TRUST_DOMAIN, NOW).identity == AGENT


def test_a_leaf_of_another_trust_domain_is_refused(ca: CertificateAuthority) -> None:
    leaf = ca.issue_agent(p256().public_key(), AgentIdentity("other.example", "f", AGENT_ID), NOW)
    with pytest.raises(WrongTrustDomain):
        verify_peer(der(leaf), [ca.certificate], TRUST_DOMAIN, NOW)


def test_validity_begins_at_not_before_and_ends_at_not_after(ca: CertificateAuthority) -> None:
    starts, ends = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    leaf = der(forge_leaf(ca, not_before=starts, not_after=ends))
    cas, second = [ca.certificate], timedelta(seconds=1)

    with pytest.raises(CertificateNotYetValid):
        verify_peer(leaf, cas, TRUST_DOMAIN, starts - second)
    assert verify_peer(leaf, cas, TRUST_DOMAIN, starts).not_after == ends
    assert verify_peer(leaf, cas, TRUST_DOMAIN, ends - second).not_after == ends
    with pytest.raises(CertificateExpired):
        verify_peer(leaf, cas, TRUST_DOMAIN, ends)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_refused(raw: bytes) -> None:
    with pytest.raises(BadCertificate):
        identity_from_certificate(raw)


def test_a_certificate_of_a_megabyte_is_refused_unread() -> None:
    with pytest.raises(BadCertificate, match="larger"):
        identity_from_certificate(b"\x30" * 1_000_000)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_changed_byte_never_makes_another_peer() -> None:
    every = range(1, 256) if os.environ.get("TG_TEST_DEEP") else [1 << bit for bit in range(8)]
    peer = verify_peer(LEAF, [CA.certificate], TRUST_DOMAIN, NOW)
    for at in range(len(LEAF)):
        for change in every:
            leaf = bytearray(LEAF)
            leaf[at] ^= change
            with suppress(PkiError):
                # Accepted only where the encoding of the same signature has room for it.
                assert verify_peer(bytes(leaf), [CA.certificate], TRUST_DOMAIN, NOW) == peer


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        pytest.param(b"\x06\x03\x55\x04\x03\x0c", b"\x06\x03\x55\x04\x03\x03", id="bit string"),
        pytest.param(b"\x86", b"\xa3", id="x400 address"),
    ],
)
def test_what_the_parser_does_not_take_is_refused_by_name(text: bytes, becomes: bytes) -> None:
    uri = LEAF.index(b"spiffe://")
    at = LEAF.rindex(text, 0, uri)
    leaf = LEAF[:at] + becomes + LEAF[at + len(text) :]
    with pytest.raises(BadCertificate):
        verify_peer(leaf, [CA.certificate], TRUST_DOMAIN, NOW)


CA = CertificateAuthority.create(TRUST_DOMAIN, NOW)
LEAF = der(CA.issue_agent(p256().public_key(), AGENT, NOW))


def test_python_ssl_accepts_the_ca_as_an_anchor() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA.certificate_pem)
    assert context.cert_store_stats()["x509_ca"] == 1
