"""Trust bundles: what has been published, and drafts of what is to follow."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import TrustStore, count_signatures, trusted_key
from tensorguard.pki.draft import Draft
from tensorguard.protocol.messages import TrustBundle, TrustedKey, TrustedKeys, TrustedPublisher
from tensorguard.services.errors import PlatformNotInitialised, TrustBundleNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, TrustBundlePublished
from tensorguard.store import tables

# As long as the CA: a bundle that runs out locks every agent out, and its keys have their own end.
BUNDLE_LIFETIME: Final = timedelta(days=3650)
_LOCK: Final = 7290421


@dataclass(frozen=True, slots=True)
class Roots:
    """Who may sign the next bundle, and how many of them have to."""

    keys: Sequence[TrustedKey]
    threshold: int

    @classmethod
    def of(cls, bundle: TrustBundle) -> "Roots":
        """Those that a bundle names."""
        return cls(bundle.keys.root, bundle.root_threshold)


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


async def draft_next(
    session: AsyncSession,
    *,
    now: datetime,
    roots: Roots | None = None,
    without: Collection[bytes] = (),
    renew_within_s: int | None = None,
) -> Draft:
    """The bundle after the newest, of what the tables say now; signed by nobody.

    Root keys stay as they are unless given. `without` names CAs, by SPKI digest, that the bundle is
    to retire. Raises: PlatformNotInitialised, BadBundle.
    """
    current = await get_latest_bundle(session)
    following = await draft_bundle(
        session,
        roots or Roots.of(current.bundle),
        trust_domain=current.trust_domain,
        version=current.version + 1,
        now=now,
        without=without,
        renew_within_s=renew_within_s,
    )
    return Draft.of(current.envelope, following)


async def lock_publication(session: AsyncSession) -> None:
    """Let nobody else publish, nor make another CA issue, until the transaction ends."""
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


async def draft_bundle(
    session: AsyncSession,
    roots: Roots,
    *,
    trust_domain: str,
    version: int,
    now: datetime,
    without: Collection[bytes] = (),
    renew_within_s: int | None = None,
) -> TrustBundle:
    """A bundle of what the tables say is trusted at `now`, not signed yet."""
    cas, keys, publishers = tables.ca_certificates, tables.signing_keys, tables.publishers
    ca_query = (
        sa.select(cas.c.certificate)
        .where(cas.c.state != "retired", cas.c.not_after > now)
        .where(cas.c.spki_sha256.not_in(without))
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
                # One that began when it was registered counts at once, whatever a device's clock.
                not_before=UNSET if row.not_before <= row.created_at else row.not_before,
            )
            for row in await session.execute(publisher_query)
        ],
        renew_within_s=UNSET if renew_within_s is None else renew_within_s,
    )


async def store_bundle(
    session: AsyncSession,
    store: TrustStore,
    *,
    by: Actor,
    now: datetime,
    after: TrustStore | None = None,
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
    await _note_told(session, store, now)
    before = store if after is None else after
    quorums = count_signatures(before.bundle, store.envelope, now)
    old, new = ({key.kid for key in one.bundle.keys.root} for one in (before, store))
    event = TrustBundlePublished(
        by=by,
        version=store.version,
        digest=hashlib.sha256(store.envelope).hexdigest(),
        root_threshold=store.bundle.root_threshold,
        signed_by=sorted({kid for quorum in quorums for kid in quorum.signed}),
        roots_added=sorted(new - old) or None,
        roots_removed=sorted(old - new) or None,
    )
    await ledger.record(session, event, now=now)


async def _note_told(session: AsyncSession, store: TrustStore, now: datetime) -> None:
    """Write with which bundle agents learn what the rows of publishers say now."""
    table = tables.publishers
    named = [one.kid for one in store.bundle.publishers]
    is_said = table.c.kid.in_(named) | table.c.revoked_at.is_not(None) | (table.c.not_after <= now)
    await session.execute(
        sa.update(table).where(table.c.told_in.is_(None), is_said).values(told_in=store.version)
    )
