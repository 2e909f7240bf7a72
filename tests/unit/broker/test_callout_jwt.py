"""What a server asks of the auth callout, and what it is answered."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import nkeys
import pytest
from nacl.signing import VerifyKey

from broker.errors import ConnectRefused
from broker.nats.errors import BadCallout, BadEvent
from broker.nats.jwt import Permissions, Request, User, admission, read_request, refusal
from broker.nats.keys import CalloutKeys, decode_key
from broker.nats.permissions import UserName, permissions_of, user_of
from broker.rights import rights_of
from tensorguard.pki.identity import AgentIdentity, Peer, ServiceIdentity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = CalloutKeys.generate()
SERVER = nkeys.from_seed(nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_SERVER))
SERVER_ID = SERVER.public_key.decode()
AGENT = AgentIdentity("test.example", "hospital-a", UUID("018f0000-0000-7000-8000-000000000001"))


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def signed(claims: dict[str, Any], header: dict[str, str] | None = None) -> bytes:
    text = f"{encoded(header or {'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encoded(claims)}"
    signature = base64.urlsafe_b64encode(SERVER.sign(text.encode())).decode().rstrip("=")
    return f"{text}.{signature}".encode()


def claims(**changed: object) -> dict[str, Any]:
    return {
        "iss": SERVER_ID,
        "sub": KEYS.issuer,
        "aud": "nats-authorization-request",
        "exp": int(NOW.timestamp()) + 5,
        "nats": {
            "server_id": {"id": SERVER_ID, "name": "node-1", "xkey": "XSERVER"},
            "user_nkey": "UUSER",
            "client_info": {"host": "10.0.0.7", "id": 12, "type": "mqtt", "mqtt_id": "an-agent"},
            "client_tls": {"verified_chains": [["leaf", "ca"]]},
        },
    } | changed


def opened(token: bytes) -> dict[str, Any]:
    body = token.split(b".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))))


def test_a_request_is_read() -> None:
    assert read_request(signed(claims()), KEYS.issuer, NOW) == Request(
        SERVER_ID, "XSERVER", "UUSER", "10.0.0.7", "mqtt", "an-agent", "leaf"
    )


def test_a_client_without_a_certificate_has_no_leaf() -> None:
    asked = claims()
    del asked["nats"]["client_tls"]
    assert read_request(signed(asked), KEYS.issuer, NOW).leaf is None


def changed_signature() -> bytes:
    token = signed(claims())
    return token[:-4] + (b"AAAA" if not token.endswith(b"AAAA") else b"BBBB")


def other_body() -> bytes:
    header, _, signature = signed(claims()).split(b".")
    return b".".join((header, encoded(claims(sub="A")).encode(), signature))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"a.b.c",
        lambda: b"\xff\xfe.\x00.\x00",
        lambda: b"x" * 70_000,
        changed_signature,
        other_body,
        lambda: signed(claims(), {"typ": "JWT", "alg": "none"}),
        lambda: signed(claims(aud="something-else")),
        lambda: signed(claims(sub=CalloutKeys.generate().issuer)),
        lambda: signed(claims(exp=int((NOW - timedelta(minutes=2)).timestamp()))),
        lambda: signed(claims(iss=KEYS.issuer)),
        lambda: signed(claims(iss="not a key")),
        lambda: signed(claims(nats={})),
        lambda: signed(claims(nats=claims()["nats"] | {"server_id": {"id": "NOTHER"}})),
    ],
)
def test_what_no_server_of_ours_has_signed_for_us_is_no_request(make: Callable[[], bytes]) -> None:
    with pytest.raises(BadCallout):
        read_request(make(), KEYS.issuer, NOW)


REQUEST = read_request(signed(claims()), KEYS.issuer, NOW)


def test_an_admission_names_the_account_the_end_and_exactly_the_permissions() -> None:
    user = User("a-name", "AGENTS", NOW + timedelta(days=1), Permissions(("p",), ("s", "s.>")))
    answer = opened(admission(KEYS, REQUEST, user, NOW))
    assert (answer["iss"], answer["sub"], answer["aud"]) == (KEYS.issuer, "UUSER", SERVER_ID)
    assert "error" not in answer["nats"]
    inner = opened(answer["nats"]["jwt"].encode())
    assert (inner["iss"], inner["sub"], inner["aud"]) == (KEYS.issuer, "UUSER", "AGENTS")
    assert (inner["name"], inner["exp"]) == ("a-name", int(NOW.timestamp()) + 86400)
    assert inner["nats"]["pub"] == {"allow": ["p"]}
    assert inner["nats"]["sub"] == {"allow": ["s", "s.>"]}


def test_an_answer_is_signed_by_the_platforms_key() -> None:
    head, _, signature = refusal(KEYS, REQUEST, NOW).rpartition(b".")
    padded = signature + b"=" * (-len(signature) % 4)
    key = VerifyKey(decode_key(0, KEYS.issuer))
    assert key.verify(head, base64.urlsafe_b64decode(padded)) == head


def test_a_refusal_reveals_nothing() -> None:
    answer = opened(refusal(KEYS, REQUEST, NOW))["nats"]
    assert answer["error"] == "not authorized"
    assert "jwt" not in answer


def test_an_agents_permissions_are_its_own_subjects() -> None:
    own = f"tg.v1.hospital-a.{AGENT.agent_id}"
    permissions = permissions_of(rights_of(AGENT))
    kinds = ("csr", "event", "heartbeat", "key-request", "progress", "reply", "will")
    assert permissions.publish == tuple(f"{own}.up.{kind}" for kind in kinds)
    everybody = "tg.v1.hospital-a.all.down"
    assert permissions.subscribe == (f"{own}.down", f"{own}.down.>", everybody, f"{everybody}.>")


@pytest.mark.parametrize("service", ["hub", "api", "broker"])
def test_a_service_is_no_mqtt_client(service: str) -> None:
    peer = Peer(ServiceIdentity("test.example", service), 1, "", NOW)
    with pytest.raises(ConnectRefused):
        user_of(peer)


def test_a_users_name_is_read_as_the_session_that_it_was_made_of() -> None:
    user = user_of(Peer(AGENT, 0xC0FFEE, "", NOW))
    session = UserName("test.example", user.name).session("10.0.0.7", NOW)
    assert (session.agent, session.serial, session.address) == (AGENT, "c0ffee", "10.0.0.7")


@pytest.mark.parametrize("name", ["", "hub", "a.b.c", f"{AGENT.agent_id}.fleet", "..", "x" * 999])
def test_another_users_name_is_no_session(name: str) -> None:
    with pytest.raises(BadEvent):
        UserName("test.example", name).session("", NOW)
