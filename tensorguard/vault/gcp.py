"""The Google Cloud KMS provider: a symmetric key, called by google-cloud-kms.

The canonical context is the additional authenticated data. CRC32C is sent with everything and
verified in every answer (https://cloud.google.com/kms/docs/data-integrity-guidelines).
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyMissing,
    MissingLibrary,
    NotSupported,
    Unavailable,
)
from tensorguard.vault.gcp_errors import translate
from tensorguard.vault.provider import (
    Context,
    ImportParameters,
    KeyDescription,
    KeyState,
    WrappedKey,
    canonical_context,
    check_wrappable,
)
from tensorguard.vault.remote import Limits, Remote
from tensorguard.vault.wrapping import wrap_material

NAME: Final = "gcp"
_MAX_VERSIONS: Final = 1000
_STATE_WAIT_S: Final = 30.0
_STATES: Final[dict[str, KeyState]] = {
    "ENABLED": "enabled",
    "DISABLED": "disabled",
    "DESTROYED": "pending-deletion",
    "DESTROY_SCHEDULED": "pending-deletion",
    "PENDING_IMPORT": "pending-import",
    "IMPORT_FAILED": "pending-import",
}


def make_client(limits: Limits) -> Any:
    """A client with the application's default credentials. Raises: MissingLibrary, VaultError."""
    try:
        from google.cloud import kms_v1
    except ModuleNotFoundError:
        raise MissingLibrary(
            "Google Cloud KMS needs google-cloud-kms",
            hint="pip install 'tensorguard-platform[gcp]'",
        ) from None
    try:
        return kms_v1.KeyManagementServiceClient()
    except Exception as error:
        raise translate(error) from None


