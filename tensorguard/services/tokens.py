"""Enrollment tokens: 256 random bits for one fleet, shown once inside a join string."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.join import Join, format_join
from tensorguard.protocol.messages import Tags
from tensorguard.services import ledger
from tensorguard.services.errors import (
    FleetNotFound,
    Invalid,
    TokenExhausted,
    TokenExpired,
    TokenNotFound,
    TokenRevoked,
    TokenWrongNetwork,
    UnknownToken,
)
from tensorguard.services.events import Actor, TokenCreated
from tensorguard.services.events import TokenRevoked as TokenRevokedEvent
from tensorguard.services.keyring import Keyring
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


async def get_token(session: AsyncSession, secret: str, *, peer_ip: str) -> sa.Row[Any]:
    """The token with this secret, if it may be used from `peer_ip`; its state is not looked at.

    Raises: UnknownToken, TokenWrongNetwork.
    """
    digest = _digest(secret)
    table = tables.enrollment_tokens
    row = (await session.execute(sa.select(table).where(table.c.secret_sha256 == digest))).first()
    # The index has compared already, but a digest: what its timing could tell is no use without a
    # preimage. Compared once more so that nothing rests on that.
    if row is None or not compare_digest(bytes(row.secret_sha256), digest):
        raise UnknownToken("this enrollment token is not known")
    if row.cidr is not None and not _is_inside(peer_ip, str(row.cidr)):
        raise TokenWrongNetwork("this enrollment token may not be used from this address")
    return row


async def is_use_taken(session: AsyncSession, token_id: UUID, *, now: datetime) -> bool:
    """Take one use of a token and hold its row until the transaction ends; False if none is left,
    or the token has expired or was revoked.
    """
    table = tables.enrollment_tokens
    taken = await session.execute(
        sa.update(table)
        .where(
            table.c.id == token_id,
            table.c.uses_left > 0,
            table.c.revoked_at.is_(None),
            table.c.expires_at > now,
        )
        .values(uses_left=table.c.uses_left - 1)
        .returning(table.c.id)
    )
    return taken.one_or_none() is not None


async def give_use_back(session: AsyncSession, token_id: UUID) -> None:
    """Undo `is_use_taken` in the same transaction."""
    table = tables.enrollment_tokens
    await session.execute(
        sa.update(table).where(table.c.id == token_id).values(uses_left=table.c.uses_left + 1)
    )


async def get_refusal(
    session: AsyncSession, token_id: UUID, *, now: datetime
) -> TokenRevoked | TokenExpired | TokenExhausted:
    """The reason why no use of a token could be taken."""
    table = tables.enrollment_tokens
    query = sa.select(table.c.revoked_at, table.c.expires_at).where(table.c.id == token_id)
    row = (await session.execute(query)).one()
    if row.revoked_at is not None:
        return TokenRevoked("this enrollment token was revoked")
    if row.expires_at <= now:
        return TokenExpired(f"this enrollment token expired at {row.expires_at.isoformat()}")
    return TokenExhausted("every use of this enrollment token is spent")


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
