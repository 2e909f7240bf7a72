"""A grant opens for one key, one package and one expiry."""

from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.tgsp.grants import seal_grant
from tensorguard.tgsp.manifest import Target
from tensorguard.tgsp.opener import unwrap_detached, unwrap_embedded
from tensorguard.tgsp.target import SeqFloor
from tests.unit.tgsp.builders import NOW, NOW_S, Forge
from tests.unit.tgsp.refusals import refusal


def _grant(forge: Forge, **changes: Any) -> dict[str, Any]:
    header, _ = forge.read()
    (grant,) = cbor2.loads(header.grants_bytes)
    return dict(grant | changes)


def _write_grants(forge: Forge, *grants: dict[str, Any]) -> None:
    forge.write(grants=cbor2.dumps(list(grants), canonical=True))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": NOW_S + 1}, "grant-refused"),
        ({"exp": NOW_S - 1}, "grant-expired"),
        ({"kid": bytes(32)}, "no-grant"),
        ({"alg": "hpke-none"}, "unknown-grant-alg"),
        ({"sealed": bytes(80)}, "grant-refused"),
        ({"sealed": b""}, "grant-refused"),
        ({"kid": b"short"}, "bad-grants"),
        ({"exp": -1}, "bad-grants"),
        ({"exp": None}, "bad-grants"),
        ({"key": b"in band"}, "bad-grants"),
    ],
)
def test_a_changed_grant_is_refused(forge: Forge, changes: dict[str, Any], code: str) -> None:
    forge.build()
    _write_grants(forge, _grant(forge, **changes))
    assert refusal(forge) == code


def test_a_recipient_named_twice_is_refused(forge: Forge) -> None:
    forge.build()
    _write_grants(forge, _grant(forge), _grant(forge, exp=5))
    assert refusal(forge) == "duplicate-recipient"


@pytest.mark.parametrize("data", [b"", b"\x9f\xff", b"\xa0", b"\x80\x80", b"\x81\xf6"])
def test_lists_in_another_form_are_refused(forge: Forge, data: bytes) -> None:
    forge.build()
    forge.write(grants=data)
    assert refusal(forge) == "bad-grants"
    forge.build()
    forge.write(sigs=data)
    assert refusal(forge) == "bad-sigs"


def test_grants_from_another_package_are_refused(forge: Forge) -> None:
    forge.build()
    other, _ = forge.read()
    forge.build()
    forge.write(grants=other.grants_bytes)
    assert refusal(forge) == "grant-refused"


def test_a_stranger_finds_no_grant(forge: Forge) -> None:
    forge.build()
    stranger = X25519PrivateKey.generate()
    assert refusal(forge, unwrap=unwrap_embedded(stranger, NOW)) == "no-grant"


def test_a_grant_with_another_dek_is_refused(forge: Forge) -> None:
    built = forge.build()
    sealed = seal_grant(
        bytes(32), recipient=forge.recipient.public_key(), manifest_digest=built.digest, exp=0
    )
    _write_grants(forge, _grant(forge, sealed=sealed))
    assert refusal(forge) == "wrong-dek"


def test_a_detached_grant_opens_for_its_agent_until_it_expires(forge: Forge) -> None:
    built = forge.build()
    header, _ = forge.read()
    dek = unwrap_embedded(forge.recipient, NOW)(header)
    agent, exp = X25519PrivateKey.generate(), NOW_S + 60
    sealed = seal_grant(dek, recipient=agent.public_key(), manifest_digest=built.digest, exp=exp)
    assert len(sealed) == 80
    late = NOW + timedelta(seconds=61)
    stranger = X25519PrivateKey.generate()
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp, agent, late)) == "grant-expired"
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp + 9, agent, NOW)) == "grant-refused"
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp, stranger, NOW)) == "grant-refused"
    forge.open(unwrap=unwrap_detached(sealed, exp, agent, NOW))


def test_refusals_come_in_the_order_of_the_format(forge: Forge) -> None:
    """A package that is wrong in every way; each repair shows the next refusal."""
    wrong: dict[str, Any] = {
        "publishers": [],
        "now": NOW + timedelta(days=1),
        "fleet": "factory-b",
        "min_seq": SeqFloor(9),
        "unwrap": unwrap_embedded(X25519PrivateKey.generate(), NOW),
    }
    repairs: list[tuple[str, dict[str, Any]]] = [
        ("unknown-publisher", {"publishers": forge.publishers}),
        ("expired", {"now": NOW}),
        ("wrong-fleet", {"fleet": "hospital-a"}),
        ("seq-too-low", {"min_seq": SeqFloor(6)}),
        ("no-grant", {"unwrap": unwrap_embedded(forge.recipient, NOW)}),
    ]
    forge.build(target=Target(fleets=("hospital-a",)), not_after=NOW_S + 1)
    _, payload = forge.read()
    forge.write(payload=payload[:-1] + bytes([payload[-1] ^ 1]))
    for code, repair in repairs:
        assert refusal(forge, **wrong) == code
        wrong |= repair
    assert refusal(forge, **wrong) == "payload-refused"
