"""Reading agents: pages of them, one of them, their telemetry and what the ledger says of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.rollouts.selector import Selector
from tensorguard.store.selectors import selector_clause
from tensorguard.store.standing import Reason, Standing
from tensorguard.store.tables import (
    Time,
    agent_desired,
    agent_state,
    agent_status,
    agents,
    certificates,
    enrollment_tokens,
    ledger_entries,
    ledger_events,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFilter:
    """Which agents; what is None filters nothing.

    `text` is part of a name, or the beginning of an id; `trust_below` is exclusive,
    `trust_at_least` is not.
    """

    fleet: str | None = None
    status: str | None = None
    presence: str | None = None
    trust_at_least: int | None = None
    trust_below: int | None = None
    selector: Selector | None = None
    text: str | None = None
    enrolled_by: str | None = None
    certificate_expires_before: datetime | None = None
    standing: Standing | None = None
    """With `reasons`: those that stand so at its moment."""
    reasons: Sequence[Reason] = ()


_presence = sa.func.coalesce(agent_status.c.presence, "never")
_trust = sa.func.coalesce(agent_status.c.trust_score, 100)


def _number(column: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    # As double, because a cursor has to hold the very value that was compared.
    return sa.cast(sa.func.coalesce(column, -1), sa.Double)


# The certificate that it uses: the newest it has connected with, or was given to begin with.
_certificate_not_after = (
    sa.select(certificates.c.not_after)
    .where(certificates.c.agent_id == agents.c.id, certificates.c.superseded_at.is_(None))
    .order_by(certificates.c.first_connected_at.is_(None), certificates.c.issued_at.desc())
    .limit(1)
    .correlate(agents)
    .scalar_subquery()
)


# What is unknown sorts below everything known, so that no cursor has to stand on NULL.
_LONG_AGO = sa.literal(datetime.fromtimestamp(0, UTC), Time)
_SORT_KEYS: Mapping[str, sa.ColumnElement[Any]] = {
    "name": agents.c.name,
    "created": agents.c.created_at,
    "heartbeat": sa.func.coalesce(agent_state.c.received_at, _LONG_AGO),
    "trust": _number(_trust),
    "cpu": _number(agent_state.c.cpu_percent),
    "memory": _number(agent_state.c.memory_percent),
    "disk": _number(agent_state.c.disk_percent),
    "expiry": sa.func.coalesce(_certificate_not_after, _LONG_AGO),
}
_SUMMARY = (
    agents.c.id,
    agents.c.fleet,
    agents.c.name,
    agents.c.tags,
    agents.c.status,
    agents.c.created_at,
    agents.c.enrolled_at,
    agents.c.enrolled_by,
    agents.c.revoked_at,
    agents.c.move_to,
    agents.c.revision,
    _certificate_not_after.label("certificate_not_after"),
    _presence.label("presence"),
    sa.func.coalesce(agent_status.c.presence_since, agents.c.created_at).label("presence_since"),
    _trust.label("trust_score"),
    agent_state.c.received_at.label("last_heartbeat_at"),
    agent_state.c.status.label("health"),
    agent_state.c.cpu_percent,
    agent_state.c.memory_percent,
    agent_state.c.disk_percent,
    agent_state.c.package_name,
    agent_state.c.package_version,
    agent_state.c.package_digest,
    agent_state.c.agent_version,
)
_DETAIL = (
    *_SUMMARY,
    agents.c.status_reason,
    agents.c.facts,
    agents.c.token_id,
    enrollment_tokens.c.revoked_at.label("token_revoked_at"),
    agents.c.released_at,
    agents.c.manufacturer_ca_id,
    agents.c.device_serial,
    agent_state.c.boot_id,
    agent_state.c.boot_count,
    agent_state.c.temperature_c,
    agent_state.c.accelerators,
    agent_state.c.metrics,
    agent_state.c.sent_at,
    agent_state.c.trust_version,
    agent_state.c.config_revision,
    agent_state.c.desired_epoch.label("has_desired_epoch"),
    agent_state.c.desired_revision.label("has_desired_revision"),
    agent_desired.c.epoch.label("desired_epoch"),
    agent_desired.c.revision.label("desired_revision"),
    agent_desired.c.package_digest.label("desired_package_digest"),
    agent_desired.c.deployment_id.label("desired_deployment_id"),
)


async def list_agents(
    session: AsyncSession,
    wanted: AgentFilter,
    *,
    sort: str = "name",
    after: tuple[Any, UUID] | None = None,
    limit: int = 50,
) -> list[sa.RowMapping]:
    """Return agents by `sort` (a key of _SORT_KEYS, `-` before it turns it round) and id, after the
    given place; a row's own place is its `place` and `id`."""
    key = _SORT_KEYS[sort.removeprefix("-")]
    place = sa.tuple_(key, agents.c.id)
    descends = sort.startswith("-")
    query = (
        sa.select(*_SUMMARY, key.label("place"))
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .outerjoin(agent_state, agent_state.c.agent_id == agents.c.id)
        .where(*_conditions(wanted))
        .order_by(*((part.desc() if descends else part) for part in (key, agents.c.id)))
        .limit(limit)
    )
    if wanted.standing is not None:
        query = wanted.standing.join(query)
    if after is not None:
        value, agent_id = after
        there = sa.tuple_(sa.literal(value, key.type), sa.literal(agent_id, sa.Uuid))
        query = query.where(place < there if descends else place > there)
    return list((await session.execute(query)).mappings())


