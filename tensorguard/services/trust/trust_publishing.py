"""Publishing a trust bundle, once enough root keys have signed it and it says what is so.

Root keys are free to say who signs next. The rest of a bundle has to be what the platform's tables
say at that moment: a bundle that was drafted before the last change would undo it on every agent.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import TrustStore, accept_next, sign_bundle
from tensorguard.pki.changes import describe_differences
from tensorguard.pki.identity import key_sha256
from tensorguard.protocol.envelope import Signer
from tensorguard.services.certificates.authorities import (
    Authority,
    Holder,
    list_authorities,
    list_holders,
)
from tensorguard.services.errors import AuthorityInUse, TrustBundleOutdated
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, CaRetired
from tensorguard.services.trust.trust import (
    Roots,
    draft_bundle,
    draft_next,
    get_latest_bundle,
    lock_publication,
    store_bundle,
)
from tensorguard.store import tables

# Agents never believe a time before the newest issued_at: a bundle from the future would make them
# refuse what is good.
MOST_AHEAD: Final = timedelta(minutes=5)
LEAST_LEFT: Final = timedelta(days=1)
_NAMED: Final = 20


async def publish_next(
    session: AsyncSession,
    roots: Sequence[Signer],
    *,
    by: Actor,
    now: datetime,
    without: Collection[bytes] = (),
    renew_within_s: int | None = None,
    leave: Collection[UUID] = (),
) -> TrustStore:
    """Publish what the tables say now as the version after the newest, signed by `roots`.

    CA certificates, signing keys and publishers come from their tables, root keys stay. `without`
    names CAs, by SPKI digest, that are retired by it; `leave` as in `publish`.
    Raises: PlatformNotInitialised, BundleRefused if `roots` are not enough of the root keys;
    AuthorityInUse.
    """
    await lock_publication(session)
    draft = await draft_next(session, now=now, without=without, renew_within_s=renew_within_s)
    raw = sign_bundle(draft.following, roots)
    return await publish(session, raw, by=by, now=now, leave=leave)


async def publish(
    session: AsyncSession,
    raw: bytes,
    *,
    by: Actor,
    now: datetime,
    leave: Collection[UUID] = (),
) -> TrustStore:
    """Publish a signed bundle as the one after the newest, and retire the CAs it leaves out.

    `leave`: agents that may hold a certificate of such a CA, and are given up.
    Raises: PlatformNotInitialised, BundleRefused, EnvelopeRefused; TrustBundleOutdated if it says
    something else than the tables; AuthorityInUse.
    """
    await lock_publication(session)
    current, store = await check_bundle(session, raw, now=now, leave=leave)
    await _retire_left_out(session, store, leave=leave, by=by, now=now)
    await store_bundle(session, store, by=by, now=now, after=current)
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", str(store.version))))
    return store


async def check_bundle(
    session: AsyncSession, raw: bytes, *, now: datetime, leave: Collection[UUID] = ()
) -> tuple[TrustStore, TrustStore]:
    """Whether `publish` would take a bundle; return the current one and this one.

    Raises: as `publish`.
    """
    current = await get_latest_bundle(session)
    store = accept_next(current, raw, now)
    await _check_publication(session, current, store, now=now)
    left_out = await _list_left_out(session, store)
    if any(one.state == "issuing" for one in left_out):
        raise TrustBundleOutdated("the bundle leaves out the CA that issues")
    holders = await list_holders(session, left_out, now=now)
    if staying := [one for one in holders if one.agent_id not in leave]:
        raise AuthorityInUse(in_use_message(staying))
    return current, store


async def _check_publication(
    session: AsyncSession, current: TrustStore, store: TrustStore, *, now: datetime
) -> None:
    """Compare an accepted bundle with clock and tables. Raises: TrustBundleOutdated."""
    bundle = store.bundle
    if not current.bundle.issued_at <= bundle.issued_at <= now + MOST_AHEAD:
        raise TrustBundleOutdated(
            f"the bundle is of {bundle.issued_at.isoformat()}: that is before the current one, or"
            " in the future"
        )
    if bundle.expires_at < now + LEAST_LEFT:
        raise TrustBundleOutdated(f"the bundle ends at {bundle.expires_at.isoformat()}")
    left_out = await _list_left_out(session, store)
    expected = await draft_bundle(
        session,
        Roots.of(bundle),
        trust_domain=store.trust_domain,
        version=store.version,
        now=now,
        without=[one.spki_sha256 for one in left_out],
    )
    if different := describe_differences(expected, bundle):
        raise TrustBundleOutdated(
            "compared with what the platform says now, the bundle "
            + "; ".join(different[:3])
            + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
        )


async def _retire_left_out(
    session: AsyncSession,
    store: TrustStore,
    *,
    leave: Collection[UUID],
    by: Actor,
    now: datetime,
) -> None:
    """Retire the CAs that a bundle leaves out, if no active agent needs them.

    Once more with the CAs' rows locked: from then on nobody stores a certificate of them.
    Raises: AuthorityInUse, with names.
    """
    table = tables.ca_certificates
    for authority in await _list_left_out(session, store, lock=True):
        holders = await list_holders(session, [authority], now=now)
        staying = [one for one in holders if one.agent_id not in leave]
        if staying:
            raise AuthorityInUse(in_use_message(staying))
        await session.execute(
            sa.update(table)
            .where(table.c.spki_sha256 == authority.spki_sha256)
            .values(state="retired")
        )
        left = [str(one.agent_id) for one in holders]
        event = CaRetired(by=by, spki_sha256=authority.pin, left=left)
        await ledger.record(session, event, now=now)


def in_use_message(holders: Sequence[Holder]) -> str:
    """Who keeps a CA from being retired, and until when."""
    named = ", ".join(
        f"{one.fleet}/{one.name} ({one.agent_id}, {one.presence})" for one in holders[:_NAMED]
    )
    more = f" and {len(holders) - _NAMED} more" if len(holders) > _NAMED else ""
    last = max(one.not_after for one in holders)
    return (
        f"{len(holders)} active agents hold certificates of the older CA, the last until"
        f" {last.isoformat()}: {named}{more}"
    )


async def _list_left_out(
    session: AsyncSession, store: TrustStore, *, lock: bool = False
) -> list[Authority]:
    named = {key_sha256(ca.public_key()) for ca in store.cas}
    return [
        one
        for one in await list_authorities(session, lock=lock)
        if one.state != "retired" and one.spki_sha256 not in named
    ]
