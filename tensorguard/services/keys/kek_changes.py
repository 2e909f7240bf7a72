"""What people do with KEKs: add, rotate, import, disable, destroy, and have another take over."""

import secrets
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import Conflict, FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import (
    KekImported,
    KekReplaced,
    KekRetired,
    KekRotated,
    KekVersionDestroyed,
    KekVersionDisabled,
    KekVersionEnabled,
)
from tensorguard.services.keys.fleet_deks import forget_fleet_deks
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.keks import (
    Kek,
    Origin,
    count_secrets,
    enter_kek,
    find_active_kek,
    get_kek,
    note_description,
)
from tensorguard.services.keys.key_errors import KekInUse, RewrapUnderWay
from tensorguard.services.keys.key_errors import KekRetired as RetiredAlready
from tensorguard.store import tables
from tensorguard.store.fleets import find_fleet
from tensorguard.vault.errors import Corrupted, KeyDisabled, KeyVersionInUse
from tensorguard.vault.provider import ImportParameters, KeyDescription, ManagedProvider
from tensorguard.vault.reference import KekReference

_PROBE_BYTES = 32


async def describe_kek(
    session: AsyncSession, keks: KekProviders, kek_id: UUID, *, now: datetime
) -> KeyDescription:
    """Ask the provider how a KEK is, and store it. Raises: KekNotFound, VaultError."""
    kek = await get_kek(session, kek_id)
    description = await (await keks.open_kek(kek)).describe()
    await note_description(session, kek.id, description, now=now)
    return description


async def add_fleet_kek(
    session: AsyncSession,
    keks: KekProviders,
    fleet: str,
    reference: KekReference,
    *,
    by: Actor,
    now: datetime,
) -> Kek:
    """Put a fleet's DEKs under a KEK of its own (BYOK): the customer's key, tried out first.

    `local` makes a KEK here, for material that the customer imports. A KEK that the fleet has
    already is replaced: its copies of DEKs are made anew under the new one.
    Raises: FleetNotFound, KekInUse, VaultError.
    """
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    origin: Origin = "imported" if reference == KekReference("local") else "reference"
    await _check_unused(session, reference, fleet)
    provider: ManagedProvider
    if origin == "imported":
        made = keks.opener.make_fleet_kek()
        reference, provider = KekReference("local", made.key_id), made
    else:
        provider = keks.opener.open(reference)
    try:
        description = await probe(provider)
    finally:
        await provider.close()
    former = await find_active_kek(session, fleet, lock=True)
    if former is not None:
        await _retire(session, former, by=by, now=now)
    added = await enter_kek(session, description, origin=origin, by=by, now=now, fleet=fleet)
    if former is not None:
        await _tell_replaced(session, former, added.id, by=by, now=now)
    return added


async def remove_fleet_kek(session: AsyncSession, kek_id: UUID, *, by: Actor, now: datetime) -> Kek:
    """Let a fleet's DEKs be under the platform's KEK alone again. Raises: KekNotFound, KekInUse."""
    kek = await get_usable_kek(session, kek_id)
    if kek.fleet is None:
        raise KekInUse("this is the platform's KEK", hint="Have another take over: migrate.")
    await _retire(session, kek, by=by, now=now)
    await _tell_replaced(session, kek, None, by=by, now=now)
    return await get_kek(session, kek_id)


async def take_over(
    session: AsyncSession,
    keks: KekProviders,
    reference: KekReference,
    *,
    by: Actor,
    now: datetime,
) -> Kek:
    """Let another KEK wrap what is new on the platform; a job then moves what there is.

    The new key is tried out first; the former one stays in use until nothing needs it. The KEK
    that is active already is returned as it is.
    Raises: RewrapUnderWay, VaultError.
    """
    provider = keks.opener.open_first(reference)
    try:
        description = await probe(provider)
    finally:
        await provider.close()
    former = await find_active_kek(session, lock=True)
    if former is not None and (former.provider, former.key_id) == (
        description.provider,
        description.key_id,
    ):
        return former
    await check_no_job(session)
    table = tables.keks
    if former is not None:
        await session.execute(
            sa.update(table).where(table.c.id == former.id).values(state="former")
        )
    known = (
        await session.execute(
            sa.select(table.c.id).where(
                table.c.provider == description.provider,
                table.c.key_id == description.key_id,
                table.c.fleet.is_(None),
                table.c.state == "former",
            )
        )
    ).scalar_one_or_none()
    if known is None:
        taken = await enter_kek(session, description, origin="platform", by=by, now=now)
    else:  # back to where everything was
        await session.execute(sa.update(table).where(table.c.id == known).values(state="active"))
        await note_description(session, known, description, now=now)
        taken = await get_kek(session, known)
    if former is not None:
        await _tell_replaced(session, former, taken.id, by=by, now=now)
    return taken


