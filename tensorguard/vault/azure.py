"""The Azure Key Vault provider: an RSA key, called by azure-keyvault-keys.

RSA-OAEP-256 knows no additional data, so what is wrapped holds the context's digest and its own:
`SHA-256(context) ‖ first 8 bytes of SHA-256(key) ‖ key`, within the 190 bytes of a 2,048-bit key.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tensorguard.vault.azure_errors import translate
from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyDisabled,
    KeyMissing,
    KeyPendingDeletion,
    MissingLibrary,
    NotSupported,
    VaultError,
)
from tensorguard.vault.provider import (
    Context,
    ImportParameters,
    KeyDescription,
    KeyState,
    WrappedKey,
    canonical_context,
    check_wrappable,
    wrong_context,
)
from tensorguard.vault.remote import Limits, Remote

NAME: Final = "azure"
ALGORITHM: Final = "RSA-OAEP-256"
_CONTEXT_BYTES: Final = 32
_CHECK_BYTES: Final = 8
_MAX_VERSIONS: Final = 1000
_MAX_CLIENTS: Final = 64
_IMPORT_FOR: Final = timedelta(days=1)


def default_options(limits: Limits) -> dict[str, Any]:
    """Credentials from Azure's usual chain, and times; retries are ours (remote.py).

    Raises: MissingLibrary.
    """
    try:
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError:
        raise MissingLibrary(
            "Azure Key Vault needs azure-keyvault-keys and azure-identity",
            hint="pip install 'tensorguard-platform[azure]'",
        ) from None
    return {
        "credential": DefaultAzureCredential(
            retry_total=0, connection_timeout=limits.connect_s, read_timeout=limits.call_s
        ),
        "retry_total": 0,
        "connection_timeout": limits.connect_s,
        "read_timeout": limits.call_s,
    }


class AzureKeyProvider:
    """One RSA key of one vault, by its URL without a version."""

    name = NAME

    def __init__(
        self,
        key_id: str,
        *,
        limits: Limits | None = None,
        options: Callable[[Limits], dict[str, Any]] = default_options,
    ) -> None:
        self.remote = Remote(NAME, translate, limits)
        self._key_id = key_id
        parts = urlsplit(key_id)
        self._key_name = parts.path.rpartition("/")[2]
        self._options = options(self.remote.limits)
        try:
            from azure.keyvault.keys import KeyClient
        except ModuleNotFoundError:
            raise MissingLibrary(
                "Azure Key Vault needs azure-keyvault-keys",
                hint="pip install 'tensorguard-platform[azure]'",
            ) from None
        self._client = KeyClient(f"{parts.scheme}://{parts.netloc}", **self._options)
        self._cryptography: dict[str, Any] = {}

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes under the newest version, which has to be enabled.

        Raises: VaultError.
        """
        check_wrappable(key)
        bound = sha256(canonical_context(context)).digest()
        message = bound + sha256(key).digest()[:_CHECK_BYTES] + key
        version, wrapped = await self.remote.call(partial(self._wrap, message))
        return WrappedKey(NAME, self._key_id, version, wrapped)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the stored version of the key. Raises: VaultError."""
        if (wrapped.provider, wrapped.key_id) != (NAME, self._key_id):
            raise KeyMissing(
                f"the secret is under {wrapped.provider}:{wrapped.key_id},"
                f" this is {NAME}:{self._key_id}"
            )
        bound = sha256(canonical_context(context)).digest()
        message = await self.remote.call(
            partial(self._unwrap, wrapped.key_version, wrapped.wrapped)
        )
        key = message[_CONTEXT_BYTES + _CHECK_BYTES :]
        check = message[_CONTEXT_BYTES : _CONTEXT_BYTES + _CHECK_BYTES]
        if not key or not compare_digest(sha256(key).digest()[:_CHECK_BYTES], check):
            raise Corrupted("Azure Key Vault answered with another key")
        if not compare_digest(message[:_CONTEXT_BYTES], bound):
            raise wrong_context(context)
        return key

    async def describe(self) -> KeyDescription:
        """Tell the key's state and versions. Raises: VaultError."""
        return await self.remote.call(self._describe)

    async def rotate(self) -> KeyDescription:
        """Make a new version of the key. Raises: VaultError."""
        await self.remote.call(partial(self._guarded, self._client.rotate_key, self._key_name))
        return await self.describe()

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import an RSA private key (PEM) as the newest version, protected by software.

        Raises: VaultError.
        """
        await self.remote.call(partial(self._import_software, material, expires_at))
        return await self.describe()

    async def get_import_parameters(self) -> ImportParameters:
        """Make a key that only wraps imports, for a day; needs a Premium vault with HSM keys.

        Raises: VaultError.
        """
        return await self.remote.call(self._get_import_parameters)

    async def import_wrapped(
        self, wrapped: bytes, *, token: str, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import an RSA private key that was wrapped offline, as an HSM key. Raises: VaultError."""
        await self.remote.call(partial(self._import_blob, wrapped, token, expires_at))
        return await self.describe()

    async def set_version_enabled(self, version: str, *, enabled: bool) -> KeyDescription:
        """Disable or enable one version. Raises: VaultError."""
        await self.remote.call(
            partial(
                self._guarded,
                self._client.update_key_properties,
                self._key_name,
                version,
                enabled=enabled,
            )
        )
        return await self.describe()

    async def destroy_version(self, version: str) -> KeyDescription:
        """Not possible: a vault deletes keys with all their versions. Raises: NotSupported."""
        raise NotSupported("Azure Key Vault deletes whole keys, by 'az keyvault key delete'")

    async def close(self) -> None:
        """Let go of connections and threads."""
        self.remote.close()
        for client in (self._client, *self._cryptography.values()):
            client.close()

    def _wrap(self, message: bytes) -> tuple[str, bytes]:
        from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

        key = self._guarded(self._client.get_key, self._key_name)
        # The SDK wraps here, with the public key: whether it may be used is ours to look at.
        if key.properties.enabled is False:
            raise KeyDisabled("the newest version of the key in Azure Key Vault is disabled")
        if key.key is None or _text(key.key_type) not in ("RSA", "RSA-HSM"):
            raise NotSupported("the key is no RSA key", hint="Name an RSA key.")
        if "wrapKey" not in [_text(one) for one in key.key_operations or []]:
            raise KeyDisabled("the key may not wrap keys", hint="Allow wrapKey and unwrapKey.")
        with CryptographyClient(key, **self._options) as client:
            done = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, message)
        if not key.properties.version:
            raise Corrupted("Azure Key Vault answered with a key without a version")
        return key.properties.version, done.encrypted_key

    def _unwrap(self, version: str, wrapped: bytes) -> bytes:
        from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

        client = self._cryptography.get(version)
        if client is None:
            client = CryptographyClient(f"{self._key_id}/{version}", **self._options)
            if len(self._cryptography) < _MAX_CLIENTS:
                self._cryptography[version] = client
        done = self._guarded(client.unwrap_key, KeyWrapAlgorithm.rsa_oaep_256, wrapped)
        if not isinstance(done.key, bytes):
            raise Corrupted("Azure Key Vault answered without a key")
        return done.key

    def _describe(self) -> KeyDescription:
        current = self._guarded(self._client.get_key, self._key_name)
        found: list[Any] = []
        for one in self._client.list_properties_of_key_versions(self._key_name):
            found.append(one)
            if len(found) >= _MAX_VERSIONS:
                break
        found.sort(key=lambda one: one.created_on or datetime.min.replace(tzinfo=UTC))
        versions = [one.version for one in found if one.version != current.properties.version]
        state: KeyState = "disabled" if current.properties.enabled is False else "enabled"
        return KeyDescription(
            provider=NAME,
            key_id=self._key_id,
            current_version=current.properties.version,
            versions=(*versions, current.properties.version),
            state=state,
            disabled=tuple(one.version for one in found if one.enabled is False),
            expires_at=current.properties.expires_on,
        )

    def _guarded(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Call the vault; where it has no such key, look whether it has just been deleted."""
        try:
            return work(*arguments, **more)
        except Exception as error:
            known = translate(error)
            if isinstance(known, KeyMissing) and self._is_deleted():
                raise KeyPendingDeletion("the key was deleted, and can be recovered") from None
            raise

    def _is_deleted(self) -> bool:
        try:
            self._client.get_deleted_key(self._key_name)
        except Exception:  # no such deleted key, or no permission to look
            return False
        return True

    def _import_software(self, pem: bytes, expires_at: datetime | None) -> None:
        from azure.keyvault.keys import JsonWebKey, KeyType

        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ImportRefused("the material is not an RSA private key in PEM form")
        numbers = key.private_numbers()
        public = numbers.public_numbers
        values = {
            "n": public.n,
            "e": public.e,
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
            "dp": numbers.dmp1,
            "dq": numbers.dmq1,
            "qi": numbers.iqmp,
        }
        jwk = JsonWebKey(
            kty=KeyType.rsa,
            key_ops=["wrapKey", "unwrapKey"],
            **{name: _to_bytes(value) for name, value in values.items()},
        )
        self._client.import_key(self._key_name, jwk, expires_on=expires_at)

    def _get_import_parameters(self) -> ImportParameters:
        until = datetime.now(UTC) + _IMPORT_FOR
        made = self._client.create_rsa_key(
            f"{self._key_name}-import",
            size=4096,
            hardware_protected=True,
            key_operations=["import"],
            expires_on=until,
        )
        jwk: Any = made.key
        if jwk is None or not jwk.n or not jwk.e:
            raise Corrupted("Azure Key Vault answered without a public key")
        numbers = RSAPublicNumbers(int.from_bytes(jwk.e, "big"), int.from_bytes(jwk.n, "big"))
        pem = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return ImportParameters(
            provider=NAME,
            key_id=self._key_id,
            algorithm="rsa-aes-key-wrap-sha1",
            public_key_pem=pem.decode(),
            token=str(made.id),
            valid_until=until,
            material="rsa-private-key",
        )

    def _import_blob(self, wrapped: bytes, token: str, expires_at: datetime | None) -> None:
        from azure.keyvault.keys import JsonWebKey, KeyType

        # https://learn.microsoft.com/azure/key-vault/keys/byok-specification
        blob = {
            "schema_version": "1.0.0",
            "header": {"kid": token, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
            "ciphertext": base64.urlsafe_b64encode(wrapped).rstrip(b"=").decode(),
            "generator": "TensorGuard",
        }
        jwk = JsonWebKey(
            kty=KeyType.rsa_hsm, key_ops=["wrapKey", "unwrapKey"], t=json.dumps(blob).encode()
        )
        try:
            self._client.import_key(
                self._key_name, jwk, hardware_protected=True, expires_on=expires_at
            )
        except Exception as error:
            known = translate(error)
            if isinstance(known, VaultError) and not known.retriable:
                raise ImportRefused(f"Azure Key Vault refused it: {known.message}") from None
            raise


def _text(value: object) -> str:
    """The text of an enumeration's member; the SDK gives texts where it knows no member."""
    return str(getattr(value, "value", value))


def _to_bytes(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
