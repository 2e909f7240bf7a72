"""A new CA in the place of the old one, without an agent lost.

1. The new CA is made and published beside the old one, which goes on issuing.
2. Once every agent that is online believes that bundle, the new CA issues, for services too.
   Agents that were away find a server that they do not know, and fetch the bundles that say why.
3. Agents renew. When none holds a certificate of the old CA, a further bundle leaves it out.

Where a rotation stands is only what the tables say: whoever takes it up goes on from there.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.bundle import TrustStore
from tensorguard.pki.identity import key_sha256
from tensorguard.services.certificates.authorities import (
    Authority,
    list_authorities,
    make_authority,
)
from tensorguard.services.errors import AgentsUnaware, Conflict, PlatformNotInitialised
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, CaIssuing
from tensorguard.services.trust.trust import get_latest_bundle, lock_publication
from tensorguard.store import tables
from tensorguard.vault.provider import KeyProvider

# Within this, a command that is repeated because it was killed at the very end changes nothing.
JUST_ROTATED: Final = timedelta(hours=24)
_NAMED: Final = 20


class RotationMoved(Conflict):
    """Somebody else has taken this step of the rotation meanwhile."""

    code = "rotation-moved"
    hint = "Run 'tensorguard trust rotate-ca' again: it goes on from where it is."


@dataclass(frozen=True, slots=True)
class Rotation:
    """Where the platform stands: `incoming` does not issue yet, `outgoing` do not any more."""

    issuing: Authority
    incoming: Authority | None
    outgoing: tuple[Authority, ...]
    retired: tuple[Authority, ...]
    bundle: TrustStore

    @property
    def is_under_way(self) -> bool:
        """Whether there is more than the one CA that issues."""
        return self.incoming is not None or bool(self.outgoing)

    @property
    def is_published(self) -> bool:
        """Whether the newest bundle names the CA that is to issue."""
        named = {key_sha256(ca.public_key()) for ca in self.bundle.cas}
        return self.incoming is None or self.incoming.spki_sha256 in named

    def was_just_done(self, now: datetime) -> bool:
        """Whether the CA that issues has followed another one not long ago."""
        made_lately = self.issuing.not_before > now - JUST_ROTATED
        return not self.is_under_way and bool(self.retired) and made_lately


@dataclass(frozen=True, slots=True)
class Unaware:
    """An agent that is online and does not know a trust bundle yet."""

    agent_id: UUID
    name: str
    fleet: str
    trust_version: int | None


@dataclass(frozen=True, slots=True)
class Awareness:
    """Who knows a trust bundle: `offline` agents are not counted among the others."""

    aware: int
    unaware: tuple[Unaware, ...]
    offline: int


async def get_rotation(session: AsyncSession, *, lock: bool = False) -> Rotation:
    """Return where the platform stands. Raises: PlatformNotInitialised."""
    authorities = await list_authorities(session, lock=lock)
    issuing = [one for one in authorities if one.state == "issuing"]
    if not issuing:
        raise PlatformNotInitialised("no CA issues certificates")
    newest = issuing[-1]
    place = authorities.index(newest)
    newer = [one for one in authorities[place + 1 :] if one.state == "trusted"]
    return Rotation(
        issuing=newest,
        incoming=newer[-1] if newer else None,
        outgoing=tuple(one for one in authorities[:place] if one.state != "retired"),
        retired=tuple(one for one in authorities if one.state == "retired"),
        bundle=await get_latest_bundle(session),
    )


async def begin_rotation(
    session: AsyncSession, kek: KeyProvider, trust_domain: str, *, by: Actor, now: datetime
) -> Authority:
    """Make the CA that is to issue; one that was made already is returned.

    Raises: RotationMoved while an older CA still waits for its end; VaultError.
    """
    await lock_publication(session)
    rotation = await get_rotation(session)
    if rotation.incoming is not None:
        return rotation.incoming
    if rotation.outgoing:
        raise RotationMoved("an older CA has to be retired before another one can follow")
    return await make_authority(
        session,
        kek,
        trust_domain,
        state="trusted",
        by=by,
        now=now,
        after=rotation.issuing.not_before,
    )


async def find_first_version(session: AsyncSession, authority: Authority) -> int | None:
    """Return the first of the bundles without a gap up to the newest that name a CA."""
    table = tables.trust_bundles
    query = sa.select(table.c.version, table.c.envelope).order_by(table.c.version.desc())
    first = None
    async for version, raw in await session.stream(query):
        store = TrustStore.open_first(bytes(raw))
        if authority.spki_sha256 not in {key_sha256(ca.public_key()) for ca in store.cas}:
            break
        first = int(version)
    return first


_AWARENESS = sa.text("""
    SELECT a.id, a.name, a.fleet, s.trust_version, t.presence IN ('online', 'late') AS online
    FROM agents a
    JOIN agent_status t ON t.agent_id = a.id
    JOIN agent_state s ON s.agent_id = a.id
    WHERE a.status = 'active' AND coalesce(s.trust_version, 0) < :version
    ORDER BY a.fleet, a.name, a.id
