"""Google Cloud KMS over gRPC, stricter than Google: nothing without checksums and routing."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import google_crc32c
import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud import kms_v1

from tests.integration.vault.far_end import Faults, wrapping_key

STATES = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
LOCATION = "europe-west3"
_CODES = grpc.StatusCode


@dataclass
class Version:
    material: bytes
    state: Any = STATES.ENABLED


@dataclass
class Key:
    name: str
    versions: dict[str, Version] = field(default_factory=dict)
    primary: str | None = None

    def add(self, material: bytes) -> str:
        number = str(len(self.versions) + 1)
        self.versions[number] = Version(material)
        return number


class Refused(Exception):
    def __init__(self, code: Any, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class FakeCloudKms:
    keys: dict[str, Key] = field(default_factory=dict)
    jobs: dict[str, datetime] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    address: str = ""

    def create(self, *, empty: bool = False, location: str = LOCATION) -> Key:
        ring = f"projects/test-project/locations/{location}/keyRings/ring"
        key = Key(f"{ring}/cryptoKeys/key-{secrets.token_hex(4)}")
        if not empty:
            key.primary = key.add(secrets.token_bytes(32))
        self.keys[key.name] = key
        return key

    def find(self, name: str) -> Key:
        if f"/locations/{LOCATION}/" not in name:
            raise Refused(_CODES.INVALID_ARGUMENT, "Request location does not match the endpoint.")
        if self.faults.denied:
            raise Refused(_CODES.PERMISSION_DENIED, "Permission denied (or it may not exist).")
        if name not in self.keys:
            raise Refused(_CODES.NOT_FOUND, f"CryptoKey {name} not found.")
        return self.keys[name]

    def usable(self, key: Key, number: str) -> Version:
        version = key.versions[number]
        if version.state != STATES.ENABLED:
            raise Refused(
                _CODES.FAILED_PRECONDITION,
                f"{key.name}/cryptoKeyVersions/{number} is not enabled, current state is:"
                f" {version.state.name}.",
            )
        return version

    def Encrypt(self, request: Any) -> Any:
        key = self.find(request.name)
        check(request.plaintext, request.plaintext_crc32c)
        aad = request.additional_authenticated_data
        check(aad, request.additional_authenticated_data_crc32c)
        if key.primary is None:
            raise Refused(_CODES.FAILED_PRECONDITION, "there is no primary version")
        version = self.usable(key, key.primary)
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(version.material).encrypt(nonce, request.plaintext, aad)
        ciphertext = bytes([int(key.primary)]) + nonce + sealed
        checksum = google_crc32c.value(ciphertext)
        if self.faults.take("corrupted"):
            ciphertext = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
        return kms_v1.EncryptResponse(
            name=f"{key.name}/cryptoKeyVersions/{key.primary}",
            ciphertext=ciphertext,
            ciphertext_crc32c=checksum,
            verified_plaintext_crc32c=True,
            verified_additional_authenticated_data_crc32c=True,
        )

    def Decrypt(self, request: Any) -> Any:
        key = self.find(request.name)
        check(request.ciphertext, request.ciphertext_crc32c)
        aad = request.additional_authenticated_data
        check(aad, request.additional_authenticated_data_crc32c)
        number = str(request.ciphertext[0])
        failed = "Decryption failed: verify that 'name' refers to the correct CryptoKey."
        if number not in key.versions:
            raise Refused(_CODES.INVALID_ARGUMENT, failed)
        version = self.usable(key, number)
        try:
            plaintext = AESGCM(version.material).decrypt(
                request.ciphertext[1:13], request.ciphertext[13:], aad
            )
        except InvalidTag:
            raise Refused(_CODES.INVALID_ARGUMENT, failed) from None
        checksum = google_crc32c.value(plaintext)
        if self.faults.take("corrupted"):
            plaintext = bytes([plaintext[0] ^ 1]) + plaintext[1:]
        return kms_v1.DecryptResponse(
            plaintext=plaintext, plaintext_crc32c=checksum, used_primary=number == key.primary
        )

    def GetCryptoKey(self, request: Any) -> Any:
        key = self.find(request.name)
        answer = kms_v1.CryptoKey(
            name=key.name,
            purpose=kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT,
            version_template={"protection_level": kms_v1.ProtectionLevel.SOFTWARE},
        )
        if key.primary:
            answer.primary = self.version(key, key.primary)
        return answer

    def ListCryptoKeyVersions(self, request: Any) -> Any:
        key = self.find(request.parent)
        start = int(request.page_token or 0)
        numbers = list(key.versions)
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=[self.version(key, one) for one in numbers[start : start + 2]],
            next_page_token=str(start + 2) if start + 2 < len(numbers) else "",
        )

    def CreateCryptoKeyVersion(self, request: Any) -> Any:
        key = self.find(request.parent)
        return self.version(key, key.add(secrets.token_bytes(32)))

    def UpdateCryptoKeyPrimaryVersion(self, request: Any) -> Any:
        key = self.find(request.name)
        self.usable(key, request.crypto_key_version_id)
        key.primary = request.crypto_key_version_id
        return kms_v1.CryptoKey(name=key.name)

    def GetCryptoKeyVersion(self, request: Any) -> Any:
        name, _, number = request.name.partition("/cryptoKeyVersions/")
        return self.version(self.find(name), number)

    def UpdateCryptoKeyVersion(self, request: Any) -> Any:
        if list(request.update_mask.paths) != ["state"]:
            raise Refused(_CODES.INVALID_ARGUMENT, "update_mask")
        name, _, number = request.crypto_key_version.name.partition("/cryptoKeyVersions/")
        key = self.find(name)
        if key.versions[number].state not in (STATES.ENABLED, STATES.DISABLED):
            raise Refused(_CODES.FAILED_PRECONDITION, "the version is scheduled for destruction")
        key.versions[number].state = request.crypto_key_version.state
        return self.version(key, number)

    def DestroyCryptoKeyVersion(self, request: Any) -> Any:
        name, _, number = request.name.partition("/cryptoKeyVersions/")
        key = self.find(name)
        key.versions[number].state = STATES.DESTROY_SCHEDULED
        return self.version(key, number)

    def CreateImportJob(self, request: Any) -> Any:
        job = request.import_job
        if job.import_method.name != "RSA_OAEP_4096_SHA256" or not job.protection_level:
            raise Refused(_CODES.INVALID_ARGUMENT, "import_method")
        name = f"{request.parent}/importJobs/{request.import_job_id}"
        self.jobs[name] = datetime.now(UTC) + timedelta(days=3)
        return kms_v1.ImportJob(name=name, state=kms_v1.ImportJob.ImportJobState.PENDING_GENERATION)

    def GetImportJob(self, request: Any) -> Any:
        if request.name not in self.jobs:
            raise Refused(_CODES.NOT_FOUND, "import job")
        pem = (
            wrapping_key()
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        return kms_v1.ImportJob(
            name=request.name,
            state=kms_v1.ImportJob.ImportJobState.ACTIVE,
            expire_time=self.jobs[request.name],
            public_key={"pem": pem.decode()},
        )

    def ImportCryptoKeyVersion(self, request: Any) -> Any:
        key = self.find(request.parent)
        if request.import_job not in self.jobs:
            raise Refused(_CODES.NOT_FOUND, "import job")
        if request.algorithm.name != "GOOGLE_SYMMETRIC_ENCRYPTION":
            raise Refused(_CODES.INVALID_ARGUMENT, "algorithm")
        number = key.add(b"")
        try:
            material = wrapping_key().decrypt(
                request.wrapped_key, OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None)
            )
            assert len(material) == 32
            key.versions[number].material = material
        except (ValueError, AssertionError):
            key.versions[number].state = STATES.IMPORT_FAILED
        answer = self.version(key, number)
        answer.state = STATES.PENDING_IMPORT  # it ends later
        return answer

    def version(self, key: Key, number: str) -> Any:
        if number not in key.versions:
            raise Refused(_CODES.NOT_FOUND, "CryptoKeyVersion not found.")
        return kms_v1.CryptoKeyVersion(
            name=f"{key.name}/cryptoKeyVersions/{number}", state=key.versions[number].state
        )


def check(data: bytes, checksum: int | None) -> None:
    if checksum is None:
        raise Refused(_CODES.INVALID_ARGUMENT, "a checksum is missing")
    if google_crc32c.value(data) != checksum:
        raise Refused(_CODES.INVALID_ARGUMENT, "The checksum in crc32c does not match.")


_METHODS: dict[str, tuple[Any, Any]] = {
    "Encrypt": (kms_v1.EncryptRequest, kms_v1.EncryptResponse),
    "Decrypt": (kms_v1.DecryptRequest, kms_v1.DecryptResponse),
    "GetCryptoKey": (kms_v1.GetCryptoKeyRequest, kms_v1.CryptoKey),
    "ListCryptoKeyVersions": (
        kms_v1.ListCryptoKeyVersionsRequest,
        kms_v1.ListCryptoKeyVersionsResponse,
    ),
    "CreateCryptoKeyVersion": (kms_v1.CreateCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "UpdateCryptoKeyPrimaryVersion": (
        kms_v1.UpdateCryptoKeyPrimaryVersionRequest,
        kms_v1.CryptoKey,
    ),
    "GetCryptoKeyVersion": (kms_v1.GetCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "UpdateCryptoKeyVersion": (kms_v1.UpdateCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "DestroyCryptoKeyVersion": (kms_v1.DestroyCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "CreateImportJob": (kms_v1.CreateImportJobRequest, kms_v1.ImportJob),
    "GetImportJob": (kms_v1.GetImportJobRequest, kms_v1.ImportJob),
    "ImportCryptoKeyVersion": (kms_v1.ImportCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
}


def served(kms: FakeCloudKms, name: str) -> Callable[[Any, Any], Any]:
    def serve(request: Any, context: Any) -> Any:
        kms.faults.count(name)
        if kms.faults.take("hanging"):
            kms.faults.hang()
            context.abort(_CODES.UNAVAILABLE, "too late")
        routing = dict(context.invocation_metadata()).get("x-goog-request-params", "")
        if not routing:
            context.abort(_CODES.INVALID_ARGUMENT, "without routing")
        if kms.faults.take("throttled"):
            context.abort(_CODES.RESOURCE_EXHAUSTED, "Quota exceeded.")
        if kms.faults.take("internal"):
            context.abort(_CODES.UNAVAILABLE, "The service is currently unavailable.")
        try:
            return getattr(kms, name)(request)
        except Refused as refused:
            context.abort(refused.code, refused.message)

    return serve


@contextmanager
def running_cloud_kms() -> Iterator[FakeCloudKms]:
    kms = FakeCloudKms()
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            served(kms, name),
            request_deserializer=request.deserialize,
            response_serializer=response.serialize,
        )
        for name, (request, response) in _METHODS.items()
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "google.cloud.kms.v1.KeyManagementService", handlers
            ),
        )
    )
    kms.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield kms
    finally:
        kms.faults.ended.set()
        server.stop(None).wait()
