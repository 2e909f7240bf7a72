"""docs/protocol.md, its schemas and its examples say what the code does."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.runtime.enroll import check_answer
from tensorguard.ledger.checkpoint import VerifierKey, verify_checkpoint
from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.csr import parse_csr
from tensorguard.pki.identity import spki_sha256
from tensorguard.pki.keys import Ed25519Verifier
from tensorguard.protocol import codec, envelope
from tensorguard.protocol.join import Join, format_join, parse_join
from tensorguard.protocol.messages import (
    CertificateIssued,
    Checkpoint,
    Desired,
    Enrolled,
    EnrollRequest,
    Event,
    Grant,
    KeyRequest,
)
from tensorguard.protocol.schemas import DOCUMENTS, rendered, schema_of
from tensorguard.protocol.topics import DownKind, FrontKind, UpKind
from tensorguard.tgsp.grants import open_grant

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "protocol.md").read_text()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DESIRED_TYPE = "application/vnd.tensorguard.desired.v1+json"


def raw(name: str) -> bytes:
    return (DOCS / "examples" / f"{name}.json").read_bytes()


def example(name: str) -> Any:
    """An example as the platform's own type."""
    return msgspec.json.decode(raw(name), type=DOCUMENTS[name])


def trust() -> TrustStore:
    return TrustStore.open_first(json.dumps(json.loads(raw("enrolled"))["trust"]).encode())


def test_every_kind_that_travels_is_documented() -> None:
    kinds = {*UpKind, *DownKind}
    assert kinds <= set(DOCUMENTS)
    assert not set(FrontKind) & set(DOCUMENTS)
    for kind in kinds:
        assert f"### {kind}\n" in PAGE


def test_schemas_are_those_of_the_types() -> None:
    stored = {path.stem: path.read_text() for path in (DOCS / "schemas").glob("*.json")}
    wanted = {name: rendered(name) for name in DOCUMENTS}
    assert stored == wanted, "run: python -m tensorguard.protocol.schemas docs/schemas"


def test_there_is_one_example_of_each_document() -> None:
    assert {path.stem for path in (DOCS / "examples").iterdir()} == set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_example_comes_through_the_types_whole(name: str) -> None:
    again = json.loads(msgspec.json.encode(example(name)))
    assert again == json.loads(raw(name))


@pytest.mark.parametrize("kind", [kind for kind in DOCUMENTS if kind in set(UpKind)])
def test_an_example_of_what_goes_up_is_taken_by_the_hub(kind: str) -> None:
    assert codec.decode_up(UpKind(kind), raw(kind)) == example(kind)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_example_is_valid_by_its_schema_as_a_foreign_validator_reads_it(name: str) -> None:
    validator = jsonschema_rs.Draft202012Validator(schema_of(name), validate_formats=True)
    document = json.loads(raw(name))
    assert list(validator.iter_errors(document)) == []
    for field in schema_of(name)["$defs"][DOCUMENTS[name].__name__]["required"]:
        less = {key: value for key, value in document.items() if key != field}
        assert not validator.is_valid(less), f"{field} may be missing"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("heartbeat", {"cpu_percent": 101}),
        ("heartbeat", {"seq": 2**53}),
        ("heartbeat", {"agent_version": "a\u0000b"}),
        ("event", {"type": "made.up"}),
        ("key-request", {"package_digest": "AB" * 32}),
        ("progress", {"percent": -1}),
    ],
)
def test_schemas_refuse_what_the_platform_refuses(name: str, changes: dict[str, Any]) -> None:
    validator = jsonschema_rs.Draft202012Validator(schema_of(name))
    spoilt = json.loads(raw(name)) | changes
    assert not validator.is_valid(spoilt)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(spoilt, DOCUMENTS[name])


def test_examples_on_the_page_are_the_files() -> None:
    shown = re.findall(r"<!-- examples/([a-z-]+)\.json -->\n```json\n(.*?)\n```", PAGE, re.DOTALL)
    assert len(shown) == PAGE.count("```json")
    for name, text in shown:
        assert text + "\n" == raw(name).decode(), name
    linked = set(re.findall(r"\(examples/([a-z-]+)\.json\)", PAGE))
    assert {name for name, _ in shown} | linked | {"enrollment-pending"} == set(DOCUMENTS)


def test_every_field_of_a_message_stands_on_the_page() -> None:
    for name, type_ in DOCUMENTS.items():
        if name == "envelope":
            continue
        for field in msgspec.structs.fields(type_):
            assert re.search(rf'[`"/{{ ,]{field.encode_name}[`"/}} ,]', PAGE), (
                f"{name}.{field.name}"
            )


