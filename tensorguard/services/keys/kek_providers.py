"""The providers of all KEKs of the platform, as one: new secrets go to the one that is active."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import structlog
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import PlatformNotInitialised
from tensorguard.services.keys.keks import Kek, find_active_kek, list_keks
from tensorguard.services.keys.key_errors import KekMismatch
from tensorguard.vault.errors import KeyMissing
from tensorguard.vault.local import Clock, utc_now
from tensorguard.vault.opening import AZURE_DOMAINS, Opener
from tensorguard.vault.private_file import read_private
from tensorguard.vault.provider import (
    Context,
    KeyDescription,
    KeyProvider,
    ManagedProvider,
    WrappedKey,
)
from tensorguard.vault.reference import KekReference

log = structlog.get_logger(__name__)
_PASSPHRASE_LIMIT_BYTES: Final = 4096


class KekSettings(BaseSettings):
    """Which KEK the platform is under, from the environment (`TG_…`)."""

    model_config = SettingsConfigDict(env_prefix="TG_", frozen=True, extra="ignore")

    kek: str = ""
    """local, aws:ARN, azure:URL or gcp:RESOURCE; empty: what the database says, at first local."""
    kek_passphrase_file: Path | None = None
    """Holds the passphrase of local KEK files."""
    kek_azure_domains: str = ""
    """Domains of vaults beside Azure's own, separated by commas."""

    def opener(self, data_dir: Path, clock: Clock = utc_now) -> Opener:
        """What opens KEKs from this machine. Raises: VaultError."""
        passphrase = None
        if self.kek_passphrase_file is not None:
            passphrase = read_private(self.kek_passphrase_file, _PASSPHRASE_LIMIT_BYTES).strip()
        more = tuple(one.strip() for one in self.kek_azure_domains.split(",") if one.strip())
        return Opener(
            data_dir, passphrase=passphrase, clock=clock, azure_domains=(*AZURE_DOMAINS, *more)
        )


class KekProviders:
    """Every KEK that is in use; a KEK that the database does not know is never called.

    As a key provider it is the platform's active KEK, and unwraps what any of them has wrapped.
    """

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self._known: dict[tuple[str, str], KekReference] = {}
        self._open: dict[tuple[str, str], ManagedProvider] = {}
        self._active: tuple[str, str] = ("", "")

    @classmethod
    async def load(cls, session: AsyncSession, opener: Opener, *, expected: str = "") -> Self:
        """The providers of a platform; its own must be `expected` if that is said.

        Raises: PlatformNotInitialised, KekMismatch, VaultError.
        """
        made = cls(opener)
        await made.reload(session)
        if expected:
            wanted = KekReference.parse(expected)
            provider, key_id = made._active
            if wanted.provider != provider or wanted.key_id not in ("", key_id):
                raise KekMismatch(f"TG_KEK is {wanted}, the platform is under {provider}:{key_id}")
        await made._opened(made._active)
        return made

    @property
    def name(self) -> str:
        """The kind of the provider that new secrets go to."""
        return self._active[0]

    async def reload(self, session: AsyncSession) -> None:
        """Take over which KEKs there are. Raises: PlatformNotInitialised, VaultError."""
        keks = await list_keks(session, retired=False)
        active = [one for one in keks if one.state == "active" and one.fleet is None]
        if not active:
            raise PlatformNotInitialised("the platform has no KEK")
        self._known = {(one.provider, one.key_id): one.reference for one in keks}
        self._active = (active[0].provider, active[0].key_id)
        for gone in [place for place in self._open if place not in self._known]:
            await self._open.pop(gone).close()

    async def open_kek(self, kek: Kek) -> ManagedProvider:
        """Return the provider of a KEK. Raises: VaultError."""
        place = (kek.provider, kek.key_id)
        self._known.setdefault(place, kek.reference)
        return await self._opened(place)

    async def find(self, session: AsyncSession, provider: str, key_id: str) -> ManagedProvider:
        """Return the provider that a secret is under; another process may have added it since.

        Raises: KeyMissing, VaultError.
        """
        if (provider, key_id) not in self._known:
            await self.reload(session)
        return await self._opened((provider, key_id))

    async def find_for_new(
        self, session: AsyncSession, fleet: str | None, now: datetime
    ) -> ManagedProvider:
        """Return the provider that a new secret of the platform, or of a fleet, goes to.

        Until the secret is committed its KEK is not rotated: whoever disables a version has seen
        every secret that is under it.
        Raises: KeyMissing, VaultError.
        """
        kek = await find_active_kek(session, fleet, hold=True)
        if kek is None:
            raise KeyMissing("there is no KEK for new secrets")
        check_in_time(kek, now)
        return await self.open_kek(kek)

    async def wrap(self, key: bytes, context: Context) -> WrappedKey:
        """Wrap under the platform's active KEK. Raises: VaultError."""
        return await (await self._opened(self._active)).wrap(key, context)

    async def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Unwrap with the KEK that wrapped it. Raises: VaultError."""
        provider = await self._opened((wrapped.provider, wrapped.key_id))
        return await provider.unwrap(wrapped, context)

    async def describe(self) -> KeyDescription:
        """Tell the state of the platform's active KEK. Raises: VaultError."""
        return await (await self._opened(self._active)).describe()

    async def rotate(self) -> KeyDescription:
        """Rotate the platform's active KEK. Raises: VaultError."""
        return await (await self._opened(self._active)).rotate()

    async def import_key(
        self, material: bytes, *, expires_at: datetime | None = None
    ) -> KeyDescription:
        """Import into the platform's active KEK. Raises: VaultError."""
        provider = await self._opened(self._active)
        return await provider.import_key(material, expires_at=expires_at)

    async def close(self) -> None:
        """Let go of connections and threads."""
        while self._open:
            _, provider = self._open.popitem()
            await provider.close()

    async def _opened(self, place: tuple[str, str]) -> ManagedProvider:
        if place not in self._known:
            raise KeyMissing(
                f"{place[0]}:{place[1]} is no KEK of this platform",
                hint="A sealed row names a key that was never added; restore it from a backup.",
            )
        if place not in self._open:
            # SDKs read files and import much: not in the loop.
            made = await asyncio.to_thread(self.opener.open, self._known[place])
            if place in self._open:
                await made.close()
            else:
                self._open[place] = made
        return self._open[place]


def check_in_time(kek: Kek, now: datetime) -> None:
    """Refuse a KEK whose imported material is over. Raises: KeyMissing."""
    if kek.expires_at is not None and kek.expires_at <= now:
        raise KeyMissing(
            "the imported key material has expired",
            hint="Import the key material again: 'tensorguard keys import'.",
        )


async def find_provider(
    session: AsyncSession, kek: KeyProvider, provider: str, key_id: str
) -> KeyProvider:
    """Return the provider of a secret, which is `kek` itself unless it is many."""
    return await kek.find(session, provider, key_id) if isinstance(kek, KekProviders) else kek
