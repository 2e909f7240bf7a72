"""Signed messages: one good way in, and every way out."""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.pki.keys import Ed25519Signer, Ed25519Verifier
from tensorguard.protocol import envelope
from tensorguard.protocol.envelope import Verifier, open_signed, sign
from tensorguard.protocol.errors import (
    BadEnvelope,
    BadSignature,
    EnvelopeRefused,
    Expired,
    MessageTooLarge,
    UnknownSigner,
    WrongKind,
    WrongRecipient,
)
from tensorguard.protocol.messages import Desired, FleetConfig, Signed
from tests.unit.protocol import builders
from tests.unit.protocol.builders import AGENT_ID, NOW, OTHER_ID, TRUST_DOMAIN

SIGNER, STRANGER = Ed25519Signer.generate(), Ed25519Signer.generate()
KEYS: Mapping[str, Verifier] = {SIGNER.kid: Ed25519Verifier(SIGNER.public_raw)}
GOOD = sign(builders.desired(), [SIGNER])


def opened(raw: bytes, **changes: Any) -> Desired:
    known: dict[str, Any] = {
        "keys": KEYS,
        "trust_domain": TRUST_DOMAIN,
        "now": NOW,
        "agent_id": AGENT_ID,
        "fleet": "hospital-a",
    }
    return open_signed(raw, Desired, **(known | changes))


def spoilt(raw: bytes, spoil: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(raw)
    spoil(document)
    return json.dumps(document).encode()


def test_a_good_envelope_gives_back_what_was_signed() -> None:
    assert opened(GOOD) == builders.desired()


def test_an_envelope_is_plain_dsse() -> None:
    """Source: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md"""
    document = json.loads(GOOD)
    assert document.keys() == {"payload", "payloadType", "signatures"}
    assert document["payloadType"] == "application/vnd.tensorguard.desired.v1+json"
    payload = base64.b64decode(document["payload"], validate=True)
    assert json.loads(payload)["agent_id"] == str(AGENT_ID)
    [signature] = document["signatures"]
    assert signature["keyid"] == SIGNER.kid
    # DSSE's own words: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body
    kind = document["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    assert Ed25519Verifier(SIGNER.public_raw).verify(base64.b64decode(signature["sig"]), signed)


def test_dsse_encodes_its_own_example() -> None:
    """Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    assert envelope.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (builders.desired(), "desired"),
        (builders.config(), "config"),
        (builders.grant(), "grant"),
        (builders.certificate(), "certificate"),
        (builders.command(), "command"),
    ],
)
def test_each_kind_opens_as_itself_and_as_nothing_else(message: Signed, kind: str) -> None:
    raw = sign(message, [SIGNER])
    assert json.loads(raw)["payloadType"] == envelope.payload_type(kind)
    for type_, name in envelope.SIGNED_KINDS.items():
        arguments: dict[str, Any] = {"agent_id": AGENT_ID, "fleet": "hospital-a"}
        arguments |= {"keys": KEYS, "trust_domain": TRUST_DOMAIN, "now": NOW}
        if name == kind:
            assert open_signed(raw, type_, **arguments) == message
        else:
            with pytest.raises(WrongKind):
                open_signed(raw, type_, **arguments)


def test_a_payload_type_that_was_not_signed_is_refused() -> None:
    config = sign(builders.config(), [SIGNER])
    relabelled = spoilt(config, lambda d: d.update(payloadType=envelope.payload_type("desired")))
    with pytest.raises(BadSignature):
        opened(relabelled)


def test_a_stranger_is_refused_by_key_id() -> None:
    with pytest.raises(UnknownSigner, match=STRANGER.kid[:16]):
        opened(sign(builders.desired(), [STRANGER]))


def test_a_stranger_who_borrows_a_key_id_is_refused() -> None:
    forged = spoilt(
        sign(builders.desired(), [STRANGER]),
        lambda d: d["signatures"][0].update(keyid=SIGNER.kid),
    )
    with pytest.raises(BadSignature):
        opened(forged)


def test_an_envelope_without_signatures_is_refused() -> None:
    with pytest.raises(UnknownSigner, match="nobody"):
        opened(spoilt(GOOD, lambda d: d.update(signatures=[])))


def test_a_strangers_signature_beside_a_known_one_does_no_harm() -> None:
    assert opened(sign(builders.desired(), [STRANGER, SIGNER])) == builders.desired()


def test_a_bad_signature_is_not_outvoted_by_a_good_one() -> None:
    twice = spoilt(GOOD, lambda d: d["signatures"].append({"keyid": SIGNER.kid, "sig": "AAAA"}))
    with pytest.raises(BadSignature):
        opened(twice)


def test_the_same_signer_twice_is_one_signer() -> None:
    raw = sign(builders.desired(), [SIGNER, SIGNER])
    assert envelope.valid_signers(envelope.parse(raw), KEYS) == {SIGNER.kid}


def test_more_signatures_than_are_read_are_refused() -> None:
    many = spoilt(GOOD, lambda d: d.update(signatures=d["signatures"] * 33))
    with pytest.raises(BadEnvelope, match="33"):
        opened(many)


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        (builders.desired(agent_id=OTHER_ID), {}),
        (builders.desired(), {"agent_id": None}),
        (builders.desired(trust_domain="example.other"), {}),
        (builders.desired(), {"trust_domain": "example.other"}),
    ],
)
def test_what_is_for_somebody_else_is_refused(message: Desired, asked: dict[str, Any]) -> None:
    with pytest.raises(WrongRecipient):
        opened(sign(message, [SIGNER]), **asked)


@pytest.mark.parametrize("fleet", ["hospital-b", None])
def test_another_fleets_config_is_refused(fleet: str | None) -> None:
    raw = sign(builders.config(), [SIGNER])
    with pytest.raises(WrongRecipient):
        open_signed(raw, FleetConfig, keys=KEYS, trust_domain=TRUST_DOMAIN, now=NOW, fleet=fleet)


def test_a_message_is_good_until_the_moment_it_expires() -> None:
    message = builders.desired()
    last = message.expires_at - timedelta(microseconds=1)
    assert opened(GOOD, now=last) == message
    with pytest.raises(Expired):
        opened(GOOD, now=message.expires_at)


def test_a_signed_payload_that_is_not_of_its_kind_is_refused() -> None:
    payload = b'{"agent_id": 1}'
    type_ = envelope.payload_type("desired")
    raw = json.dumps(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": type_,
            "signatures": [
                {
                    "keyid": SIGNER.kid,
                    "sig": base64.b64encode(SIGNER.sign(envelope.pae(type_, payload))).decode(),
                }
            ],
        }
    ).encode()
    with pytest.raises(BadEnvelope, match="Desired"):
        opened(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"payload": "!", "payloadType": "x", "signatures": []}',
        b'{"payload": "", "payloadType": "x", "signatures": [{}]}',
        b'{"payload": "", "payloadType": "x", "signatures": {}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(BadEnvelope):
        opened(raw)


def test_an_envelope_beyond_the_limit_is_not_even_read() -> None:
    with pytest.raises(MessageTooLarge):
        opened(GOOD.ljust(envelope.MAX_ENVELOPE_BYTES + 1))
    assert opened(GOOD.ljust(envelope.MAX_ENVELOPE_BYTES)) == builders.desired()


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_gets_another_message_through(place: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] ^= change
    try:
        message = opened(bytes(damaged))
    except EnvelopeRefused:
        return
    # A byte that means nothing may change, such as white space or an unused bit of base64.
    assert message == builders.desired()
