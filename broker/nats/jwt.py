"""The auth callout's JWTs: what a server asks, and what it is answered. Pure.

Made by nats-server (auth_callout.go) and read by its jwt/v2: a header, claims and an Ed25519
signature, whose `iss` is the public nkey that made it.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from broker.nats.errors import BadCallout
from broker.nats.keys import CalloutKeys, NotSealedForUs, decode_key

_SERVER: Final = 13 << 3  # the prefix of a server's public nkey, `N…`
_ALGORITHM: Final = "ed25519-nkey"
_AUDIENCE: Final = "nats-authorization-request"
_REQUEST_BYTES: Final = 64 * 1024  # a chain of three certificates has 6 KiB
# The clocks of a node and of a front may differ by so much. That a request is not replayed is not
# the time's doing: the server takes one answer, for a key that it made for this request.
_SKEW: Final = timedelta(seconds=60)
_VERSION: Final = 2
# Says nothing of the reason: the server writes it to its log, and the client gets code 5.
_REFUSED: Final = "not authorized"


class _Server(msgspec.Struct):
    id: str
    name: str = ""
    xkey: str = ""


class _Client(msgspec.Struct):
    host: str = ""
    type: str = ""
    mqtt_id: str = ""


class _Tls(msgspec.Struct):
    verified_chains: list[list[str]] = []


class _Nats(msgspec.Struct):
    server_id: _Server
    user_nkey: str
    client_info: _Client
    client_tls: _Tls = msgspec.field(default_factory=_Tls)


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str
    exp: int
    nats: _Nats


class _Header(msgspec.Struct):
    typ: str
    alg: str


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_claims = msgspec.json.Decoder(_Claims).decode


@dataclass(frozen=True, slots=True)
class Request:
    """A client that a server asks about; `leaf` is its certificate (PEM), whose chain it verified.

    `kind` is `mqtt` for MQTT clients, and then `client_id` what its CONNECT names.
    """

    server_id: str
    server_xkey: str
    user_key: str
    host: str
    kind: str
    client_id: str
    leaf: str | None


def read_request(token: bytes, issuer: str, now: datetime) -> Request:
    """Verify a request that a server has signed, for us and not long ago. Raises: BadCallout."""
    if len(token) > _REQUEST_BYTES:
        raise BadCallout(f"a request of {len(token)} bytes")
    try:
        signed, _, signature = token.rpartition(b".")
        header, _, body = signed.partition(b".")
        if _decode_header(_unbase64(header)) != _Header("JWT", _ALGORITHM):
            raise BadCallout("not a request in the form of nats-server")
        claims = _decode_claims(_unbase64(body))
        VerifyKey(decode_key(_SERVER, claims.iss)).verify(signed, _unbase64(signature))
    except (msgspec.DecodeError, ValueError, BadSignatureError, NotSealedForUs) as error:
        raise BadCallout(f"not a request that a server has signed: {error}") from None
    if claims.sub != issuer or claims.aud != _AUDIENCE:
        raise BadCallout("a request to another platform's auth callout")
    if claims.iss != claims.nats.server_id.id:
        raise BadCallout("a request that another server has signed")
    if datetime.fromtimestamp(claims.exp, UTC) < now - _SKEW:
        raise BadCallout("a request that nobody waits for any more")
    return _request_of(claims.nats)


def _request_of(asked: _Nats) -> Request:
    chains = asked.client_tls.verified_chains
    return Request(
        server_id=asked.server_id.id,
        server_xkey=asked.server_id.xkey,
        user_key=asked.user_nkey,
        host=asked.client_info.host,
        kind=asked.client_info.type,
        client_id=asked.client_info.mqtt_id,
        leaf=chains[0][0] if chains and chains[0] else None,
    )


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish and subscribe to; there is no other."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """Who was admitted: the server calls it `name` from now on, and ends it at `expires_at`."""

    name: str
    account: str
    expires_at: datetime
    permissions: Permissions


def admission(keys: CalloutKeys, request: Request, user: User, now: datetime) -> bytes:
    """Return the signed answer that lets the client in as this user."""
    permissions = user.permissions
    claims = {
        "sub": request.user_key,
        "name": user.name,
        "aud": user.account,
        "exp": int(user.expires_at.timestamp()),
        "nats": {
            # A list that is empty would allow everything: ours never are.
            "pub": {"allow": list(permissions.publish)},
            "sub": {"allow": list(permissions.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "type": "user",
            "version": _VERSION,
        },
    }
    return _answer(keys, request, now, {"jwt": _signed(keys, claims, now).decode()})


def refusal(keys: CalloutKeys, request: Request, now: datetime) -> bytes:
    """Return the signed answer that keeps the client out."""
    return _answer(keys, request, now, {"error": _REFUSED})


def _answer(
    keys: CalloutKeys, request: Request, now: datetime, verdict: Mapping[str, str]
) -> bytes:
    claims = {
        "sub": request.user_key,
        "aud": request.server_id,
        "nats": {"type": "authorization_response", "version": _VERSION, **verdict},
    }
    return _signed(keys, claims, now)


def _signed(keys: CalloutKeys, claims: Mapping[str, Any], now: datetime) -> bytes:
    full = {**claims, "iat": int(now.timestamp()), "iss": keys.issuer}
    digest = hashlib.sha256(msgspec.json.encode(full)).digest()
    full["jti"] = base64.b32encode(digest).decode().rstrip("=")
    header = msgspec.json.encode({"typ": "JWT", "alg": _ALGORITHM})
    signed = b".".join((_base64(header), _base64(msgspec.json.encode(full))))
    return b".".join((signed, _base64(keys.sign(signed))))


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
