"""The AWS KMS provider: a symmetric KMS key, called by boto3's core.

A wrap is one GenerateDataKey: the data key, which only KMS opens again and only in the same
EncryptionContext, encrypts what is wrapped. (`Encrypt` would do it alone, but does not say which
key material it has used.)
https://docs.aws.amazon.com/kms/latest/APIReference/
"""

import asyncio
import base64
import secrets
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tensorguard.vault.aws_errors import OtherMaterial, translate
from tensorguard.vault.errors import (
    Corrupted,
    KeyMissing,
    MissingLibrary,
    NotSupported,
    Unavailable,
)
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

NAME: Final = "aws"
# Regions and emulators without key material ids know one version only.
_ONLY_VERSION: Final = "1"
_NONCE_BYTES: Final = 12
_DATA_KEY_BYTES: Final = 32
_MAX_PAGES: Final = 20
_ROTATION_WAIT_S: Final = 20.0
_STATES: Final[dict[str, KeyState]] = {
    "Enabled": "enabled",
    "Disabled": "disabled",
    "PendingDeletion": "pending-deletion",
    "PendingReplicaDeletion": "pending-deletion",
    "PendingImport": "pending-import",
}


@cache
def _descriptions() -> Any:
    """What AWS's services understand: reading it takes 0.2 s and some MB, once for all sessions."""
    return _session().get_component("data_loader")


def new_session() -> Any:
    """A session with credentials of its own, from AWS's usual chain unless given some.

    boto3's own sessions would read the descriptions anew for each key.

    Raises: MissingLibrary.
    """
    session = _session()
    session.register_component("data_loader", _descriptions())
    return session


def _session() -> Any:
    """A session of the library under boto3. Raises: MissingLibrary."""
    try:
        from botocore.session import get_session
    except ModuleNotFoundError:
        raise MissingLibrary(
            "AWS KMS needs boto3", hint="pip install 'tensorguard-platform[aws]'"
        ) from None
    return get_session()


def make_client(key_id: str, limits: Limits) -> Any:
    """A KMS client for the region of the key's ARN; credentials come from AWS's usual chain.

    Raises: MissingLibrary.
    """
    session = new_session()
    from botocore.config import Config

    config = Config(
        region_name=key_id.split(":")[3],
        connect_timeout=limits.connect_s,
        read_timeout=limits.call_s,
        # Retries, and when to stop, are ours: remote.py.
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=8,
        user_agent_extra="tensorguard",
    )
    return session.create_client("kms", config=config)


