"""A certificate that has connected takes the place of all older ones of its agent."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import AgentIdentity, identity_from_certificate
from tensorguard.services.certificates.certificate_events import CertificateSuperseded
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets import moves
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.tables import agents, certificates, revocations

_HUB: Final = Actor("service", "hub")
# Who is refused for the date alone needs no row among the denied; clocks differ a little.
_CLOCKS_DIFFER: Final = timedelta(hours=1)
_FORGOTTEN_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Settled:
    """What a first connect changed: denied serials, and the fleet that the agent has come to."""

    serials: list[str]
    moved_to: str | None = None


async def find_unsettled(
    session: AsyncSession, agent_ids: Collection[UUID] | None, *, limit: int
) -> list[UUID]:
    """Return agents that have connected with a certificate while older ones are still good.

    None looks at all agents: what a crash left undone is found so.
    """
    new, old = certificates.alias("new"), certificates.alias("old")
    query = (
        sa.select(new.c.agent_id)
        .distinct()
        .join(old, (old.c.agent_id == new.c.agent_id) & (old.c.issued_at < new.c.issued_at))
        .where(
            new.c.first_connected_at.is_not(None),
            new.c.superseded_at.is_(None),
            old.c.superseded_at.is_(None),
        )
        .order_by(new.c.agent_id)
        .limit(limit)
    )
    if agent_ids is not None:
        query = query.where(new.c.agent_id.in_(agent_ids))
    return list((await session.execute(query)).scalars())


async def settle(
    session: AsyncSession, keyring: Keyring, agent_id: UUID, *, now: datetime
) -> Settled:
    """Deny every certificate older than the newest that has connected; finish a move by it.

    `superseded_at` and the row by which fronts deny the serial, and end what is connected with
    it, are one transaction. A second call changes nothing.
    """
    # Deployments before agents, as in the rollout: two writers must not wait for one another.
    await moves.lock_deployments(session, agent_id)
    agent = await _lock_agent(session, agent_id)
    newest = await _find_connected(session, agent_id)
    if agent is None or newest is None:
        return Settled([])
    moved_to = None
    fleet = _fleet_of(newest.certificate)
    if agent.status == "active" and fleet not in (None, agent.fleet):
        assert fleet is not None
        await moves.arrive(session, keyring, agent_id, fleet=fleet, now=now)
        moved_to = fleet
    old = certificates.c
    superseded = await session.execute(
        sa.update(certificates)
        .where(
            old.agent_id == agent_id,
            old.issued_at < newest.issued_at,
            old.superseded_at.is_(None),
        )
        .values(superseded_at=now)
        .returning(old.serial, old.not_after)
    )
    rows = sorted(superseded.all())
    serials = [row.serial for row in rows]
    if not serials:
        return Settled([], moved_to)
    event = CertificateSuperseded(
        by=_HUB,
        fleet=moved_to or agent.fleet,
        agent_id=agent_id,
        serials=serials,
        by_serial=newest.serial,
    )
    await ledger.record(session, event, now=now)
    denied = [row for row in rows if row.not_after > now - _CLOCKS_DIFFER]
    if denied:
        # Last: from here to the commit every other revocation waits.
        await session.execute(
            sa.insert(revocations),
            [
                {
                    "serial": row.serial,
                    "reason": "superseded",
                    "revoked_at": now,
                    "revoked_by": _HUB.id,
                    "not_after": row.not_after,
                }
                for row in denied
            ],
        )
    return Settled(serials, moved_to)


async def forget_ended(session: AsyncSession) -> None:
    """Delete the oldest denials of certificates that ended a week ago: TLS refuses those."""
    await session.execute(sa.select(sa.func.revocations_forget(_FORGOTTEN_AT_ONCE)))


async def _lock_agent(session: AsyncSession, agent_id: UUID) -> sa.Row[Any, Any] | None:
    query = sa.select(agents.c.fleet, agents.c.status).where(agents.c.id == agent_id)
    return (await session.execute(query.with_for_update())).one_or_none()


async def _find_connected(session: AsyncSession, agent_id: UUID) -> sa.Row[Any, Any, Any] | None:
    """Return the newest certificate that the agent has connected with."""
    table = certificates.c
    query = (
        sa.select(table.serial, table.issued_at, table.certificate)
        .where(table.agent_id == agent_id, table.first_connected_at.is_not(None))
        .order_by(table.issued_at.desc())
        .limit(1)
    )
    return (await session.execute(query)).one_or_none()


def _fleet_of(pem: str) -> str | None:
    identity = identity_from_certificate(x509.load_pem_x509_certificate(pem.encode()))
    return identity.fleet if isinstance(identity, AgentIdentity) else None
