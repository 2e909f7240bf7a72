"""KEKs as the database knows them: whose they are, in which provider, and in what state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import KekAdded
from tensorguard.services.hints import Hint, HintKind, tell
from tensorguard.services.keys.key_errors import KekNotFound
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tensorguard.vault.provider import KeyDescription
from tensorguard.vault.reference import KekReference

Origin = Literal["platform", "reference", "imported"]
State = Literal["active", "former", "retired"]
_KEKS: Final = tables.keks
_SECRETS: Final = tables.secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Kek:
    """One KEK; of the platform where there is no `fleet`. `trouble_code` says why it is no use."""

    id: UUID
    fleet: str | None
    provider: str
    key_id: str
    origin: Origin
    state: State
    key_version: str | None
    key_state: str
    expires_at: datetime | None
    expiry_told_at: datetime | None
    checked_at: datetime | None
    trouble_code: str | None
    trouble_reason: str | None
    trouble_since: datetime | None
    created_at: datetime
    created_by: str
    retired_at: datetime | None

    @property
    def reference(self) -> KekReference:
        """Its name, as people write it. Raises: BadReference."""
        return KekReference.of(self.provider, self.key_id)


@dataclass(frozen=True, slots=True)
class KekVersion:
    """A version of a KEK, and how many secrets are under it."""

    version: str
    state: str
    first_seen_at: datetime
    secrets: int


async def list_keks(session: AsyncSession, *, retired: bool = True) -> list[Kek]:
    """Return all KEKs in the order of their arrival; there are few."""
    query = sa.select(_KEKS).order_by(_KEKS.c.created_at, _KEKS.c.id)
    if not retired:
        query = query.where(_KEKS.c.state != "retired")
    return [_kek(row) for row in await session.execute(query)]


async def get_kek(session: AsyncSession, kek_id: UUID, *, lock: bool = False) -> Kek:
    """Return one KEK. Raises: KekNotFound."""
    query = sa.select(_KEKS).where(_KEKS.c.id == kek_id)
    row = (await session.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise KekNotFound(f"there is no KEK {kek_id}")
    return _kek(row)


async def find_active_kek(
    session: AsyncSession,
    fleet: str | None = None,
    *,
    lock: bool = False,
    hold: bool = False,
) -> Kek | None:
    """Return the KEK that wraps what is new: the platform's, or a fleet's own if it has one.

    `hold` keeps it from being changed until the caller's transaction ends; many may hold it.
    """
    query = sa.select(_KEKS).where(
        _KEKS.c.state == "active", _KEKS.c.fleet.is_not_distinct_from(fleet)
    )
    if lock or hold:
        query = query.with_for_update(read=hold)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _kek(row)


async def get_active_kek(session: AsyncSession, fleet: str | None = None) -> Kek:
    """Return the KEK that wraps what is new. Raises: KekNotFound."""
    found = await find_active_kek(session, fleet)
    if found is None:
        of = "the platform" if fleet is None else f"fleet {fleet!r}"
        raise KekNotFound(f"{of} has no KEK of its own")
    return found


async def enter_kek(
    session: AsyncSession,
    description: KeyDescription,
    *,
    origin: Origin,
    by: Actor,
    now: datetime,
    fleet: str | None = None,
) -> Kek:
    """Store a KEK that was found usable as the one that wraps what is new, with its event."""
    kek_id = new_id()
    values: dict[str, Any] = {
        "id": kek_id,
        "fleet": fleet,
        "provider": description.provider,
        "key_id": description.key_id,
        "origin": origin,
        "state": "active",
        "created_at": now,
        "created_by": by.id,
    }
    await session.execute(sa.insert(_KEKS).values(values))
    await note_description(session, kek_id, description, now=now)
    event = KekAdded(
        by=by,
        fleet=fleet,
        kek_id=kek_id,
        provider=description.provider,
        reference_sha256=reference_digest(description.provider, description.key_id),
        origin=origin,
    )
    await ledger.record(session, event, now=now)
    return await get_kek(session, kek_id)


async def note_description(
    session: AsyncSession, kek_id: UUID, description: KeyDescription, *, now: datetime
) -> None:
    """Store what a provider says of a KEK, and versions that were not seen before.

    Whoever watches is told if that is another version or state than was known.
    """
    values: dict[str, Any] = {
        "key_version": description.current_version or None,
        "key_state": description.state,
    }
    if description.expires_at is not None:
        values["expires_at"] = description.expires_at
    is_other = [_KEKS.c[name].is_distinct_from(value) for name, value in values.items()]
    change = sa.update(_KEKS).where(_KEKS.c.id == kek_id, sa.or_(*is_other)).values(values)
    if (await session.execute(change.returning(_KEKS.c.id))).first() is not None:
        await tell(session, [hint_of(kek_id)], now=now)
    await session.execute(sa.update(_KEKS).where(_KEKS.c.id == kek_id).values(checked_at=now))
    table = tables.kek_versions
    for version in description.versions:
        state = "disabled" if version in description.disabled else "enabled"
        statement = insert(table).values(
            kek_id=kek_id, version=version, state=state, first_seen_at=now
        )
        await session.execute(
            statement.on_conflict_do_update(
                index_elements=[table.c.kek_id, table.c.version],
                set_={"state": state, "changed_at": now},
                where=table.c.state != state,
            )
        )
    await session.execute(
        sa.update(table)
        .where(
            table.c.kek_id == kek_id,
            table.c.state != "destroyed",
            table.c.version.not_in(description.versions),
        )
        .values(state="destroyed", changed_at=now)
    )


async def list_versions(session: AsyncSession, kek: Kek) -> list[KekVersion]:
    """Return a KEK's versions in the order in which they were seen, with their secrets."""
    table = tables.kek_versions
    counted = (
        sa.select(_SECRETS.c.key_version, sa.func.count().label("secrets"))
        .where(_is_under(kek))
        .group_by(_SECRETS.c.key_version)
        .subquery()
    )
    query = (
        sa.select(table, sa.func.coalesce(counted.c.secrets, 0).label("secrets"))
        .outerjoin(counted, counted.c.key_version == table.c.version)
        .where(table.c.kek_id == kek.id)
        .order_by(table.c.first_seen_at, sa.func.length(table.c.version), table.c.version)
    )
    return [
        KekVersion(row.version, row.state, row.first_seen_at, row.secrets)
        for row in await session.execute(query)
    ]


