"""Enrollment tokens: 256 random bits for one fleet, shown once inside a join string."""

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.join import Join, format_join
from tensorguard.protocol.messages import Tags
from tensorguard.services.errors import (
    FleetNotFound,
    Invalid,
    TokenExhausted,
    TokenExpired,
    TokenNotFound,
    TokenRevoked,
    TokenWrongNetwork,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, TokenCreated
from tensorguard.services.evidence.events import TokenRevoked as TokenRevokedEvent
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store import tables
from tensorguard.store.ids import new_id

TOKEN_BYTES: Final = 32
LONGEST_TTL: Final = timedelta(days=365)
MOST_USES: Final = 1_000_000
MOST_TAGS: Final = 64
Approval = Literal["auto", "manual"]


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token; `join` holds the secret, and is never to be had again."""

    id: UUID
    fleet: str
    expires_at: datetime
    join: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms:
    """What a token allows: how long, how often, for whom, and what it gives.

    `cidr` is the network that the device's connection has to come from.
    """

    ttl: timedelta
    max_uses: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    approval: Approval = "auto"
    cidr: str | None = None

    def __post_init__(self) -> None:
        """Raises: Invalid."""
        if not timedelta(0) < self.ttl <= LONGEST_TTL:
            raise Invalid("an enrollment token lives between a second and 365 days")
        if not 1 <= self.max_uses <= MOST_USES:
            raise Invalid(f"an enrollment token has 1 to {MOST_USES} uses")
        if self.approval not in ("auto", "manual"):
            raise Invalid("approval is auto or manual")
        try:
            msgspec.convert(dict(self.tags), Tags)
        except msgspec.ValidationError as error:
            raise Invalid(f"the tags are not allowed: {error}") from None
        if len(self.tags) > MOST_TAGS:
            raise Invalid(f"an agent has at most {MOST_TAGS} tags")
        try:
            _ = self.cidr is None or ip_network(self.cidr)
        except ValueError as error:
            raise Invalid(f"the CIDR is not a network: {error}") from None


async def create_token(
    session: AsyncSession,
    keyring: Keyring,
    fleet: str,
    terms: TokenTerms,
    *,
    device_url: str,
    by: Actor,
    now: datetime,
) -> CreatedToken:
    """Mint an enrollment token; only its SHA-256 is stored.

    Raises: FleetNotFound.
    """
    found = sa.select(tables.fleets.c.slug).where(tables.fleets.c.slug == fleet)
    if (await session.execute(found)).one_or_none() is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    token_id, expires_at = new_id(), now + terms.ttl
    await session.execute(
        sa.insert(tables.enrollment_tokens).values(
            id=token_id,
            fleet=fleet,
            secret_sha256=_digest(secret),
            tags=dict(terms.tags),
            approval=terms.approval,
            cidr=terms.cidr,
            max_uses=terms.max_uses,
            uses_left=terms.max_uses,
            expires_at=expires_at,
            created_at=now,
            created_by=by.id,
        )
    )
    event = TokenCreated(
        by=by,
        fleet=fleet,
        token_id=token_id,
        expires_at=expires_at,
        max_uses=terms.max_uses,
        approval=terms.approval,
        tags=terms.tags,
    )
    await ledger.record(session, event, now=now)
    join = format_join(Join(url=device_url, ca=keyring.ca.spki_sha256, token=secret))
    return CreatedToken(token_id, fleet, expires_at, join)


async def revoke_token(
    session: AsyncSession, token_id: UUID, *, by: Actor, now: datetime, fleet: str | None = None
) -> None:
    """Let nobody enrol with a token any more; once more changes nothing.

    Raises: TokenNotFound, also where the token is not one of `fleet`.
    """
    table = tables.enrollment_tokens
    query = sa.select(table.c.fleet, table.c.revoked_at).where(table.c.id == token_id)
    row = (await session.execute(query.with_for_update())).one_or_none()
    if row is None or fleet not in (None, row.fleet):
        raise TokenNotFound(f"there is no enrollment token {token_id}")
    if row.revoked_at is not None:
        return
    await session.execute(sa.update(table).where(table.c.id == token_id).values(revoked_at=now))
    event = TokenRevokedEvent(by=by, fleet=row.fleet, token_id=token_id)
    await ledger.record(session, event, now=now)


async def list_tokens(
    session: AsyncSession, fleet: str, *, after: UUID | None = None, limit: int = 100
) -> list[sa.Row[Any]]:
    """A page of a fleet's tokens in the order of their making, without their secrets."""
    table = tables.enrollment_tokens
    shown = [column for column in table.c if column.name != "secret_sha256"]
    query = sa.select(*shown).where(table.c.fleet == fleet).order_by(table.c.id).limit(limit)
    if after is not None:
        query = query.where(table.c.id > after)
    return list(await session.execute(query))


async def find_tokens(session: AsyncSession, secrets_: Collection[str]) -> dict[str, sa.Row[Any]]:
    """The tokens with these secrets, by secret; their state is not looked at."""
    digests = {_digest(secret): secret for secret in secrets_}
    table = tables.enrollment_tokens
    query = sa.select(table).where(table.c.secret_sha256 == sa.any_(_array(digests, LargeBinary())))
    found: dict[str, sa.Row[Any]] = {}
    for row in await session.execute(query):
        # The index has compared already, but a digest: what its timing could tell is no use
        # without a preimage. Compared once more so that nothing rests on that.
        digest = bytes(row.secret_sha256)
        if compare_digest(_digest(digests[digest]), digest):
            found[digests[digest]] = row
    return found


def check_network(token: sa.Row[Any], peer_ip: str) -> None:
    """Refuse a token that may not be used from this address. Raises: TokenWrongNetwork."""
    if token.cidr is not None and not _is_inside(peer_ip, str(token.cidr)):
        raise TokenWrongNetwork("this enrollment token may not be used from this address")


async def lock_tokens(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, sa.Row[Any]]:
    """Tokens as they are now, which nobody else changes until the transaction ends."""
    table = tables.enrollment_tokens
    query = sa.select(table).where(table.c.id == sa.any_(_array(ids, sa.Uuid())))
    # In one order, so that of two who take several neither waits for the other.
    locked = await session.execute(query.order_by(table.c.id).with_for_update(key_share=True))
    return {row.id: row for row in locked}


def find_refusal(
    token: sa.Row[Any], *, now: datetime
) -> TokenRevoked | TokenExpired | TokenExhausted | None:
    """The reason why no use of a token can be taken, if there is one."""
    if token.revoked_at is not None:
        return TokenRevoked("this enrollment token was revoked")
    if token.expires_at <= now:
        return TokenExpired(f"this enrollment token expired at {token.expires_at.isoformat()}")
    if token.uses_left <= 0:
        return TokenExhausted("every use of this enrollment token is spent")
    return None


async def take_uses(session: AsyncSession, uses: Mapping[UUID, int]) -> None:
    """Take so many uses of each token, whose row the caller has locked and looked at."""
    table = tables.enrollment_tokens
    for token_id, count in uses.items():
        taken = await session.execute(
            sa.update(table)
            .where(table.c.id == token_id, table.c.uses_left >= count)
            .values(uses_left=table.c.uses_left - count)
            .returning(table.c.id)
        )
        taken.one()


async def count_pending(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, int]:
    """How many agents of each of these tokens wait for an operator; a token without is left out."""
    table = tables.agents
    query = (
        sa.select(table.c.token_id, sa.func.count())
        .where(table.c.status == "pending", table.c.token_id == sa.any_(_array(ids, sa.Uuid())))
        .group_by(table.c.token_id)
    )
    return {token_id: count for token_id, count in await session.execute(query)}


def _array(values: Collection[Any], type_: Any) -> sa.ColumnElement[Any]:
    """One parameter however many values: the statement stays the same, and prepared."""
    return sa.literal(list(values), ARRAY(type_))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _is_inside(peer_ip: str, cidr: str) -> bool:
    try:
        address = ip_address(peer_ip.partition("%")[0])
    except ValueError:
        return False
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address in ip_network(cidr)
