"""The platform's keys, opened once per process from their sealed rows."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeVar

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import KEY_ROLES, ROLE_OF_KIND, KeyRole, TrustStore
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.pki.keys import Ed25519Signer, parse_x25519_private
from tensorguard.services.errors import KeyNotLoaded, PlatformNotInitialised
from tensorguard.services.platform import (
    PLATFORM,
    PURPOSE_CA,
    PURPOSE_RECIPIENT,
    PURPOSE_SIGNING,
    PURPOSE_URL,
)
from tensorguard.services.sealed_rows import open_stored
from tensorguard.services.trust import get_latest_bundle
from tensorguard.store import tables
from tensorguard.vault.provider import KeyProvider

_T = TypeVar("_T")
Secret = KeyRole | Literal["ca", "recipient", "url"]
ALL_SECRETS: Final[frozenset[Secret]] = frozenset({*KEY_ROLES, "ca", "recipient", "url"})
# What each service needs and no more: a key that is not in a process cannot be taken from it.
API_SECRETS: Final[frozenset[Secret]] = frozenset({"ca", "config", "recipient", "url"})
BROKER_SECRETS: Final[frozenset[Secret]] = frozenset({"ca"})


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys in memory; each attribute raises KeyNotLoaded where `load` was not asked for it."""

    trust_domain: str
    epoch: int
    trust: TrustStore
    _ca: CertificateAuthority | None = field(default=None, repr=False)
    _signers: dict[KeyRole, Ed25519Signer] = field(default_factory=dict, repr=False)
    _recipient_key: X25519PrivateKey | None = field(default=None, repr=False)
    _url_key: bytes | None = field(default=None, repr=False)

    @classmethod
    async def load(
        cls, session: AsyncSession, kek: KeyProvider, *, only: Collection[Secret] = ALL_SECRETS
    ) -> Self:
        """Open the secrets named by `only`.

        Raises: PlatformNotInitialised, VaultError, BadKey.
        """
        platform = (await session.execute(sa.select(tables.platform))).one()
        if platform.initialised_at is None:
            raise PlatformNotInitialised("the platform has not been initialised")
        roles = [role for role in KEY_ROLES if role in only]
        return cls(
            trust_domain=platform.trust_domain,
            epoch=platform.epoch,
            trust=await get_latest_bundle(session),
            _ca=await _open_ca(session, kek) if "ca" in only else None,
            _signers={role: await _open_signer(session, kek, role) for role in roles},
            _recipient_key=await _open_recipient(session, kek) if "recipient" in only else None,
            _url_key=await _open_url_key(session, kek) if "url" in only else None,
        )

    @property
    def ca(self) -> CertificateAuthority:
        """The CA that issues."""
        return _loaded(self._ca, "ca")

    @property
    def recipient_key(self) -> X25519PrivateKey:
        """The key that publishers seal packages' DEKs to."""
        return _loaded(self._recipient_key, "recipient")

    @property
    def url_key(self) -> bytes:
        """The HMAC key of download URLs."""
        return _loaded(self._url_key, "url")

    @property
    def config_signer(self) -> Ed25519Signer:
        """Signs fleets' configuration."""
        return self.signer("config")

    @property
    def trust_bundle_envelope(self) -> bytes:
        """The newest trust bundle at the time of loading, as it was signed."""
        return self.trust.envelope

    def signer(self, kind: str) -> Ed25519Signer:
        """The key that signs messages of `kind`, such as `desired` or `certificate`.

        Raises: KeyNotLoaded.
        """
        role = ROLE_OF_KIND.get(kind)
        return _loaded(None if role is None else self._signers.get(role), kind)


def _loaded(value: _T | None, name: str) -> _T:
    if value is None:
        raise KeyNotLoaded(f"the {name} key is not in this process")
    return value


async def _open_ca(session: AsyncSession, kek: KeyProvider) -> CertificateAuthority:
    table = tables.ca_certificates
    query = sa.select(table).where(table.c.state == "issuing").order_by(table.c.not_before.desc())
    row = (await session.execute(query.limit(1))).one_or_none()
    if row is None:
        raise PlatformNotInitialised("no CA issues certificates")
    owner = bytes(row.spki_sha256).hex()
    der = await open_stored(session, kek, purpose=PURPOSE_CA, owner=owner)
    return CertificateAuthority.load(row.certificate, der)


async def _open_signer(session: AsyncSession, kek: KeyProvider, role: KeyRole) -> Ed25519Signer:
    table = tables.signing_keys
    query = (
        sa.select(table.c.kid)
        .where(table.c.purpose == role, table.c.state == "signing")
        .order_by(table.c.not_before.desc())
        .limit(1)
    )
    kid = (await session.execute(query)).scalar_one_or_none()
    if kid is None:
        raise PlatformNotInitialised(f"no key signs {role}")
    seed = await open_stored(session, kek, purpose=f"{PURPOSE_SIGNING}-{role}", owner=kid)
    return Ed25519Signer.from_seed(seed)


async def _open_recipient(session: AsyncSession, kek: KeyProvider) -> X25519PrivateKey:
    raw = await open_stored(session, kek, purpose=PURPOSE_RECIPIENT, owner=PLATFORM)
    return parse_x25519_private(raw)


async def _open_url_key(session: AsyncSession, kek: KeyProvider) -> bytes:
    return await open_stored(session, kek, purpose=PURPOSE_URL, owner=PLATFORM)
