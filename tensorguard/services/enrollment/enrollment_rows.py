"""The rows that enrollments read and write, for many devices with each statement."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import authority_key_id, key_sha256, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.services.errors import AuthorityRetired
from tensorguard.store.tables import agents, certificates


@dataclass(frozen=True, slots=True)
class Owners:
    """The agents that have some keys, unless an operator has released them."""

    by_spki: Mapping[bytes, sa.Row[Any]]
    by_encryption_key: Mapping[bytes, sa.Row[Any]]
    certified: frozenset[bytes]
    """The SPKIs for which any of them ever got a certificate, by renewals too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """An agent that is to be; active if it is not pending."""

    id: UUID
    fleet: str
    name: str
    tags: Mapping[str, str]
    facts: Mapping[str, Any]
    pending: bool
    token_id: UUID
    spki_sha256: bytes
    encryption_key: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate of an agent, in PEM."""

    fleet: str
    certificate: str
    has_connected: bool


async def find_owners(
    session: AsyncSession, spkis: Collection[bytes], encryption_keys: Collection[bytes]
) -> Owners:
    """Whose these keys are, whichever token they came with."""
    among_spkis = sa.any_(_array(spkis, sa.LargeBinary()))
    among_keys = sa.any_(_array(encryption_keys, sa.LargeBinary()))
    agent = agents.c
    query = sa.select(agents).where(
        agent.released_at.is_(None),
        sa.or_(agent.enrolled_spki_sha256 == among_spkis, agent.encryption_key == among_keys),
    )
    known = (await session.execute(query)).all()
    certified = (
        sa.select(certificates.c.spki_sha256)
        .join(agents, agent.id == certificates.c.agent_id)
        .where(certificates.c.spki_sha256 == among_spkis, agent.released_at.is_(None))
    )
    return Owners(
        by_spki={bytes(row.enrolled_spki_sha256): row for row in known},
        by_encryption_key={bytes(row.encryption_key): row for row in known},
        certified=frozenset(map(bytes, (await session.execute(certified)).scalars())),
    )


async def lock_agents(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, sa.Row[Any]]:
    """Agents as they are now, which nobody else changes until the transaction ends."""
    query = sa.select(agents).where(agents.c.id == sa.any_(_array(ids, sa.Uuid())))
    locked = await session.execute(query.order_by(agents.c.id).with_for_update())
    return {row.id: row for row in locked}


async def list_certificates_of(
    session: AsyncSession, ids: Collection[UUID]
) -> dict[UUID, list[Certified]]:
    """Every certificate of these agents, the oldest first; an agent without is left out."""
    table = certificates
    query = (
        sa.select(table.c.agent_id, table.c.certificate, table.c.first_connected_at, agents.c.fleet)
        .join(agents, agents.c.id == table.c.agent_id)
        .where(table.c.agent_id == sa.any_(_array(ids, sa.Uuid())))
        .order_by(table.c.issued_at)
    )
    found: dict[UUID, list[Certified]] = {}
    for row in await session.execute(query):
        one = Certified(row.fleet, row.certificate, row.first_connected_at is not None)
        found.setdefault(row.agent_id, []).append(one)
    return found


async def insert_agents(
    session: AsyncSession, new: Sequence[NewAgent], *, now: datetime
) -> set[UUID]:
    """Make agents, but those whose keys somebody else has by now; return the ids of those made."""
    # In one order, so that of two who make the same agents neither waits for the other.
    rows = sorted(new, key=lambda one: one.spki_sha256)
    made = await session.execute(
        _INSERT_AGENTS,
        {
            "ids": [one.id for one in rows],
            "fleets": [one.fleet for one in rows],
            "names": [one.name for one in rows],
            "tags": [_json(one.tags) for one in rows],
            "facts": [_json(one.facts) for one in rows],
            "pending": [one.pending for one in rows],
            "tokens": [one.token_id for one in rows],
            "spkis": [one.spki_sha256 for one in rows],
            "encryption_keys": [one.encryption_key for one in rows],
            "now": now,
        },
    )
    return set(made.scalars())


async def insert_certificates(
    session: AsyncSession, issued: Mapping[UUID, x509.Certificate], *, now: datetime
) -> None:
    """Store certificates, by agent; whoever gets its first is enrolled with that.

    Raises: AuthorityRetired, where the CA was retired since this process has loaded its key.
    """
    if not issued:
        return
    found = list(issued.items())
    # Locked: a retirement waits for this transaction, or is seen here.
    retired = await session.execute(
        _STATES, {"authorities": list({authority_key_id(one) for _, one in found})}
    )
    if "retired" in retired.scalars().all():
        raise AuthorityRetired("the CA that this process issues with is retired")
    await session.execute(
        _INSERT_CERTIFICATES,
        {
            "agents": [agent_id for agent_id, _ in found],
            "serials": [serial_text(one.serial_number) for _, one in found],
            "spkis": [key_sha256(one.public_key()) for _, one in found],
            "certificates": [certificate_pem(one) for _, one in found],
            "not_before": [one.not_valid_before_utc for _, one in found],
            "not_after": [one.not_valid_after_utc for _, one in found],
            "authorities": [authority_key_id(one) for _, one in found],
            "now": now,
        },
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _array(values: Collection[Any], type_: Any) -> sa.ColumnElement[Any]:
    """One parameter however many values: the statement stays the same, and prepared."""
    return sa.literal(list(values), ARRAY(type_))


_INSERT_AGENTS = sa.text("""
    WITH made AS (
        INSERT INTO agents (id, fleet, name, tags, facts, status, enrolled_by, token_id,
                            enrolled_spki_sha256, encryption_key, created_at, enrolled_at)
        SELECT id, fleet, name, tags, facts,
               CASE WHEN pending THEN 'pending' ELSE 'active' END, 'token', token_id,
               spki, encryption_key, :now, CASE WHEN pending THEN NULL ELSE :now END
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:fleets AS text[]), CAST(:names AS text[]),
            CAST(:tags AS jsonb[]), CAST(:facts AS jsonb[]), CAST(:pending AS boolean[]),
            CAST(:tokens AS uuid[]), CAST(:spkis AS bytea[]), CAST(:encryption_keys AS bytea[])
        ) AS new (id, fleet, name, tags, facts, pending, token_id, spki, encryption_key)
        ON CONFLICT DO NOTHING
        RETURNING id
    ), state AS (
        INSERT INTO agent_state (agent_id) SELECT id FROM made
    ), status AS (
        INSERT INTO agent_status (agent_id, presence, presence_since)
        SELECT id, 'never', :now FROM made
    )
    SELECT id FROM made
""")
_STATES = sa.text("""
    SELECT state FROM ca_certificates WHERE subject_key_id = ANY(:authorities) FOR KEY SHARE
""")
_INSERT_CERTIFICATES = sa.text("""
    WITH issued AS (
        INSERT INTO certificates (serial, agent_id, spki_sha256, certificate, not_before, not_after,
                                  issued_at, authority_key_id)
        SELECT serial, agent_id, spki, certificate, not_before, not_after, :now, authority
        FROM unnest(
            CAST(:agents AS uuid[]), CAST(:serials AS text[]), CAST(:spkis AS bytea[]),
            CAST(:certificates AS text[]), CAST(:not_before AS timestamptz[]),
            CAST(:not_after AS timestamptz[]), CAST(:authorities AS bytea[])
        ) AS new (agent_id, serial, spki, certificate, not_before, not_after, authority)
        RETURNING agent_id
    )
    UPDATE agents SET enrolled_at = :now FROM issued
    WHERE agents.id = issued.agent_id AND agents.enrolled_at IS NULL
""")