async def rotate_kek(
    session: AsyncSession, keks: KekProviders, kek_id: UUID, *, by: Actor, now: datetime
) -> Kek:
    """Make a new version of a KEK, which new wraps use. Raises: KekNotFound, VaultError."""
    kek = await get_usable_kek(session, kek_id)
    provider = await keks.open_kek(kek)
    before = (await provider.describe()).current_version
    description = await provider.rotate()
    await note_description(session, kek.id, description, now=now)
    event = KekRotated(
        by=by,
        fleet=kek.fleet,
        kek_id=kek.id,
        version=description.current_version,
        before=before,
    )
    await ledger.record(session, event, now=now)
    return await get_kek(session, kek.id)


async def get_import_parameters(
    session: AsyncSession, keks: KekProviders, kek_id: UUID
) -> ImportParameters:
    """Return what a customer wraps key material with, offline. Raises: KekNotFound, VaultError."""
    kek = await get_usable_kek(session, kek_id)
    return await (await keks.open_kek(kek)).get_import_parameters()


async def import_material(
    session: AsyncSession,
    keks: KekProviders,
    kek_id: UUID,
    wrapped: bytes,
    *,
    token: str,
    expires_at: datetime | None,
    by: Actor,
    now: datetime,
) -> Kek:
    """Import wrapped material as the version that wraps; its expiry is watched.

    Where the former material is over, so are a fleet's copies of DEKs: they are made anew.
    Raises: KekNotFound, Conflict if it has expired already, VaultError.
    """
    if expires_at is not None and expires_at <= now:
        raise Conflict("the material would have expired already", hint="Name a later time.")
    kek = await get_usable_kek(session, kek_id)
    provider = await keks.open_kek(kek)
    description = await provider.import_wrapped(wrapped, token=token, expires_at=expires_at)
    await note_description(session, kek.id, description, now=now)
    if kek.fleet is not None and kek.expires_at is not None and kek.expires_at <= now:
        await forget_fleet_deks(session, kek.fleet)
    table = tables.keks
    await session.execute(
        sa.update(table)
        .where(table.c.id == kek.id)
        .values(expires_at=expires_at, expiry_told_at=None)
    )
    event = KekImported(
        by=by,
        fleet=kek.fleet,
        kek_id=kek.id,
        version=description.current_version,
        expires_at=expires_at,
    )
    await ledger.record(session, event, now=now)
    return await get_kek(session, kek.id)


async def set_version_enabled(
    session: AsyncSession,
    keks: KekProviders,
    kek_id: UUID,
    version: str,
    *,
    enabled: bool,
    by: Actor,
    now: datetime,
) -> Kek:
    """Disable a version that no secret needs, or enable one again.

    Raises: KekNotFound, RewrapUnderWay, KeyVersionInUse, VaultError.
    """
    kek = await get_usable_kek(session, kek_id)
    if not enabled:
        await check_version_unused(session, kek, version)
    provider = await keks.open_kek(kek)
    description = await provider.set_version_enabled(version, enabled=enabled)
    await note_description(session, kek.id, description, now=now)
    kind = KekVersionEnabled if enabled else KekVersionDisabled
    event = kind(by=by, fleet=kek.fleet, kek_id=kek.id, version=version)
    await ledger.record(session, event, now=now)
    return await get_kek(session, kek.id)


async def destroy_version(
    session: AsyncSession,
    keks: KekProviders,
    kek_id: UUID,
    version: str,
    *,
    by: Actor,
    approved_by: Actor,
    now: datetime,
) -> Kek:
    """Destroy a version that no secret needs, after a second person has approved it.

    Raises: KekNotFound, RewrapUnderWay, KeyVersionInUse, VaultError.
    """
    kek = await get_usable_kek(session, kek_id)
    await check_version_unused(session, kek, version)
    description = await (await keks.open_kek(kek)).destroy_version(version)
    await note_description(session, kek.id, description, now=now)
    event = KekVersionDestroyed(
        by=by, fleet=kek.fleet, kek_id=kek.id, version=version, approved_by=approved_by.id
    )
    await ledger.record(session, event, now=now)
    return await get_kek(session, kek.id)


