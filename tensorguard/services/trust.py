"""Trust bundles: publishing the next one, signed by root keys that an operator brings along."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import TrustStore, accept_next, sign_bundle, trusted_key
from tensorguard.protocol.envelope import Signer
from tensorguard.protocol.messages import TrustBundle, TrustedKey, TrustedKeys, TrustedPublisher
from tensorguard.services import ledger
from tensorguard.services.errors import PlatformNotInitialised, TrustBundleNotFound
from tensorguard.services.events import Actor, TrustBundlePublished
from tensorguard.store import tables

# As long as the CA: a bundle that runs out locks every agent out, and its keys have their own end.
BUNDLE_LIFETIME: Final = timedelta(days=3650)
_LOCK: Final = 7290421


@dataclass(frozen=True, slots=True)
class Roots:
    """Who may sign the next bundle, and how many of them have to."""

    keys: Sequence[TrustedKey]
    threshold: int


async def get_latest_bundle(session: AsyncSession) -> TrustStore:
    """The newest trust bundle. Raises: PlatformNotInitialised."""
    table = tables.trust_bundles
    query = sa.select(table.c.envelope).order_by(table.c.version.desc()).limit(1)
    raw = (await session.execute(query)).scalar_one_or_none()
    if raw is None:
        raise PlatformNotInitialised("the platform has published no trust bundle")
    return TrustStore.open_first(raw)


async def get_bundle_envelope(session: AsyncSession, version: int) -> bytes:
    """The trust bundle of this version, as it was signed. Raises: TrustBundleNotFound."""
    table = tables.trust_bundles
    query = sa.select(table.c.envelope).where(table.c.version == version)
    raw = (await session.execute(query)).scalar_one_or_none() if version < 2**63 else None
    if raw is None:
        raise TrustBundleNotFound(f"there is no trust bundle {version}")
    return bytes(raw)


async def publish_next(
    session: AsyncSession, roots: Sequence[Signer], *, by: Actor, now: datetime
) -> TrustStore:
    """Publish what the tables say now as the version after the newest, signed by `roots`.

    CA certificates, signing keys and publishers come from their tables, root keys stay.
    Raises: PlatformNotInitialised, BundleRefused if `roots` are not the current root keys.
    """
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    current = await get_latest_bundle(session)
    following = await draft_bundle(
        session,
        Roots(current.bundle.keys.root, current.bundle.root_threshold),
        trust_domain=current.trust_domain,
        version=current.version + 1,
        now=now,
    )
    store = accept_next(current, sign_bundle(following, roots), now)
    await store_bundle(session, store, by=by, now=now)
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", str(store.version))))
    return store


async def draft_bundle(
    session: AsyncSession, roots: Roots, *, trust_domain: str, version: int, now: datetime
) -> TrustBundle:
    """A bundle of what the tables say is trusted at `now`, not signed yet."""
    cas, keys, publishers = tables.ca_certificates, tables.signing_keys, tables.publishers
    ca_query = (
        sa.select(cas.c.certificate)
        .where(cas.c.state != "retired", cas.c.not_after > now)
        .order_by(cas.c.not_before, cas.c.spki_sha256)
    )
    publisher_query = (
        sa.select(publishers)
        .where(publishers.c.revoked_at.is_(None), publishers.c.not_after > now)
        .order_by(publishers.c.created_at, publishers.c.kid)
    )
    key_query = (
        sa.select(keys.c.purpose, keys.c.public, keys.c.not_after)
        .where(keys.c.state != "retired", keys.c.not_after > now)
        .order_by(keys.c.not_before, keys.c.kid)
    )
    by_purpose: dict[str, list[TrustedKey]] = {}
    for purpose, public, not_after in await session.execute(key_query):
        by_purpose.setdefault(purpose, []).append(trusted_key(bytes(public), not_after))
    return TrustBundle(
        trust_domain=trust_domain,
        version=version,
        issued_at=now,
        expires_at=now + BUNDLE_LIFETIME,
        ca=[pem for (pem,) in await session.execute(ca_query)],
        keys=TrustedKeys(
            root=list(roots.keys),
            desired=by_purpose.get("desired", []),
            grant=by_purpose.get("grant", []),
            command=by_purpose.get("command", []),
            config=by_purpose.get("config", []),
            ledger=by_purpose.get("ledger", []),
        ),
        root_threshold=roots.threshold,
        publishers=[
            TrustedPublisher(
                kid=row.kid,
                alg=row.alg,
                public=bytes(row.public),
                names=list(row.names),
                not_after=row.not_after,
            )
            for row in await session.execute(publisher_query)
        ],
    )


async def store_bundle(
    session: AsyncSession, store: TrustStore, *, by: Actor, now: datetime
) -> None:
    """Store a signed bundle under its version, which is never overwritten."""
    await session.execute(
        sa.insert(tables.trust_bundles).values(
            version=store.version,
            envelope=store.envelope,
            issued_at=store.bundle.issued_at,
            expires_at=store.bundle.expires_at,
        )
    )
    digest = hashlib.sha256(store.envelope).hexdigest()
    event = TrustBundlePublished(by=by, version=store.version, digest=digest)
    await ledger.record(session, event, now=now)