def test_every_event_type_stands_on_the_page() -> None:
    [type_] = [one.type for one in msgspec.structs.fields(Event) if one.name == "type"]
    for name in type_.__args__:
        assert f"`{name}`" in PAGE


def test_the_join_string_on_the_page_is_the_example() -> None:
    [text] = re.findall(r"^tg1\.\S+$", PAGE, re.MULTILINE)
    join = example("join")
    assert isinstance(join, Join)
    assert (parse_join(text), format_join(join)) == (join, text)


def test_the_signature_on_the_page_is_made_as_it_says() -> None:
    fields = dict(re.findall(r"^(private seed|public key|keyid)\s+([0-9a-f]{64})$", PAGE, re.M))
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(fields["private seed"]))
    public = key.public_key().public_bytes_raw()
    assert fields["public key"] == public.hex()
    assert fields["keyid"] == hashlib.sha256(public).hexdigest()
    payload = codec.encode(example("desired"))
    head = f"DSSEv1 {len(DESIRED_TYPE)} {DESIRED_TYPE} {len(payload)} ".encode()
    shown = re.search(r"^PAE\s+(.*?)…$", PAGE, re.M)
    assert shown is not None
    assert (head + payload).startswith(shown[1].encode())
    assert f"SHA-256(PAE)   {hashlib.sha256(head + payload).hexdigest()}" in PAGE
    signature = key.sign(head + payload).hex()
    assert f"signature      {signature[:64]}\n               {signature[64:]}" in PAGE
    [signed] = json.loads(raw("envelope"))["signatures"]
    assert envelope.parse(raw("envelope")).signatures[0].sig.hex() == signature
    assert signed["keyid"] == fields["keyid"]


def test_the_examples_are_one_device_that_has_joined() -> None:
    join, request, answer = example("join"), example("enroll-request"), example("enrolled")
    assert isinstance(request, EnrollRequest)
    assert isinstance(answer, Enrolled)
    assert request.token == join.token
    anchor = x509.load_pem_x509_certificate(example("trust").ca[0].encode())
    assert spki_sha256(anchor) == join.ca
    joined = check_answer(answer, anchor, NOW)
    assert joined.config == example("config")
    assert joined.trust.bundle == example("trust")
    assert _same_key(joined.certificate, parse_csr(request.csr))
    renewed = example("certificate")
    assert isinstance(renewed, CertificateIssued)
    assert renewed.certificate is not None
    leaf = x509.load_pem_x509_certificate(renewed.certificate.encode())
    assert _same_key(leaf, parse_csr(example("csr").csr))
    leaf.verify_directly_issued_by(anchor)


def _same_key(certificate: x509.Certificate, key: EllipticCurvePublicKey) -> bool:
    return certificate.public_key() == key


def test_the_example_envelope_is_believed_by_the_example_device() -> None:
    keys = trust().keys_for("desired", NOW)
    assert all(isinstance(key, Ed25519Verifier) for key in keys.values())
    opened = envelope.open_signed(
        raw("envelope"),
        Desired,
        keys=keys,
        trust_domain="tensorguard.example",
        now=NOW,
        agent_id=UUID("0195a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"),
    )
    assert opened == example("desired")


def test_the_example_grant_opens_with_the_key_on_the_page() -> None:
    grant, asked = example("grant"), example("key-request")
    assert isinstance(grant, Grant)
    assert isinstance(asked, KeyRequest)
    assert (grant.request_id, grant.package_digest) == (asked.request_id, asked.package_digest)
    found = re.search(r"private key `([0-9a-f]{64})` to the DEK\s+`([0-9a-f]{64})`", PAGE)
    assert found is not None
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(found[1]))
    assert private.public_key().public_bytes_raw() == example("enroll-request").encryption_key
    assert grant.sealed is not None
    assert grant.exp is not None
    digest = bytes.fromhex(grant.package_digest)
    dek = open_grant(grant.sealed, recipient=private, manifest_digest=digest, exp=grant.exp)
    assert dek.hex() == found[2]


def test_the_example_checkpoint_is_signed_by_a_ledger_key_and_seen_in_the_heartbeat() -> None:
    checkpoint, beat = example("checkpoint"), example("heartbeat")
    assert isinstance(checkpoint, Checkpoint)
    private = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    key = VerifierKey("tensorguard.example/ledger/1", private.public_key())
    note = verify_checkpoint(checkpoint.note, [key])
    assert (note.size, note.root.hex()) == (beat.ledger.size, beat.ledger.root)
    ledger_kids = {one.kid for one in trust().bundle.keys.ledger}
    assert hashlib.sha256(private.public_key().public_bytes_raw()).hexdigest() in ledger_kids