class AwsKeyProvider:
    """One KMS key, by its ARN."""

    name = NAME

    def __init__(
        self,
        key_id: str,
        *,
        limits: Limits | None = None,
        make: Callable[[str, Limits], Any] = make_client,
        rotation_wait_s: float = _ROTATION_WAIT_S,
    ) -> None:
        self.remote = Remote(NAME, translate, limits)
        self._key_id = key_id
        self._client = make(key_id, self.remote.limits)
        self._rotation_wait_s = rotation_wait_s

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes under the key's present material. Raises: VaultError."""
        check_wrappable(key)
        bound = canonical_context(context)
        answer = await self.remote.call(
            partial(
                self._client.generate_data_key,
                KeyId=self._key_id,
                NumberOfBytes=_DATA_KEY_BYTES,
                EncryptionContext=dict(context),
            )
        )
        self._check_key(answer)
        data_key, blob = _bytes(answer, "Plaintext"), _bytes(answer, "CiphertextBlob")
        if len(data_key) != _DATA_KEY_BYTES or not 0 < len(blob) < 2**16:
            raise Corrupted("AWS KMS answered with a data key of another length")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(data_key).encrypt(nonce, key, bound)
        version = str(answer.get("KeyMaterialId") or _ONLY_VERSION)
        wrapped = struct.pack(">H", len(blob)) + blob + nonce + sealed
        return WrappedKey(NAME, self._key_id, version, wrapped)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the material that wrapped it. Raises: VaultError."""
        if (wrapped.provider, wrapped.key_id) != (NAME, self._key_id):
            raise KeyMissing(
                f"the secret is under {wrapped.provider}:{wrapped.key_id},"
                f" this is {NAME}:{self._key_id}"
            )
        bound = canonical_context(context)
        blob, nonce, sealed = _split(wrapped.wrapped)
        answer = await self.remote.call(
            partial(
                self._client.decrypt,
                KeyId=self._key_id,
                CiphertextBlob=blob,
                EncryptionContext=dict(context),
            )
        )
        self._check_key(answer)
        if str(answer.get("KeyMaterialId") or _ONLY_VERSION) != wrapped.key_version:
            raise Corrupted("the wrapped key is under another key material than the row says")
        try:
            return AESGCM(_bytes(answer, "Plaintext")).decrypt(nonce, sealed, bound)
        except (InvalidTag, ValueError):
            raise Corrupted("AWS KMS answered with another data key") from None

    async def describe(self) -> KeyDescription:
        """Tell the key's state and materials. Raises: VaultError."""
        return await self.remote.call(self._describe)

    async def rotate(self) -> KeyDescription:
        """Rotate on demand; KMS may take a while until new wraps use the new material.

        Raises: VaultError; NotSupported after ten rotations, or where KMS cannot rotate the key.
        """
        before = await self.describe()
        await self.remote.call(partial(self._client.rotate_key_on_demand, KeyId=self._key_id))
        return await self._wait_for_another(before.current_version)

    async def _wait_for_another(self, before: str) -> KeyDescription:
        """Look until the current material is another than `before`, for a bounded time."""
        give_up_at, pause_s = time.monotonic() + self._rotation_wait_s, 0.1
        while True:
            now = await self.describe()
            if now.current_version != before or time.monotonic() > give_up_at:
                return now
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import 32 bytes into a key of origin EXTERNAL. Raises: VaultError."""
        parameters = await self.get_import_parameters()
        wrapped = wrap_material(parameters, material)
        return await self.import_wrapped(wrapped, token=parameters.token, expires_at=expires_at)

    async def get_import_parameters(self) -> ImportParameters:
        """Ask KMS for a wrapping key, good for 24 hours. Raises: VaultError."""
        answer = await self.remote.call(
            partial(
                self._client.get_parameters_for_import,
                KeyId=self._key_id,
                WrappingAlgorithm="RSAES_OAEP_SHA_256",
                WrappingKeySpec="RSA_4096",
            )
        )
        try:
            public = load_der_public_key(_bytes(answer, "PublicKey"))
        except ValueError:
            raise Corrupted("AWS KMS answered with something that is no public key") from None
        return ImportParameters(
            provider=NAME,
            key_id=self._key_id,
            algorithm="rsa-oaep-sha256",
            public_key_pem=public.public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            ).decode(),
            token=base64.b64encode(_bytes(answer, "ImportToken")).decode(),
            valid_until=answer["ParametersValidTo"].astimezone(UTC),
        )

    async def import_wrapped(
        self, wrapped: bytes, *, token: str, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import wrapped material; what is new to a key that has some becomes current by rotation.

        Raises: VaultError.
        """
        request: dict[str, Any] = {
            "KeyId": self._key_id,
            "ImportToken": base64.b64decode(token),
            "EncryptedKeyMaterial": wrapped,
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        }
        if expires_at is not None:
            request |= {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": expires_at}
        try:
            # Material that the key has had before: its expiry is renewed.
            await self.remote.call(partial(self._client.import_key_material, **request))
        except OtherMaterial:
            request["ImportType"] = "NEW_KEY_MATERIAL"
            await self.remote.call(partial(self._client.import_key_material, **request))
            return await self.rotate()
        return await self.describe()

    async def set_version_enabled(self, version: str, *, enabled: bool) -> KeyDescription:
        """Not possible: KMS disables keys, never one material of them. Raises: NotSupported."""
        raise NotSupported("AWS KMS cannot disable or enable a single key material")

    async def destroy_version(self, version: str) -> KeyDescription:
        """Not possible: KMS destroys keys, after a wait of days. Raises: NotSupported."""
        raise NotSupported("AWS KMS destroys whole keys, by 'aws kms schedule-key-deletion'")

    async def close(self) -> None:
        """Let go of connections and threads."""
        self.remote.close()
        self._client.close()

    def _describe(self) -> KeyDescription:
        metadata = self._client.describe_key(KeyId=self._key_id)["KeyMetadata"]
        if metadata["Arn"] != self._key_id:
            raise Corrupted("AWS KMS described another key")
        if metadata.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            raise NotSupported(
                "the KMS key is not a symmetric one", hint="Name a SYMMETRIC_DEFAULT key."
            )
        state = _STATES.get(metadata["KeyState"])
        if state is None:
            raise Unavailable(f"the key is {metadata['KeyState']}")
        current = str(metadata.get("CurrentKeyMaterialId") or _ONLY_VERSION)
        expires_at = metadata.get("ValidTo")
        return KeyDescription(
            provider=NAME,
            key_id=self._key_id,
            current_version=current,
            versions=self._list_versions(current),
            state=state,
            expires_at=expires_at.astimezone(UTC) if expires_at else None,
        )

    def _list_versions(self, current: str) -> tuple[str, ...]:
        """List the key's materials; whoever may not see the older ones sees the current one."""
        found: list[str] = []
        request: dict[str, Any] = {
            "KeyId": self._key_id,
            "IncludeKeyMaterial": "ALL_KEY_MATERIAL",
            "Limit": 100,
        }
        try:
            for _ in range(_MAX_PAGES):
                page = self._client.list_key_rotations(**request)
                found += [
                    one["KeyMaterialId"]
                    for one in page["Rotations"]
                    if one.get("KeyMaterialId")
                    and one.get("KeyMaterialState") != "PENDING_ROTATION"
                ]
                if not page.get("Truncated"):
                    break
                request["Marker"] = page["NextMarker"]
        except Exception as error:
            if isinstance(translate(error), Unavailable):
                raise
        older = [one for one in dict.fromkeys(found) if one != current]
        return (*older, current)

    def _check_key(self, answer: Any) -> None:
        if answer.get("KeyId") != self._key_id:
            raise Corrupted("AWS KMS answered for another key")


def _bytes(answer: Any, name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, bytes) or not value:
        raise Corrupted(f"AWS KMS answered without {name}")
    return value


def _split(wrapped: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the data key as KMS has wrapped it, the nonce and what the data key encrypts."""
    if len(wrapped) > 2:
        end = 2 + int.from_bytes(wrapped[:2], "big")
        blob, nonce, sealed = wrapped[2:end], wrapped[end : end + 12], wrapped[end + 12 :]
        if blob and len(sealed) > 16:
            return blob, nonce, sealed
    raise Corrupted("the wrapped key is cut off")
