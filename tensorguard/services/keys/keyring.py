"""The platform's keys, opened from their sealed rows; it follows what the database says."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeVar

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import KEY_ROLES, ROLE_OF_KIND, KeyRole, TrustStore
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.pki.keys import Ed25519Signer, parse_x25519_private
from tensorguard.services.certificates.authorities import PURPOSE_CA, Authority, get_issuing
from tensorguard.services.errors import KeyNotLoaded, PlatformNotInitialised
from tensorguard.services.keys.sealed_rows import open_stored
from tensorguard.services.platform import (
    PLATFORM,
    PURPOSE_RECIPIENT,
    PURPOSE_SIGNING,
    PURPOSE_URL,
)
from tensorguard.services.trust.trust import get_latest_bundle
from tensorguard.store import tables
from tensorguard.vault.provider import KeyProvider

_T = TypeVar("_T")
Secret = KeyRole | Literal["ca", "recipient", "url"]
ALL_SECRETS: Final[frozenset[Secret]] = frozenset({*KEY_ROLES, "ca", "recipient", "url"})
# What each service needs and no more: a key that is not in a process cannot be taken from it. A
# broker front has none: whoever holds the CA's key certifies it (services.service_certificates).
API_SECRETS: Final[frozenset[Secret]] = frozenset({"ca", "config", "recipient", "url"})
BROKER_SECRETS: Final[frozenset[Secret]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Keys:
    """Everything as it was at one moment; replaced as a whole."""

    epoch: int
    trust: TrustStore
    issuing: bytes
    ca: CertificateAuthority | None = field(repr=False)
    signers: Mapping[KeyRole, Sequence[Ed25519Signer]] = field(repr=False)
    recipient_key: X25519PrivateKey | None = field(repr=False)
    url_key: bytes | None = field(repr=False)


class Keyring:
    """Keys in memory; each attribute raises KeyNotLoaded where `load` was not asked for it.

    What stands here may change with `reload`: take an attribute once for one piece of work.
    """

    def __init__(self, trust_domain: str, only: Collection[Secret], keys: _Keys) -> None:
        self.trust_domain = trust_domain
        self._only = frozenset(only)
        self._keys = keys

    @classmethod
    async def load(
        cls,
        session: AsyncSession,
        kek: KeyProvider | None,
        *,
        only: Collection[Secret] = ALL_SECRETS,
    ) -> Self:
        """Open the secrets named by `only`; a keyring of none needs no KEK.

        Raises: PlatformNotInitialised, VaultError, BadKey.
        """
        platform = (await session.execute(sa.select(tables.platform))).one()
        if platform.initialised_at is None:
            raise PlatformNotInitialised("the platform has not been initialised")
        return cls(platform.trust_domain, only, await _open_keys(session, kek, only))

    async def reload(self, session: AsyncSession, kek: KeyProvider | None) -> bool:
        """Take over a newer trust bundle, CA, epoch or ledger key; tell whether there was one.

        Raises: PlatformNotInitialised, VaultError, BadKey; the present keys stay then.
        """
        newest = sa.select(sa.func.max(tables.trust_bundles.c.version))
        version = (await session.execute(newest)).scalar_one()
        issuing = (await get_issuing(session)).key_id
        epoch = (await session.execute(sa.select(tables.platform.c.epoch))).scalar_one()
        known = (self._keys.trust.version, self._keys.issuing, self._keys.epoch)
        kids = [signer.kid for signer in self._keys.signers.get("ledger", ())]
        same = not kids or kids == await _list_signing(session, "ledger")
        if same and (version, issuing, epoch) == known:
            return False
        self._keys = await _open_keys(session, kek, self._only)
        return True

    @property
    def epoch(self) -> int:
        """How often the database has been restored, from 1."""
        return self._keys.epoch

    @property
    def trust(self) -> TrustStore:
        """The newest trust bundle."""
        return self._keys.trust

    @property
    def issuing(self) -> bytes:
        """The key id of the CA that issues, whether its key is in this process or not."""
        return self._keys.issuing

    @property
    def ca(self) -> CertificateAuthority:
        """The CA that issues."""
        return _loaded(self._keys.ca, "ca")

    @property
    def recipient_key(self) -> X25519PrivateKey:
        """The key that publishers seal packages' DEKs to."""
        return _loaded(self._keys.recipient_key, "recipient")

    @property
    def url_key(self) -> bytes:
        """The HMAC key of download URLs."""
        return _loaded(self._keys.url_key, "url")

    @property
    def config_signer(self) -> Ed25519Signer:
        """Signs fleets' configuration."""
        return self.signer("config")

    @property
    def trust_bundle_envelope(self) -> bytes:
        """The newest trust bundle, as it was signed."""
        return self.trust.envelope

    def signer(self, kind: str) -> Ed25519Signer:
        """The key that signs messages of `kind`, such as `desired` or `certificate`.

        Raises: KeyNotLoaded.
        """
        role = ROLE_OF_KIND.get(kind)
        return _loaded(None if role is None else self._keys.signers.get(role), kind)[0]

    @property
    def ledger_signers(self) -> Sequence[Ed25519Signer]:
        """Every key that signs checkpoints now, the newest first. Raises: KeyNotLoaded."""
        return _loaded(self._keys.signers.get("ledger"), "ledger")


