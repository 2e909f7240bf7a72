"""The local key provider: KEKs in one file that only its owner can read."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyDisabled,
    KeyMissing,
    KeyVersionInUse,
    VaultError,
)
from tensorguard.vault.local_file import (
    KEK_BYTES,
    KekFile,
    Version,
    change_file,
    create_file,
    read_file,
)
from tensorguard.vault.private_file import read_private, replace_private
from tensorguard.vault.provider import WRAP_LIMIT_BYTES as WRAP_LIMIT_BYTES
from tensorguard.vault.provider import (
    Context,
    ImportParameters,
    KeyDescription,
    WrappedKey,
    canonical_context,
    check_wrappable,
    wrong_context,
)
from tensorguard.vault.wrapping import unwrap_material

NAME: Final = "local"
KEK_FILE: Final = "kek.json"  # in the data directory
_NONCE_BYTES: Final = 12
_IMPORT_BITS: Final = 3072
_IMPORT_FOR: Final = timedelta(days=1)
_IMPORT_LIMIT_BYTES: Final = 64 * 1024


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


class _ImportKey(msgspec.Struct, frozen=True, kw_only=True):
    """The private half of import parameters, beside the KEK file until the import."""

    token: str
    private_pem: Annotated[str, msgspec.Meta(max_length=16 * 1024)]
    valid_until: datetime


class LocalKeyProvider:
    """Wraps with AES-256-GCM under the newest KEK of a file; older versions unwrap.

    The file must be readable by its owner alone: mode 0600 or 0400.
    """

    name = NAME

    def __init__(
        self, path: Path, content: KekFile, clock: Clock, passphrase: bytes | None = None
    ) -> None:
        self._path = path
        self._content = content
        self._clock = clock
        self._passphrase = passphrase
        self._mark = _mark(path)

    @classmethod
    def open(cls, path: Path, clock: Clock = utc_now, *, passphrase: bytes | None = None) -> Self:
        """The provider over an existing KEK file.

        Raises: KeyMissing, PermissionDenied, Corrupted, Unavailable.
        """
        return cls(path, read_file(path, passphrase), clock, passphrase)

    @classmethod
    def open_or_create(
        cls,
        path: Path,
        clock: Clock = utc_now,
        *,
        passphrase: bytes | None = None,
        key_id: str | None = None,
    ) -> Self:
        """The provider over the KEK file at `path`, made with a first version if there is none.

        Of several that create it at the same time one wins, and all open the same file.
        Raises: PermissionDenied, Corrupted, Unavailable.
        """
        if not path.exists():
            first = Version(version=1, key=secrets.token_bytes(KEK_BYTES), created_at=clock())
            key_id = key_id or f"local-{secrets.token_hex(8)}"
            create_file(path, KekFile(key_id=key_id, versions=[first]), passphrase)
        return cls.open(path, clock, passphrase=passphrase)

    @property
    def key_id(self) -> str:
        """The random name of the KEK."""
        return self._content.key_id

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap at most 64 bytes under the current version. Raises: VaultError."""
        check_wrappable(key)
        await self._follow()
        current = self._usable(self._content.versions[-1])
        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = self._bound(current.version, context)
        wrapped = nonce + AESGCM(current.key).encrypt(nonce, key, bound)
        return WrappedKey(NAME, self._content.key_id, str(current.version), wrapped)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the version that wrapped it. Raises: VaultError."""
        version = await self._version(wrapped)
        if len(wrapped.wrapped) <= _NONCE_BYTES + 16:
            raise Corrupted("the wrapped key is cut off")
        nonce, ciphertext = wrapped.wrapped[:_NONCE_BYTES], wrapped.wrapped[_NONCE_BYTES:]
        try:
            return AESGCM(version.key).decrypt(
                nonce, ciphertext, self._bound(version.version, context)
            )
        except InvalidTag:
            # AEAD cannot tell a changed ciphertext from another context, nor may it.
            raise wrong_context(context) from None

    async def describe(self) -> KeyDescription:
        """Tell which versions the file has now. Raises: VaultError."""
        await self._read()
        return self._description()

    async def rotate(self) -> KeyDescription:
        """Add a random new version to the file. Raises: VaultError."""
        return await self.import_key(secrets.token_bytes(KEK_BYTES))

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Add 32 bytes of the customer's as a new version to the file. Raises: VaultError."""
        if len(material) != KEK_BYTES:
            raise VaultError(
                f"a KEK has {KEK_BYTES} bytes, not {len(material)}",
                hint="Import raw key material of 256 bits.",
            )
        now = self._clock()

        def add(content: KekFile) -> KekFile:
            number = content.versions[-1].version + 1
            new = Version(version=number, key=material, created_at=now, expires_at=expires_at)
            return msgspec.structs.replace(content, versions=[*content.versions, new])

        return await self._change(add)

    async def get_import_parameters(self) -> ImportParameters:
        """Make an RSA key whose private half waits beside the KEK file. Raises: VaultError."""
        return await asyncio.to_thread(self._make_import_key)

    async def import_wrapped(
        self, wrapped: bytes, *, token: str, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Add wrapped material as a new version; its import parameters are used up then.

        Raises: VaultError.
        """
        material = await asyncio.to_thread(self._open_import, wrapped, token)
        done = await self.import_key(material, expires_at=expires_at)
        self._import_path.unlink(missing_ok=True)
        return done

    async def set_version_enabled(self, version: str, *, enabled: bool) -> KeyDescription:
        """Disable or enable one version. Raises: VaultError."""
        state = "enabled" if enabled else "disabled"

        def change(content: KekFile) -> KekFile:
            _get(content, version, self._path)
            versions = [
                msgspec.structs.replace(one, state=state) if str(one.version) == version else one
                for one in content.versions
            ]
            return msgspec.structs.replace(content, versions=versions)

        return await self._change(change)

    async def destroy_version(self, version: str) -> KeyDescription:
        """Remove one version that is not the newest from the file. Raises: VaultError."""

        def change(content: KekFile) -> KekFile:
            if _get(content, version, self._path) is content.versions[-1]:
                raise KeyVersionInUse("new secrets are wrapped under this version", hint="Rotate.")
            kept = [one for one in content.versions if str(one.version) != version]
            return msgspec.structs.replace(content, versions=kept)

        return await self._change(change)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _change(self, change: Callable[[KekFile], KekFile]) -> KeyDescription:
        run = partial(change_file, self._path, self._passphrase, change)
        mark = _mark(self._path)
        self._content = await asyncio.to_thread(run)
        self._mark = mark  # older than the file: it is read once more
        return self._description()

    def _description(self) -> KeyDescription:
        versions = self._content.versions
        return KeyDescription(
            provider=NAME,
            key_id=self._content.key_id,
            current_version=str(versions[-1].version),
            versions=tuple(str(one.version) for one in versions),
            state=versions[-1].state,
            disabled=tuple(str(one.version) for one in versions if one.state == "disabled"),
            expires_at=versions[-1].expires_at,
        )

    async def _version(self, wrapped: WrappedKey) -> Version:
        if (wrapped.provider, wrapped.key_id) != (NAME, self._content.key_id):
            raise KeyMissing(
                f"the secret is under {wrapped.provider}:{wrapped.key_id}, "
                f"{self._path} holds {NAME}:{self._content.key_id}"
            )
        await self._follow()
        return self._usable(_get(self._content, wrapped.key_version, self._path))

    async def _follow(self) -> None:
        """Read the file again where another process has changed it, or taken it away."""
        if _mark(self._path) != self._mark:
            await self._read()

    async def _read(self) -> None:
        mark = _mark(self._path)
        self._content = await asyncio.to_thread(read_file, self._path, self._passphrase)
        self._mark = mark

    def _usable(self, version: Version) -> Version:
        if version.state != "enabled":
            raise KeyDisabled(f"version {version.version} of {self.key_id} is disabled")
        if version.expires_at is not None and version.expires_at <= self._clock():
            raise KeyMissing(
                f"the imported material of version {version.version} has expired",
                hint="Import the key material again: 'tensorguard keys import'.",
            )
        return version

    def _bound(self, version: int, context: Context) -> bytes:
        return f"{self._content.key_id}/{version}\n".encode() + canonical_context(context)

    @property
    def _import_path(self) -> Path:
        return self._path.with_name(self._path.name + ".import")

    def _make_import_key(self) -> ImportParameters:
        private = rsa.generate_private_key(public_exponent=65537, key_size=_IMPORT_BITS)
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        kept = _ImportKey(
            token=sha256(public).hexdigest(),
            private_pem=private.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ).decode(),
            valid_until=self._clock() + _IMPORT_FOR,
        )
        replace_private(self._import_path, msgspec.json.encode(kept))
        return ImportParameters(
            provider=NAME,
            key_id=self.key_id,
            algorithm="rsa-oaep-sha256",
            public_key_pem=public.decode(),
            token=kept.token,
            valid_until=kept.valid_until,
        )

    def _open_import(self, wrapped: bytes, token: str) -> bytes:
        try:
            raw = read_private(self._import_path, _IMPORT_LIMIT_BYTES)
            kept = msgspec.json.decode(raw, type=_ImportKey)
        except KeyMissing:
            raise ImportRefused("there are no import parameters, or they were used") from None
        except (msgspec.MsgspecError, ValueError):
            raise Corrupted(f"{self._import_path} is not an import key") from None
        if not compare_digest(kept.token.encode(), token.encode()):
            raise ImportRefused("the material was wrapped for other import parameters")
        if kept.valid_until <= self._clock():
            raise ImportRefused("the import parameters have expired")
        key = load_pem_private_key(kept.private_pem.encode(), None)
        assert isinstance(key, rsa.RSAPrivateKey), "made here"
        return unwrap_material(key, wrapped, "rsa-oaep-sha256")


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes when the file is replaced; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _find(content: KekFile, key_version: str) -> Version | None:
    return next((one for one in content.versions if str(one.version) == key_version), None)


def _get(content: KekFile, key_version: str, path: Path) -> Version:
    version = _find(content, key_version)
    if version is None:
        raise KeyMissing(f"{path} has no version {key_version} of {content.key_id}")
    return version