class GcpKeyProvider:
    """One crypto key, by its resource name without a version."""

    name = NAME

    def __init__(
        self,
        key_id: str,
        *,
        limits: Limits | None = None,
        make: Callable[[Limits], Any] = make_client,
    ) -> None:
        self.remote = Remote(NAME, translate, limits)
        self._key_id = key_id
        self._client = make(self.remote.limits)
        import google_crc32c  # comes with the extra, whose absence `make` has told

        self._crc32c: Callable[[bytes], int] = google_crc32c.value

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes under the primary version. Raises: VaultError."""
        check_wrappable(key)
        bound = canonical_context(context)
        request = {
            "name": self._key_id,
            "plaintext": key,
            "plaintext_crc32c": self._crc32c(key),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": self._crc32c(bound),
        }
        answer = await self._call("encrypt", request)
        if not (
            answer.verified_plaintext_crc32c
            and answer.verified_additional_authenticated_data_crc32c
        ):
            raise Unavailable("Cloud KMS did not verify the request's checksums")
        if self._crc32c(answer.ciphertext) != int(answer.ciphertext_crc32c):
            raise Corrupted("the answer of Cloud KMS was changed on its way")
        prefix, _, version = answer.name.rpartition("/cryptoKeyVersions/")
        if prefix != self._key_id or not version:
            raise Corrupted("Cloud KMS answered for another key")
        return WrappedKey(NAME, self._key_id, version, answer.ciphertext)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the version that wrapped it, which Cloud KMS finds. Raises: VaultError."""
        if (wrapped.provider, wrapped.key_id) != (NAME, self._key_id):
            raise KeyMissing(
                f"the secret is under {wrapped.provider}:{wrapped.key_id},"
                f" this is {NAME}:{self._key_id}"
            )
        bound = canonical_context(context)
        request = {
            "name": self._key_id,
            "ciphertext": wrapped.wrapped,
            "ciphertext_crc32c": self._crc32c(wrapped.wrapped),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": self._crc32c(bound),
        }
        answer = await self._call("decrypt", request)
        plaintext = bytes(answer.plaintext)
        if not plaintext or self._crc32c(plaintext) != int(answer.plaintext_crc32c):
            raise Corrupted("the answer of Cloud KMS was changed on its way")
        return plaintext

    async def describe(self) -> KeyDescription:
        """Tell the key's state and versions. Raises: VaultError."""
        return await self.remote.call(self._describe)

    async def rotate(self) -> KeyDescription:
        """Make a new version and have it be the primary one. Raises: VaultError."""
        made = await self._call(
            "create_crypto_key_version", {"parent": self._key_id, "crypto_key_version": {}}
        )
        await self._make_primary(made.name)
        return await self.describe()

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Wrap 32 bytes for an import job and import them as the primary version.

        Raises: VaultError.
        """
        parameters = await self.get_import_parameters()
        wrapped = wrap_material(parameters, material)
        return await self.import_wrapped(wrapped, token=parameters.token, expires_at=expires_at)

    async def get_import_parameters(self) -> ImportParameters:
        """Make an import job, which Cloud KMS keeps for three days. Raises: VaultError."""
        from google.cloud import kms_v1

        key = await self._call("get_crypto_key", {"name": self._key_id})
        ring = self._key_id.partition("/cryptoKeys/")[0]
        job = await self._call(
            "create_import_job",
            {
                "parent": ring,
                "import_job_id": f"tensorguard-{secrets.token_hex(6)}",
                "import_job": {
                    "import_method": kms_v1.ImportJob.ImportMethod.RSA_OAEP_4096_SHA256,
                    "protection_level": key.version_template.protection_level,
                },
            },
        )
        pending = kms_v1.ImportJob.ImportJobState.PENDING_GENERATION
        job = await self._wait("get_import_job", job.name, lambda one: one.state != pending)
        if job.state != kms_v1.ImportJob.ImportJobState.ACTIVE:
            raise ImportRefused("Cloud KMS made no usable import job")
        return ImportParameters(
            provider=NAME,
            key_id=self._key_id,
            algorithm="rsa-oaep-sha256",
            public_key_pem=job.public_key.pem,
            token=job.name,
            valid_until=datetime.fromtimestamp(job.expire_time.timestamp(), UTC),
        )

    async def import_wrapped(
        self, wrapped: bytes, *, token: str, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import wrapped material as the primary version; its expiry the platform itself watches.

        Raises: VaultError.
        """
        from google.cloud import kms_v1

        states = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
        made = await self._call(
            "import_crypto_key_version",
            {
                "parent": self._key_id,
                "import_job": token,
                "algorithm": (
                    kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.GOOGLE_SYMMETRIC_ENCRYPTION
                ),
                "wrapped_key": wrapped,
            },
        )
        made = await self._wait(
            "get_crypto_key_version", made.name, lambda one: one.state != states.PENDING_IMPORT
        )
        if made.state != states.ENABLED:
            raise ImportRefused("Cloud KMS could not import the material")
        await self._make_primary(made.name)
        return await self.describe()

    async def set_version_enabled(self, version: str, *, enabled: bool) -> KeyDescription:
        """Disable or enable one version. Raises: VaultError."""
        from google.cloud import kms_v1

        states = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
        state = states.ENABLED if enabled else states.DISABLED
        await self._call(
            "update_crypto_key_version",
            {
                "crypto_key_version": {"name": self._version_name(version), "state": state},
                "update_mask": {"paths": ["state"]},
            },
        )
        return await self.describe()

    async def destroy_version(self, version: str) -> KeyDescription:
        """Schedule one version for destruction. Raises: VaultError."""
        await self._call("destroy_crypto_key_version", {"name": self._version_name(version)})
        return await self.describe()

    async def close(self) -> None:
        """Let go of connections and threads."""
        self.remote.close()
        self._client.transport.close()

    def _version_name(self, version: str) -> str:
        return f"{self._key_id}/cryptoKeyVersions/{version}"

    async def _call(self, method: str, request: dict[str, Any]) -> Any:
        return await self.remote.call(partial(self._once, method, request))

    def _once(self, method: str, request: dict[str, Any]) -> Any:
        # The SDK's own retries would multiply with ours.
        return getattr(self._client, method)(
            request=request, retry=None, timeout=self.remote.limits.call_s
        )

    async def _make_primary(self, version_name: str) -> None:
        version = version_name.rpartition("/")[2]
        await self._call(
            "update_crypto_key_primary_version",
            {"name": self._key_id, "crypto_key_version_id": version},
        )

    async def _wait(self, method: str, name: str, is_settled: Callable[[Any], bool]) -> Any:
        """Look at a resource until Cloud KMS has settled it, for a bounded time."""
        give_up_at, pause_s = time.monotonic() + _STATE_WAIT_S, 0.05
        while True:
            found = await self._call(method, {"name": name})
            if is_settled(found):
                return found
            if time.monotonic() > give_up_at:
                raise Unavailable(f"Cloud KMS has not settled {name.rpartition('/')[2]} in time")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    def _describe(self) -> KeyDescription:
        key = self._once("get_crypto_key", {"name": self._key_id})
        if key.purpose.name != "ENCRYPT_DECRYPT":
            raise NotSupported("the key is not for encryption", hint="Name an ENCRYPT_DECRYPT key.")
        found = []
        for one in self._once("list_crypto_key_versions", {"parent": self._key_id}):
            found.append(one)
            if len(found) >= _MAX_VERSIONS:
                break
        numbers = {_number(one.name): one.state.name for one in found}
        current = _number(key.primary.name) if key.primary.name else ""
        gone = ("DESTROYED", "DESTROY_SCHEDULED", "IMPORT_FAILED", "PENDING_IMPORT")
        alive = sorted(
            (one for one, state in numbers.items() if state not in gone and one != current),
            key=int,
        )
        state = _STATES.get(key.primary.state.name) if current else "pending-import"
        if state is None:
            raise Unavailable(f"the primary version is {key.primary.state.name}")
        return KeyDescription(
            provider=NAME,
            key_id=self._key_id,
            current_version=current,
            versions=(*alive, *([current] if current else [])),
            state=state,
            disabled=tuple(sorted(one for one, state in numbers.items() if state == "DISABLED")),
        )


def _number(name: str) -> str:
    return name.rpartition("/")[2]
