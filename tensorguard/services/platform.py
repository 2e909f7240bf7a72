"""The platform's first start: CA, keys, trust bundle and administrator, made once."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import VerifierKey, ledger_origin
from tensorguard.pki.bundle import KEY_ROLES, KeyRole, TrustStore, sign_bundle, trusted_key
from tensorguard.pki.keys import Ed25519Signer, kid_of
from tensorguard.services.certificates.authorities import make_authority
from tensorguard.services.errors import TrustDomainMismatch
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    SYSTEM,
    Event,
    KeyCreated,
    LedgerKeyCreated,
    PlatformInitialised,
    UserCreated,
)
from tensorguard.services.evidence.private_fields import ensure_privacy_key
from tensorguard.services.keys.keks import enter_kek
from tensorguard.services.keys.sealed_rows import store_secret
from tensorguard.services.people.passwords import generate_password, hash_password
from tensorguard.services.trust.rootkeys import ROOT_THRESHOLD, ensure_root_keys
from tensorguard.services.trust.trust import Roots, draft_bundle, get_latest_bundle, store_bundle
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tensorguard.vault.provider import KeyProvider

ADMIN_EMAIL: Final = "admin@tensorguard.local"
PLATFORM: Final = "platform"
PURPOSE_SIGNING: Final = "signing-key"
PURPOSE_RECIPIENT: Final = "recipient-key"
PURPOSE_URL: Final = "download-url-key"
KEY_LIFETIME: Final = timedelta(days=3650)
URL_KEY_BYTES: Final = 32
_LOCK: Final = 7290420


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """The platform after `bootstrap`; the password only from the call that made the user."""

    admin_password: str | None
    trust_version: int

    def __repr__(self) -> str:
        shown = None if self.admin_password is None else "<hidden>"
        return f"Bootstrapped(admin_password={shown}, trust_version={self.trust_version})"


async def bootstrap(
    session: AsyncSession,
    *,
    kek: KeyProvider,
    trust_domain: str,
    root_dir: Path,
    now: datetime,
    admin_email: str = ADMIN_EMAIL,
    hash_with: Callable[[str], str] = hash_password,
) -> Bootstrapped:
    """Make what every service needs, unless it exists; of two at the same time, one makes it.

    The root keys are written to `root_dir` and belong off this machine afterwards, together with
    their passphrase. The caller commits.
    Raises: TrustDomainMismatch, RootKeysUnusable, VaultError, BadIdentity.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    found = (await session.execute(sa.select(tables.platform))).one()
    if found.initialised_at is not None:
        if found.trust_domain != trust_domain:
            raise TrustDomainMismatch(
                f"this database is of {found.trust_domain!r}, not of {trust_domain!r}"
            )
        return Bootstrapped(None, (await get_latest_bundle(session)).version)

    await session.execute(
        sa.update(tables.platform).values(trust_domain=trust_domain, initialised_at=now)
    )
    events: list[Event] = [PlatformInitialised(by=SYSTEM, trust_domain=trust_domain)]
    await enter_kek(session, await kek.describe(), origin="platform", by=SYSTEM, now=now)
    await make_authority(session, kek, trust_domain, state="issuing", by=SYSTEM, now=now)
    events += await _make_signing_keys(session, kek, trust_domain, found.epoch, now)
    events.append(await _make_recipient_key(session, kek, now))
    await ensure_privacy_key(session, kek, now=now)
    await store_secret(
        session,
        kek,
        secrets.token_bytes(URL_KEY_BYTES),
        purpose=PURPOSE_URL,
        owner=PLATFORM,
        now=now,
    )
    password = generate_password()
    events.append(await _make_admin(session, admin_email, password, hash_with, now))
    await ledger.record_many(session, events, now=now)
    store = await _publish_first(session, root_dir, trust_domain, now)
    return Bootstrapped(password, store.version)


async def _make_signing_keys(
    session: AsyncSession, kek: KeyProvider, trust_domain: str, epoch: int, now: datetime
) -> list[Event]:
    events: list[Event] = []
    for role in KEY_ROLES:
        signer = await make_signing_key(session, kek, role, now)
        if role == "ledger":
            name = ledger_origin(trust_domain, epoch)
            verifier = str(VerifierKey(name, signer.public_key()))
            events.append(LedgerKeyCreated(by=SYSTEM, kid=signer.kid, verifier_key=verifier))
        else:
            events.append(KeyCreated(by=SYSTEM, kid=signer.kid, purpose=role))
    return events


async def make_signing_key(
    session: AsyncSession, kek: KeyProvider, role: KeyRole, now: datetime
) -> Ed25519Signer:
    """Make a key that signs what is of `role` from now on; the caller records it."""
    signer = Ed25519Signer.generate()
    secret_id = await store_secret(
        session,
        kek,
        signer.seed(),
        purpose=f"{PURPOSE_SIGNING}-{role}",
        owner=signer.kid,
        now=now,
    )
    await session.execute(
        sa.insert(tables.signing_keys).values(
            kid=signer.kid,
            purpose=role,
            public=signer.public_raw,
            secret_id=secret_id,
            not_before=now,
            not_after=now + KEY_LIFETIME,
            state="signing",
        )
    )
    return signer


async def _make_recipient_key(session: AsyncSession, kek: KeyProvider, now: datetime) -> KeyCreated:
    private_key = X25519PrivateKey.generate()
    await store_secret(
        session,
        kek,
        private_key.private_bytes_raw(),
        purpose=PURPOSE_RECIPIENT,
        owner=PLATFORM,
        now=now,
    )
    kid = kid_of(private_key.public_key().public_bytes_raw())
    return KeyCreated(by=SYSTEM, kid=kid, purpose=PURPOSE_RECIPIENT)


async def _make_admin(
    session: AsyncSession,
    email: str,
    password: str,
    hash_with: Callable[[str], str],
    now: datetime,
) -> UserCreated:
    user_id = new_id()
    await session.execute(
        sa.insert(tables.users).values(
            id=user_id,
            email=email.lower(),
            name="Administrator",
            role="admin",
            password_hash=await asyncio.to_thread(hash_with, password),
            password_changed_at=now,
            created_at=now,
        )
    )
    return UserCreated(
        by=SYSTEM, user_id=user_id, role="admin", email=email.lower(), name="Administrator"
    )


async def _publish_first(
    session: AsyncSession, root_dir: Path, trust_domain: str, now: datetime
) -> TrustStore:
    signers = await asyncio.to_thread(ensure_root_keys, root_dir)
    not_after = now + KEY_LIFETIME
    keys = [trusted_key(signer.public_raw, not_after) for signer in signers]
    first = await draft_bundle(
        session, Roots(keys, ROOT_THRESHOLD), trust_domain=trust_domain, version=1, now=now
    )
    store = TrustStore.open_first(sign_bundle(first, signers))
    await store_bundle(session, store, by=SYSTEM, now=now)
    return store
