"""Azure Key Vault's REST API over HTTPS, and the identity provider beside it, stricter than Azure.

The first request of a client is answered by the challenge, as Azure does; a token counts for this
vault's scope alone. An unwrap without a version is refused, and so is every algorithm but
RSA-OAEP-256.
"""

import base64
import json
import re
import secrets
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from tensorguard.vault.errors import ImportRefused
from tensorguard.vault.wrapping import unwrap_material
from tests.integration.vault.far_end import Faults, wrapping_key

DOMAIN = "vault.azure.test"
HOST = f"kv.{DOMAIN}"
LOGIN = "login.azure.test"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "the-secret-of-a-test"
_OAEP = OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None)


_JWK = ("n", "e", "d", "p", "q", "dp", "dq", "qi")


class Refused(Exception):
    def __init__(self, status: int, code: str, inner: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.inner = status, code, inner


@dataclass
class Version:
    version: str
    private: rsa.RSAPrivateKey
    created: int
    enabled: bool = True
    expires: int | None = None
    operations: tuple[str, ...] = ("wrapKey", "unwrapKey")
    hardware: bool = False


@dataclass
class FakeVault:
    port: int = 0
    keys: dict[str, list[Version]] = field(default_factory=dict)
    deleted: dict[str, list[Version]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    challenges: int = 0
    faults: Faults = field(default_factory=Faults)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def scope(self) -> str:
        return f"https://{DOMAIN}:{self.port}/.default"

    def create(self, **more: Any) -> str:
        name = f"key-{secrets.token_hex(4)}"
        self.add_version(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        return f"{self.url}/keys/{name}"

    def add_version(self, name: str, private: rsa.RSAPrivateKey, **more: Any) -> Version:
        versions = self.keys.setdefault(name, [])
        created = max([int(time.time()), *(one.created + 1 for one in versions)])
        versions.append(Version(secrets.token_hex(16), private, created, **more))
        return versions[-1]

    def delete(self, name: str) -> None:
        self.deleted[name] = self.keys.pop(name)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.faults.denied:
            raise Refused(403, "Forbidden", "ForbiddenByRbac")
        if match := re.fullmatch(r"/deletedkeys/([A-Za-z0-9-]+)", path):
            if match[1] not in self.deleted:
                raise Refused(404, "KeyNotFound")
            return self.bundle(match[1], self.deleted[match[1]][-1])
        match = re.fullmatch(r"/keys/([A-Za-z0-9-]+)(?:/([A-Za-z0-9]*))?(?:/([a-z]+))?/?", path)
        if match is None:
            raise Refused(400, "BadParameter")
        name, second, third = match[1], match[2] or "", match[3] or ""
        if method == "POST" and second == "create":
            return self.on_create(name, body)
        if method == "PUT" and not second:
            return self.on_import(name, body)
        if name not in self.keys:
            raise Refused(404, "KeyNotFound")
        if method == "GET" and second == "versions":
            return {"value": [self.item(name, one) for one in self.keys[name]]}
        if method == "POST" and second == "rotate":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            return self.bundle(name, self.add_version(name, private))
        version = self.find(name, second)
        if method == "GET":
            return self.bundle(name, version)
        if method == "PATCH":
            version.enabled = body["attributes"]["enabled"]
            return self.bundle(name, version)
        if method == "POST" and third == "unwrapkey":
            return self.on_unwrap(name, version, second, body)
        raise Refused(405, "MethodNotAllowed")

    def find(self, name: str, wanted: str) -> Version:
        if not wanted:
            return self.keys[name][-1]
        for one in self.keys[name]:
            if one.version == wanted:
                return one
        raise Refused(404, "KeyNotFound")

    def on_unwrap(
        self, name: str, version: Version, asked: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        if not asked or body.get("alg") != "RSA-OAEP-256":
            raise Refused(400, "BadParameter")
        if not version.enabled:
            raise Refused(403, "Forbidden", "KeyDisabled")
        if "unwrapKey" not in version.operations:
            raise Refused(403, "Forbidden", "KeyOperationForbidden")
        try:
            plaintext = version.private.decrypt(decode(body["value"]), _OAEP)
        except ValueError:
            raise Refused(400, "BadParameter") from None
        if self.faults.take("corrupted"):
            plaintext = plaintext[:-1] + bytes([plaintext[-1] ^ 1])
        return {"kid": self.kid(name, version), "value": encode(plaintext)}

    def on_create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        hardware = body["kty"] == "RSA-HSM"
        if (body["key_size"], hardware) != (4096, True):
            raise Refused(400, "BadParameter")
        private = wrapping_key()
        made = self.add_version(name, private, hardware=hardware, operations=tuple(body["key_ops"]))
        return self.bundle(name, made)

    def on_import(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        jwk = body["key"]
        if sorted(jwk["key_ops"]) != ["unwrapKey", "wrapKey"]:
            raise Refused(400, "BadParameter")
        if "key_hsm" in jwk:
            private = self.open_blob(json.loads(decode(jwk["key_hsm"])))
        else:
            numbers = {k: int.from_bytes(decode(jwk[k]), "big") for k in _JWK}
            private = rsa.RSAPrivateNumbers(
                p=numbers["p"],
                q=numbers["q"],
                d=numbers["d"],
                dmp1=numbers["dp"],
                dmq1=numbers["dq"],
                iqmp=numbers["qi"],
                public_numbers=rsa.RSAPublicNumbers(numbers["e"], numbers["n"]),
            ).private_key()
        made = self.add_version(name, private, hardware="key_hsm" in jwk)
        made.expires = body.get("attributes", {}).get("exp")
        return self.bundle(name, made)

    def open_blob(self, blob: dict[str, Any]) -> rsa.RSAPrivateKey:
        assert (blob["schema_version"], blob["header"]["enc"]) == ("1.0.0", "CKM_RSA_AES_KEY_WRAP")
        name, version = blob["header"]["kid"].rsplit("/", 2)[1:]
        wrapping = self.find(name, version)
        if wrapping.operations != ("import",) or not wrapping.hardware:
            raise Refused(400, "BadParameter")
        try:
            der = unwrap_material(
                wrapping.private, decode(blob["ciphertext"]), "rsa-aes-key-wrap-sha1"
            )
        except ImportRefused:
            raise Refused(400, "BadParameter") from None
        key = load_der_private_key(der, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    def kid(self, name: str, version: Version) -> str:
        return f"{self.url}/keys/{name}/{version.version}"

    def item(self, name: str, version: Version) -> dict[str, Any]:
        attributes = {"enabled": version.enabled, "created": version.created}
        if version.expires:
            attributes["exp"] = version.expires
        return {"kid": self.kid(name, version), "attributes": attributes}

    def bundle(self, name: str, version: Version) -> dict[str, Any]:
        numbers = version.private.public_key().public_numbers()
        jwk = {
            "kid": self.kid(name, version),
            "kty": "RSA-HSM" if version.hardware else "RSA",
            "key_ops": list(version.operations),
            "n": encode(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
            "e": encode(b"\x01\x00\x01"),
        }
        return {"key": jwk, "attributes": self.item(name, version)["attributes"]}


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def handler_of(vault: FakeVault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host = (self.headers.get("Host") or "").partition(":")[0]
            path = urllib.parse.urlsplit(self.path).path
            if host == LOGIN:
                self._login(path, raw)
                return
            vault.faults.count(f"{self.command} {path.partition('/keys/')[2].partition('/')[2]}")
            if vault.faults.take("hanging"):
                vault.faults.hang()
                self.close_connection = True
                return
            try:
                self._check()
                body = json.loads(raw) if raw else {}
                self._answer(200, vault.answer(self.command, path, body))
            except Refused as refused:
                error: dict[str, Any] = {"code": refused.code, "message": "no"}
                if refused.inner:
                    error["innererror"] = {"code": refused.inner}
                self._answer(refused.status, {"error": error})

        do_GET = do_POST = do_PUT = do_PATCH = _serve

        def _check(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in vault.tokens:
                vault.challenges += 1
                raise Refused(401, "Unauthorized")
            if vault.faults.take("throttled"):
                raise Refused(429, "Throttled")
            if vault.faults.take("internal"):
                raise Refused(503, "ServiceUnavailable")

        def _login(self, path: str, raw: bytes) -> None:
            base = f"https://{LOGIN}:{vault.port}/{TENANT}"
            if path.endswith("/.well-known/openid-configuration"):
                self._answer(
                    200,
                    {
                        "issuer": f"{base}/v2.0",
                        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                        "token_endpoint": f"{base}/oauth2/v2.0/token",
                    },
                )
                return
            form = {k: v[0] for k, v in urllib.parse.parse_qs(raw.decode()).items()}
            good = {
                "grant_type": "client_credentials",
                "client_id": CLIENT,
                "client_secret": CLIENT_SECRET,
                "scope": vault.scope,
            }
            if not good.items() <= form.items():
                self._answer(401, {"error": "invalid_client", "error_description": "no"})
                return
            token = secrets.token_urlsafe(32)
            vault.tokens.add(token)
            self._answer(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": token})

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(raw)))
            if status == 401:
                self.send_header(
                    "WWW-Authenticate",
                    f'Bearer authorization="https://{LOGIN}:{vault.port}/{TENANT}",'
                    f' resource="https://{DOMAIN}:{vault.port}"',
                )
            self.end_headers()
            self.wfile.write(raw)

    return Handler


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the fake's names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in (HOST, LOGIN)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    paths = folder / "fake.pem", folder / "fake.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@contextmanager
def running_vault(certificate: Path, key: Path) -> Iterator[FakeVault]:
    vault = FakeVault()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(vault))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    vault.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield vault
    finally:
        vault.faults.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
