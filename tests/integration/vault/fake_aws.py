"""AWS KMS as far as the platform uses it, speaking its JSON protocol over HTTP, stricter than AWS.

What AWS lets pass and this refuses: a Decrypt without KeyId, an operation without an encryption
context, a key named by an alias, a request signed for another region than the key's.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.vault.far_end import Faults, wrapping_key

ACCOUNT = "111122223333"
ACCESS_KEY = "AKIAFAKEFAKEFAKEFAKE"
_ID_BYTES = 64


class Refused(Exception):
    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


@dataclass
class Key:
    arn: str
    external: bool = False
    state: str = "Enabled"
    materials: dict[str, bytes] = field(default_factory=dict)
    current: str | None = None
    pending: str | None = None
    valid_to: datetime | None = None
    rotations: int = 0

    def add(self, material: bytes) -> str:
        # As AWS: the same material has the same id.
        made = base64.b16encode(sha256_of(self.arn.encode() + material)).decode().lower()
        self.materials[made] = material
        return made


def sha256_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class FakeKms:
    region: str
    keys: dict[str, Key] = field(default_factory=dict)
    tokens: dict[bytes, tuple[str, datetime]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    url: str = ""

    def create(self, *, external: bool = False, region: str | None = None) -> Key:
        arn = f"arn:aws:kms:{region or self.region}:{ACCOUNT}:key/{secrets.token_hex(8)}"
        key = Key(arn, external, "PendingImport" if external else "Enabled")
        if not external:
            key.current = key.add(secrets.token_bytes(32))
        self.keys[arn] = key
        return key

    def expire(self, key: Key) -> None:
        """Time passes beyond ValidTo: AWS deletes the material."""
        key.state = "PendingImport"

    def answer(self, operation: str, request: dict[str, Any], region: str) -> dict[str, Any]:
        handler = getattr(self, f"on_{operation}", None)
        if handler is None:
            raise Refused("UnknownOperationException")
        return dict(handler(request, self.find(request, region)))

    def find(self, request: dict[str, Any], region: str) -> Key:
        arn = request.get("KeyId")
        if not arn:
            raise Refused("ValidationException", "KeyId is required here, always")
        if not re.fullmatch(r"arn:aws:kms:[a-z0-9-]+:\d{12}:key/[a-z0-9-]+", arn):
            raise Refused("ValidationException", "not a key ARN")
        if region != self.region:
            raise Refused("InvalidSignatureException", "signed for another region", 403)
        if arn.split(":")[3] != self.region:
            raise Refused("NotFoundException", f"Invalid arn {arn.split(':')[3]}")
        if self.faults.denied:
            raise Refused("AccessDeniedException", "not authorized to perform: kms")
        if arn not in self.keys:
            raise Refused("NotFoundException", "Key does not exist")
        return self.keys[arn]

    def usable(self, key: Key) -> Key:
        if key.state == "Disabled":
            raise Refused("DisabledException", f"{key.arn} is disabled.")
        if key.state != "Enabled":
            words = {"PendingDeletion": "pending deletion", "PendingImport": "pending import"}
            raise Refused("KMSInvalidStateException", f"{key.arn} is {words[key.state]}.")
        return key

    def on_GenerateDataKey(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        self.usable(key)
        check_keys(request, {"KeyId", "NumberOfBytes", "EncryptionContext"})
        assert key.current is not None
        plaintext = secrets.token_bytes(request["NumberOfBytes"])
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(key.materials[key.current]).encrypt(
            nonce, plaintext, bound(key, request["EncryptionContext"])
        )
        blob = key.current.encode() + sha256_of(key.arn.encode()) + nonce + sealed
        return {
            "KeyId": key.arn,
            "KeyMaterialId": key.current,
            "Plaintext": base64.b64encode(plaintext).decode(),
            "CiphertextBlob": base64.b64encode(blob).decode(),
        }

    def on_Decrypt(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        self.usable(key)
        check_keys(request, {"KeyId", "CiphertextBlob", "EncryptionContext"})
        blob = base64.b64decode(request["CiphertextBlob"])
        material, owner = blob[:_ID_BYTES].decode("ascii", "replace"), blob[64:96]
        if owner != sha256_of(key.arn.encode()):
            others = [sha256_of(arn.encode()) for arn in self.keys]
            raise Refused(
                "IncorrectKeyException" if owner in others else "InvalidCiphertextException"
            )
        try:
            plaintext = AESGCM(key.materials[material]).decrypt(
                blob[96:108], blob[108:], bound(key, request["EncryptionContext"])
            )
        except (InvalidTag, KeyError):
            raise Refused("InvalidCiphertextException") from None
        if self.faults.take("corrupted"):
            plaintext = bytes([plaintext[0] ^ 1]) + plaintext[1:]
        return {
            "KeyId": key.arn,
            "KeyMaterialId": material,
            "Plaintext": base64.b64encode(plaintext).decode(),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    def on_DescribeKey(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "KeyId": key.arn.rpartition("/")[2],
            "Arn": key.arn,
            "KeyState": key.state,
            "Enabled": key.state == "Enabled",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "Origin": "EXTERNAL" if key.external else "AWS_KMS",
        }
        if key.current:
            metadata["CurrentKeyMaterialId"] = key.current
        if key.valid_to:
            metadata["ValidTo"] = key.valid_to.timestamp()
        return {"KeyMetadata": metadata}

    def on_ListKeyRotations(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        if request.get("IncludeKeyMaterial") != "ALL_KEY_MATERIAL":
            raise Refused("ValidationException")
        entries = list(key.materials)
        start = int(request.get("Marker", "0"))
        page = entries[start : start + 2]  # small pages, so that paging is needed
        states = {key.current: "CURRENT", key.pending: "PENDING_ROTATION"}
        answer: dict[str, Any] = {
            "Rotations": [
                {"KeyMaterialId": one, "KeyMaterialState": states.get(one, "NON_CURRENT")}
                for one in page
            ],
            "Truncated": start + 2 < len(entries),
        }
        if answer["Truncated"]:
            answer["NextMarker"] = str(start + 2)
        return answer

    def on_RotateKeyOnDemand(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        self.usable(key)
        if key.rotations >= 10:
            raise Refused("LimitExceededException")
        if key.external and key.pending is None:
            raise Refused("KMSInvalidStateException", "no key material is pending rotation")
        key.rotations += 1
        key.current = key.pending or key.add(secrets.token_bytes(32))
        key.pending = None
        return {"KeyId": key.arn}

    def on_GetParametersForImport(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        if not key.external:
            raise Refused("UnsupportedOperationException")
        if request["WrappingAlgorithm"] != "RSAES_OAEP_SHA_256":
            raise Refused("ValidationException")
        token, until = secrets.token_bytes(64), datetime.now(UTC) + timedelta(days=1)
        self.tokens[token] = (key.arn, until)
        der = (
            wrapping_key()
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        return {
            "KeyId": key.arn,
            "ImportToken": base64.b64encode(token).decode(),
            "PublicKey": base64.b64encode(der).decode(),
            "ParametersValidTo": until.timestamp(),
        }

    def on_ImportKeyMaterial(self, request: dict[str, Any], key: Key) -> dict[str, Any]:
        if not key.external:
            raise Refused("UnsupportedOperationException")
        owner, until = self.tokens.get(
            base64.b64decode(request["ImportToken"]), ("", datetime.now(UTC))
        )
        if owner != key.arn:
            raise Refused("InvalidImportTokenException")
        if until <= datetime.now(UTC):
            raise Refused("ExpiredImportTokenException")
        expires = request["ExpirationModel"] == "KEY_MATERIAL_EXPIRES"
        if expires != ("ValidTo" in request):
            raise Refused("ValidationException")
        try:
            material = wrapping_key().decrypt(
                base64.b64decode(request["EncryptedKeyMaterial"]),
                OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None),
            )
        except ValueError:
            raise Refused("InvalidCiphertextException") from None
        if len(material) != 32:
            raise Refused("IncorrectKeyMaterialException")
        default = "EXISTING_KEY_MATERIAL" if key.materials else "NEW_KEY_MATERIAL"
        kind = request.get("ImportType", default)
        known = material in key.materials.values()
        if known != (kind == "EXISTING_KEY_MATERIAL"):
            raise Refused("IncorrectKeyMaterialException")
        made = key.add(material)
        if key.current in (None, made):
            key.current, key.state = made, "Enabled"
        else:
            key.pending = made
        key.valid_to = datetime.fromtimestamp(request["ValidTo"], UTC) if expires else None
        return {"KeyId": key.arn, "KeyMaterialId": made}


def check_keys(request: dict[str, Any], wanted: set[str]) -> None:
    if set(request) != wanted or not request["EncryptionContext"]:
        raise Refused("ValidationException", f"exactly {sorted(wanted)}")


def bound(key: Key, context: dict[str, str]) -> bytes:
    if not all(isinstance(one, str) for pair in context.items() for one in pair):
        raise Refused("ValidationException", "contexts are texts")
    return json.dumps([key.arn, sorted(context.items())]).encode()


def handler_of(kms: FakeKms) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service, _, operation = self.headers["X-Amz-Target"].partition(".")
            kms.faults.count(operation)
            if kms.faults.take("hanging"):
                kms.faults.hang()
                self.close_connection = True
                return
            try:
                if service != "TrentService":
                    raise Refused("UnknownOperationException")
                self._answer(200, kms.answer(operation, json.loads(body), self._region()))
            except Refused as refused:
                told = {"__type": refused.code, "message": refused.message}
                self._answer(refused.status, told)

        def _region(self) -> str:
            match = re.match(
                rf"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/\d{{8}}/([a-z0-9-]+)/kms/aws4_request,"
                r" SignedHeaders=[a-z0-9;-]*x-amz-target[a-z0-9;-]*, Signature=[0-9a-f]{64}$",
                self.headers.get("Authorization", ""),
            )
            if match is None:
                raise Refused("MissingAuthenticationToken", "", 403)
            if kms.faults.take("throttled"):
                raise Refused("ThrottlingException", "Rate exceeded")
            if kms.faults.take("internal"):
                raise Refused("KMSInternalException", "", 500)
            return match.group(1)

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    return Handler


@contextmanager
def running_kms(region: str = "eu-central-1") -> Iterator[FakeKms]:
    kms = FakeKms(region)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(kms))
    server.daemon_threads = True
    kms.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kms
    finally:
        kms.faults.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