async def check_version_unused(session: AsyncSession, kek: Kek, version: str) -> None:
    """Refuse to take away what a secret needs, or what the next one would be wrapped under.

    Raises: RewrapUnderWay, KeyVersionInUse.
    """
    await check_no_job(session, kek)
    if version == kek.key_version:
        raise KeyVersionInUse("new secrets are wrapped under this version", hint="Rotate first.")
    # Whoever seals a secret now does it under the current version: the count can only fall.
    if left := await count_secrets(session, kek, version):
        raise KeyVersionInUse(f"{left} secrets are under this version")


async def check_no_job(session: AsyncSession, kek: Kek | None = None) -> None:
    """Refuse while secrets are being moved. Raises: RewrapUnderWay."""
    table = tables.rewrap_jobs
    query = sa.select(table.c.id).where(table.c.state == "running")
    if kek is not None:
        query = query.where(table.c.kek_id == kek.id)
    if (await session.execute(query.limit(1))).first() is not None:
        raise RewrapUnderWay("a job is moving secrets at the moment")


async def probe(provider: ManagedProvider) -> KeyDescription:
    """Find out that a KEK is enabled, wraps and unwraps. Raises: VaultError."""
    description = await provider.describe()
    if description.state != "enabled":
        raise KeyDisabled(f"the key is {description.state}")
    await probe_usable(provider)
    return description


async def probe_usable(provider: ManagedProvider) -> None:
    """Wrap and unwrap something that is nothing. Raises: VaultError."""
    key, context = secrets.token_bytes(_PROBE_BYTES), {"purpose": "probe", "owner": "platform"}
    if await provider.unwrap(await provider.wrap(key, context), context) != key:
        raise Corrupted("the key unwraps to something else than was wrapped")


async def retire_unneeded(session: AsyncSession, *, by: Actor, now: datetime) -> list[Kek]:
    """Retire every former KEK under which no secret is left; return them."""
    table = tables.keks
    query = sa.select(table.c.id).where(table.c.state == "former").with_for_update()
    done = []
    for kek_id in (await session.execute(query)).scalars().all():
        kek = await get_kek(session, kek_id)
        if await count_secrets(session, kek) == 0:
            await _retire(session, kek, by=by, now=now)
            done.append(kek)
    return done


async def get_usable_kek(session: AsyncSession, kek_id: UUID) -> Kek:
    """Return a KEK that is in use, locked. Raises: KekNotFound, KekRetired."""
    kek = await get_kek(session, kek_id, lock=True)
    if kek.state == "retired":
        raise RetiredAlready("this KEK is not in use any more")
    return kek


async def _check_unused(session: AsyncSession, reference: KekReference, fleet: str) -> None:
    table = tables.keks
    query = sa.select(table.c.fleet).where(
        table.c.provider == reference.provider,
        table.c.key_id == reference.key_id,
        table.c.state != "retired",
        sa.or_(table.c.fleet.is_(None), table.c.fleet == fleet),
    )
    for row in await session.execute(query):
        whose = "the platform" if row.fleet is None else "this fleet"
        raise KekInUse(f"this key is the KEK of {whose} already")


async def _retire(session: AsyncSession, kek: Kek, *, by: Actor, now: datetime) -> None:
    await check_no_job(session, kek)
    if kek.fleet is not None:
        await forget_fleet_deks(session, kek.fleet)
    table = tables.keks
    await session.execute(
        sa.update(table).where(table.c.id == kek.id).values(state="retired", retired_at=now)
    )
    await ledger.record(session, KekRetired(by=by, fleet=kek.fleet, kek_id=kek.id), now=now)


async def _tell_replaced(
    session: AsyncSession, kek: Kek, by_kek_id: UUID | None, *, by: Actor, now: datetime
) -> None:
    event = KekReplaced(by=by, fleet=kek.fleet, kek_id=kek.id, by_kek_id=by_kek_id)
    await ledger.record(session, event, now=now)