async def count_secrets(session: AsyncSession, kek: Kek, version: str | None = None) -> int:
    """Return how many secrets are under a KEK, or under one version of it."""
    query = sa.select(sa.func.count()).where(_is_under(kek))
    if version is not None:
        query = query.where(_SECRETS.c.key_version == version)
    return int((await session.execute(query)).scalar_one())


async def count_all_secrets(session: AsyncSession, keks: Sequence[Kek]) -> dict[UUID, int]:
    """Return how many secrets are under each of these KEKs, in one query."""
    uses = await count_uses(session, keks)
    return {one.id: sum(uses[one.id].values()) for one in keks}


async def count_uses(session: AsyncSession, keks: Sequence[Kek]) -> dict[UUID, dict[str, int]]:
    """Return how many secrets of each purpose are under each of these KEKs, in one query."""
    place = (_SECRETS.c.provider, _SECRETS.c.key_id, _SECRETS.c.fleet)
    query = sa.select(*place, _SECRETS.c.purpose, sa.func.count()).group_by(
        *place, _SECRETS.c.purpose
    )
    found: dict[tuple[str, str, str | None], dict[str, int]] = {}
    for provider, key_id, fleet, purpose, count in await session.execute(query):
        found.setdefault((provider, key_id, fleet), {})[purpose] = count
    return {one.id: found.get((one.provider, one.key_id, one.fleet), {}) for one in keks}


def hint_of(kek_id: UUID) -> Hint:
    """What whoever watches is told where the ledger is not: "read this KEK again"."""
    return Hint(HintKind.TRUST, str(kek_id))


def reference_digest(provider: str, key_id: str) -> bytes:
    """The SHA-256 by which the ledger knows a key's name."""
    return sha256(f"{provider}:{key_id}".encode()).digest()


def _is_under(kek: Kek) -> sa.ColumnElement[bool]:
    return sa.and_(
        _SECRETS.c.provider == kek.provider,
        _SECRETS.c.key_id == kek.key_id,
        _SECRETS.c.fleet.is_not_distinct_from(kek.fleet),
    )


def _kek(row: sa.Row[Any]) -> Kek:
    return Kek(**row._mapping)