def _loaded(value: _T | None, name: str) -> _T:
    if value is None:
        raise KeyNotLoaded(f"the {name} key is not in this process")
    return value


async def _open_keys(
    session: AsyncSession, kek: KeyProvider | None, only: Collection[Secret]
) -> _Keys:
    epoch = (await session.execute(sa.select(tables.platform.c.epoch))).scalar_one()
    trust = await get_latest_bundle(session)
    issuing = await get_issuing(session)
    if kek is None:
        if only:
            raise KeyNotLoaded("without a KEK no secret can be opened")
        return _Keys(epoch, trust, issuing.key_id, None, {}, None, None)
    roles = [role for role in KEY_ROLES if role in only]
    return _Keys(
        epoch=epoch,
        trust=trust,
        issuing=issuing.key_id,
        ca=await _open_ca(session, kek, issuing) if "ca" in only else None,
        signers={role: await _open_signers(session, kek, role) for role in roles},
        recipient_key=await _open_recipient(session, kek) if "recipient" in only else None,
        url_key=await _open_url_key(session, kek) if "url" in only else None,
    )


async def _open_ca(
    session: AsyncSession, kek: KeyProvider, issuing: Authority
) -> CertificateAuthority:
    der = await open_stored(session, kek, purpose=PURPOSE_CA, owner=issuing.pin)
    return CertificateAuthority.load(issuing.certificate, der)


async def _open_signers(
    session: AsyncSession, kek: KeyProvider, role: KeyRole
) -> Sequence[Ed25519Signer]:
    """All keys that sign at present; but for the ledger's the newest is the only one used."""
    kids = await _list_signing(session, role)
    if not kids:
        raise PlatformNotInitialised(f"no key signs {role}")
    return [
        Ed25519Signer.from_seed(
            await open_stored(session, kek, purpose=f"{PURPOSE_SIGNING}-{role}", owner=kid)
        )
        for kid in (kids if role == "ledger" else kids[:1])
    ]


async def _list_signing(session: AsyncSession, role: KeyRole) -> list[str]:
    key = tables.signing_keys.c
    query = (
        sa.select(key.kid)
        .where(key.purpose == role, key.state == "signing")
        .order_by(key.not_before.desc(), key.kid)
    )
    return list((await session.execute(query)).scalars())


async def _open_recipient(session: AsyncSession, kek: KeyProvider) -> X25519PrivateKey:
    raw = await open_stored(session, kek, purpose=PURPOSE_RECIPIENT, owner=PLATFORM)
    return parse_x25519_private(raw)


async def _open_url_key(session: AsyncSession, kek: KeyProvider) -> bytes:
    return await open_stored(session, kek, purpose=PURPOSE_URL, owner=PLATFORM)