def _conditions(wanted: AgentFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.fleet is not None:
        found.append(agents.c.fleet == wanted.fleet)
    if wanted.status is not None:
        found.append(agents.c.status == wanted.status)
    if wanted.presence is not None:
        found.append(_presence == wanted.presence)
    if wanted.trust_at_least is not None:
        found.append(_trust >= wanted.trust_at_least)
    if wanted.trust_below is not None:
        found.append(_trust < wanted.trust_below)
    if wanted.enrolled_by is not None:
        found.append(agents.c.enrolled_by == wanted.enrolled_by)
    if wanted.certificate_expires_before is not None:
        found.append(_certificate_not_after < wanted.certificate_expires_before)
    if wanted.standing is not None:
        found += [wanted.standing.concerned, wanted.standing.reason.in_(wanted.reasons)]
    if wanted.selector is not None:
        found.append(selector_clause(wanted.selector))
    if wanted.text is not None:
        beginning = sa.cast(agents.c.id, sa.Text).startswith(wanted.text.lower(), autoescape=True)
        found.append(agents.c.name.icontains(wanted.text, autoescape=True) | beginning)
    return found


async def find_agent(session: AsyncSession, agent_id: UUID) -> sa.RowMapping | None:
    """Return everything that is known of one agent, or None if there is none of this id."""
    query = (
        sa.select(*_DETAIL)
        .outerjoin(agent_status, agent_status.c.agent_id == agents.c.id)
        .outerjoin(agent_state, agent_state.c.agent_id == agents.c.id)
        .outerjoin(agent_desired, agent_desired.c.agent_id == agents.c.id)
        .outerjoin(enrollment_tokens, enrollment_tokens.c.id == agents.c.token_id)
        .where(agents.c.id == agent_id)
    )
    return (await session.execute(query)).mappings().one_or_none()


async def list_names(session: AsyncSession, agent_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return what these agents are called, those that there are."""
    query = sa.select(agents.c.id, agents.c.name).where(agents.c.id.in_(list(agent_ids)))
    return {agent_id: name for agent_id, name in await session.execute(query)}


async def list_certificates(session: AsyncSession, agent_id: UUID) -> list[sa.RowMapping]:
    """Return the newest ten certificates of an agent, the newest first."""
    table = certificates
    query = (
        sa.select(
            table.c.serial,
            table.c.not_before,
            table.c.not_after,
            table.c.issued_at,
            table.c.first_connected_at,
            table.c.superseded_at,
        )
        .where(table.c.agent_id == agent_id)
        .order_by(table.c.issued_at.desc())
        .limit(10)
    )
    return list((await session.execute(query)).mappings())


async def list_timeline(
    session: AsyncSession, agent_id: UUID, *, before: UUID | None = None, limit: int = 50
) -> list[sa.RowMapping]:
    """Return what the ledger says of an agent, the newest first; `leaf_index` once sequenced."""
    table = ledger_events
    columns: list[Any] = [
        table.c.id,
        table.c.time,
        table.c.type,
        table.c.actor_kind,
        table.c.actor_id,
        table.c.outcome,
        table.c.entry,
        ledger_entries.c.leaf_index,
    ]
    query = (
        sa.select(*columns)
        .outerjoin(ledger_entries, ledger_entries.c.event_id == table.c.id)
        .where(table.c.subject_id == str(agent_id), table.c.subject_kind == "agent")
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(table.c.id < before)
    return list((await session.execute(query)).mappings())
