"""API keys: how programs prove who they are. `tg_<id>_<secret>`, of which only a hash is kept."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import ApiKeyCreated, ApiKeyRevoked
from tensorguard.services.people.access import Caller, Role
from tensorguard.services.text import check_line
from tensorguard.store import tables
from tensorguard.store.ids import new_id

PREFIX: Final = "tg"
SECRET_BYTES: Final = 32
# Often enough to find forgotten keys, seldom enough to cost nothing.
_LAST_USED_STEP: Final = timedelta(minutes=1)


class ApiKeyNotFound(NotFound):
    """No API key has this id."""

    code = "api-key-not-found"
    hint = "List the API keys."


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as it may be shown: without its secret."""

    id: UUID
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made; `key` is never seen again."""

    id: UUID
    key: str

    def __repr__(self) -> str:
        return f"NewApiKey(id={self.id}, key=<hidden>)"


_COLUMNS: Final = [tables.api_keys.c[name] for name in ApiKey.__dataclass_fields__]


def _digest(secret: str) -> bytes:
    # 256 random bits need no slow hash.
    return hashlib.sha256(secret.encode()).digest()


async def create_api_key(
    session: AsyncSession,
    *,
    name: str,
    role: Role,
    by: Actor,
    now: datetime,
    expires_at: datetime | None = None,
) -> NewApiKey:
    """Make a key with the permissions of `role`.

    Raises: Invalid.
    """
    check_line("the key's name", name)
    key_id = new_id()
    secret = secrets.token_urlsafe(SECRET_BYTES)
    await session.execute(
        sa.insert(tables.api_keys).values(
            id=key_id,
            name=name,
            secret_sha256=_digest(secret),
            role=role,
            created_at=now,
            created_by=by.id,
            expires_at=expires_at,
        )
    )
    event = ApiKeyCreated(by=by, api_key_id=key_id, role=role, expires_at=expires_at)
    await ledger.record(session, event, now=now)
    return NewApiKey(key_id, f"{PREFIX}_{key_id.hex}_{secret}")


async def find_caller(session: AsyncSession, key: str, *, now: datetime) -> Caller | None:
    """Return whoever the key speaks for; None if it is not, or no longer, good."""
    prefix, _, rest = key.partition("_")
    id_hex, _, secret = rest.partition("_")
    try:
        key_id = UUID(hex=id_hex)
        presented = _digest(secret)
    except ValueError:
        return None
    table = tables.api_keys
    row = (await session.execute(sa.select(table).where(table.c.id == key_id))).one_or_none()
    if prefix != PREFIX or row is None or not compare_digest(row.secret_sha256, presented):
        return None
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return None
    if row.last_used_at is None or now - row.last_used_at >= _LAST_USED_STEP:
        await session.execute(sa.update(table).where(table.c.id == key_id).values(last_used_at=now))
    return Caller(Actor("api-key", str(key_id)), Role(row.role))


async def list_api_keys(
    session: AsyncSession, *, after: UUID | None = None, limit: int = 50
) -> list[ApiKey]:
    """Return keys, also revoked ones, in the order in which they were made."""
    query = sa.select(*_COLUMNS).order_by(tables.api_keys.c.id).limit(limit)
    if after is not None:
        query = query.where(tables.api_keys.c.id > after)
    return [_api_key(row) for row in await session.execute(query)]


async def get_api_key(session: AsyncSession, key_id: UUID) -> ApiKey:
    """Return one key.

    Raises: ApiKeyNotFound.
    """
    query = sa.select(*_COLUMNS).where(tables.api_keys.c.id == key_id)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise ApiKeyNotFound(f"there is no API key {key_id}")
    return _api_key(row)


async def revoke_api_key(session: AsyncSession, key_id: UUID, *, by: Actor, now: datetime) -> None:
    """End a key for good; doing it twice changes nothing.

    Raises: ApiKeyNotFound.
    """
    table = tables.api_keys
    ended = await session.execute(
        sa.update(table)
        .where(table.c.id == key_id, table.c.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(table.c.id)
    )
    if ended.first() is None:
        await get_api_key(session, key_id)
        return
    await ledger.record(session, ApiKeyRevoked(by=by, api_key_id=key_id), now=now)


def _api_key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    values = dict(row._mapping)
    return ApiKey(**{**values, "role": Role(values["role"])})