""")
_ONLINE_AWARE = sa.text("""
    SELECT count(*) FROM agents a
    JOIN agent_status t ON t.agent_id = a.id AND t.presence IN ('online', 'late')
    JOIN agent_state s ON s.agent_id = a.id AND s.trust_version >= :version
    WHERE a.status = 'active'
""")


async def measure_awareness(session: AsyncSession, version: int) -> Awareness:
    """Count the agents that know the bundle of this version, by their heartbeats."""
    rows = (await session.execute(_AWARENESS, {"version": version})).all()
    aware = (await session.execute(_ONLINE_AWARE, {"version": version})).scalar_one()
    unaware = [
        Unaware(row.id, row.name, row.fleet, row.trust_version) for row in rows if row.online
    ]
    return Awareness(aware, tuple(unaware), len(rows) - len(unaware))


async def promote(
    session: AsyncSession,
    incoming: Authority,
    *,
    leave: Collection[UUID] = (),
    by: Actor,
    now: datetime,
) -> None:
    """Let the incoming CA issue, for agents and services; the other stays trusted.

    Raises: RotationMoved, AgentsUnaware.
    """
    await lock_publication(session)
    rotation = await get_rotation(session, lock=True)
    version = await find_first_version(session, incoming)
    if rotation.incoming != incoming or version is None:
        raise RotationMoved("this CA is not the one that is to issue next, or not published")
    awareness = await measure_awareness(session, version)
    if waiting := [one for one in awareness.unaware if one.agent_id not in leave]:
        raise AgentsUnaware(unaware_message(waiting, version))
    table = tables.ca_certificates
    for authority, state in ((rotation.issuing, "trusted"), (incoming, "issuing")):
        await session.execute(
            sa.update(table).where(table.c.spki_sha256 == authority.spki_sha256).values(state=state)
        )
    event = CaIssuing(
        by=by,
        spki_sha256=incoming.pin,
        before=rotation.issuing.pin,
        trust_version=version,
    )
    await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", incoming.pin)))


def unaware_message(waiting: Collection[Unaware], version: int) -> str:
    """Who that is online does not know a bundle yet."""
    named = ", ".join(
        f"{one.fleet}/{one.name} ({one.agent_id}, bundle {one.trust_version or 'unknown'})"
        for one in list(waiting)[:_NAMED]
    )
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    return f"{len(waiting)} online agents do not know trust bundle {version} yet: {named}{more}"


async def count_open_tokens(session: AsyncSession, *, now: datetime) -> int:
    """Return how many enrollment tokens can still be used: their join strings name a CA."""
    table = tables.enrollment_tokens
    query = sa.select(sa.func.count()).where(
        table.c.revoked_at.is_(None), table.c.expires_at > now, table.c.uses_left > 0
    )
    return int((await session.execute(query)).scalar_one())


_FRONTS_BEHIND = sa.text("""
    SELECT f.id FROM broker_fronts f
    WHERE f.lease_until > :now AND NOT EXISTS (
        SELECT FROM service_certificates c
        WHERE c.service = 'broker' AND c.instance = f.id AND c.certificate IS NOT NULL
          AND c.answered_at > :since)
    ORDER BY f.id
""")


async def list_fronts_behind(session: AsyncSession, *, since: datetime, now: datetime) -> list[str]:
    """Return the running fronts that have had no certificate since another CA began to issue."""
    values = {"since": since, "now": now}
    return list((await session.execute(_FRONTS_BEHIND, values)).scalars())


async def find_issuing_since(session: AsyncSession, authority: Authority) -> datetime | None:
    """Return since when a CA issues, by the ledger; None for the first, which always did."""
    table = tables.ledger_events
    query = sa.select(sa.func.max(table.c.time)).where(
        table.c.type == CaIssuing.TYPE, table.c.subject_id == authority.pin
    )
    since: datetime | None = (await session.execute(query)).scalar_one()
    return since
