"""Commands to one agent: queued by a person, signed and sent by a hub until it is acknowledged.

An agent runs a command at most once: it remembers the id until the command has expired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol import envelope
from tensorguard.protocol.messages import Command, Reply
from tensorguard.services.errors import Conflict, Invalid
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    Actor,
    CommandFinished,
    CommandIssued,
    Event,
)
from tensorguard.services.fleets.agents import get_agent
from tensorguard.services.fleets.moves import KIND as MOVE
from tensorguard.services.fleets.tagging import parse_tags, set_tags
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.ids import new_id
from tensorguard.store.tables import agents, commands

CommandKind = Literal["restart", "diagnostics", "collect-logs", "set-tags"]
MAX_OPEN: Final = 20
MAX_ARGUMENT_BYTES: Final = 16 * 1024
_OPEN: Final = ("queued", "sent", "acknowledged")
_SENDABLE: Final = ("queued", "sent")
_EXPIRE: Final = sa.text("""
    WITH late AS (
        SELECT commands.id, agents.fleet FROM commands JOIN agents ON agents.id = commands.agent_id
        WHERE commands.state IN ('queued', 'sent') AND commands.expires_at <= :now
          AND commands.kind <> :move
        ORDER BY commands.id LIMIT 500
        FOR UPDATE OF commands SKIP LOCKED
    )
    UPDATE commands SET state = 'expired', finished_at = :now FROM late
    WHERE commands.id = late.id
    RETURNING commands.id, commands.agent_id, commands.kind, late.fleet
""")


class AgentNotActive(Conflict):
    """Only an active agent takes commands."""

    code = "agent-not-active"
    hint = "Read the agent's status."


class TooManyCommands(Conflict):
    """The agent has not come to the end of those before."""

    code = "too-many-commands"
    hint = "Wait until they are done or have expired."


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """A command and how far it is; `expired` as soon as its time is over."""

    id: UUID
    agent_id: UUID
    kind: str
    arguments: Mapping[str, Any]
    state: str
    result: Mapping[str, Any] | None
    created_at: datetime
    created_by: str
    expires_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


async def issue_command(
    session: AsyncSession,
    agent_id: UUID,
    kind: CommandKind,
    *,
    arguments: Mapping[str, Any],
    ttl: timedelta,
    by: Actor,
    now: datetime,
) -> CommandRow:
    """Queue a command; a hub sends it when it next hears of the agent, until `ttl` is over.

    Raises: AgentNotFound, AgentNotActive, TooManyCommands, Invalid.
    """
    agent = await get_agent(session, agent_id)
    if agent.status != "active":
        raise AgentNotActive(f"agent {agent_id} is {agent.status}")
    if len(msgspec.json.encode(dict(arguments))) > MAX_ARGUMENT_BYTES:
        raise Invalid(f"arguments have at most {MAX_ARGUMENT_BYTES} bytes")
    if kind == "set-tags":
        parse_tags(arguments)
    table = commands.c
    waiting = sa.select(sa.func.count()).where(
        table.agent_id == agent_id, table.state.in_(_OPEN), table.expires_at > now
    )
    if (await session.execute(waiting)).scalar_one() >= MAX_OPEN:
        raise TooManyCommands(f"{MAX_OPEN} commands of agent {agent_id} are open")
    row = CommandRow(
        id=new_id(),
        agent_id=agent_id,
        kind=kind,
        arguments=dict(arguments),
        state="queued",
        result=None,
        created_at=now,
        created_by=by.id,
        expires_at=now + ttl,
        sent_at=None,
        finished_at=None,
    )
    await session.execute(
        sa.insert(commands).values(
            {name: getattr(row, name) for name in CommandRow.__dataclass_fields__}
        )
    )
    event = CommandIssued(by=by, fleet=agent.fleet, agent_id=agent_id, command_id=row.id, kind=kind)
    await ledger.record(session, event, now=now)
    return row


async def list_commands(
    session: AsyncSession,
    agent_id: UUID,
    *,
    now: datetime,
    before: UUID | None = None,
    limit: int = 50,
) -> list[CommandRow]:
    """Return an agent's commands, the newest first."""
    table = commands.c
    columns = [table[name] for name in CommandRow.__dataclass_fields__]
    query = sa.select(*columns).where(table.agent_id == agent_id).order_by(table.id.desc())
    if before is not None:
        query = query.where(table.id < before)
    rows = (await session.execute(query.limit(limit))).mappings()
    return [_aged(row, now) for row in rows]


async def take_commands(
    session: AsyncSession, keyring: Keyring, agent_ids: Sequence[UUID], *, now: datetime
) -> list[tuple[UUID, bytes]]:
    """Return what has to be sent to these agents, which were heard: signed, the same bytes each
    time until the agent acknowledges it, or its time is over.
    """
    if not agent_ids:
        return []
    table = commands.c
    query = (
        sa.select(
            table.id,
            table.agent_id,
            table.kind,
            table.arguments,
            table.envelope,
            table.expires_at,
            agents.c.status,
        )
        .join(agents, agents.c.id == table.agent_id)
        .where(table.agent_id.in_(agent_ids), table.kind != MOVE, table.state.in_(_SENDABLE))
        .order_by(table.id)
        .with_for_update(of=commands, skip_locked=True)
    )
    rows = (await session.execute(query)).all()
    sending: list[tuple[UUID, bytes]] = []
    for row in rows:
        if row.expires_at > now and row.status == "active":
            signed = row.envelope and bytes(row.envelope)
            if not signed:
                signed = _sign(keyring, row, now)
                await _set(session, row.id, state="sent", envelope=signed, sent_at=now)
            sending.append((row.agent_id, signed))
    return sending


async def expire_commands(session: AsyncSession, *, now: datetime) -> int:
    """End what no agent has acknowledged in time; return how many that are, 500 at most."""
    rows = (await session.execute(_EXPIRE, {"now": now, "move": MOVE})).all()
    events = [
        CommandFinished(
            by=Actor("service", "hub"),
            fleet=row.fleet,
            agent_id=row.agent_id,
            command_id=row.id,
            kind=row.kind,
            state="expired",
        )
        for row in rows
    ]
    await ledger.record_many(session, events, now=now)
    return len(rows)


async def take_replies(
    session: AsyncSession, replies: Sequence[tuple[UUID, Reply]], *, now: datetime
) -> None:
    """Move commands on by their agents' word: only the agent that one was sent to may answer it,
    and an end is final.
    """
    events: list[Event] = []
    for agent_id, reply in sorted(replies, key=lambda one: (one[0], one[1].command_id)):
        final = reply.state != "acknowledged"
        table = commands.c
        moved = await session.execute(
            sa.update(commands)
            .where(
                table.id == reply.command_id,
                table.agent_id == agent_id,
                table.state.in_(_OPEN),
                table.agent_id == agents.c.id,
            )
            .values(state=reply.state, result=reply.result, finished_at=now if final else None)
            .returning(table.kind, table.arguments, agents.c.fleet)
        )
        row = moved.one_or_none()
        if row is not None and row.kind == "set-tags" and reply.state == "done":
            by = Actor("agent", str(agent_id))
            await set_tags(session, agent_id, parse_tags(row.arguments), by=by, now=now)
        if row is not None and final and row.kind != MOVE:
            events.append(
                CommandFinished(
                    by=Actor("agent", str(agent_id)),
                    fleet=row.fleet,
                    agent_id=agent_id,
                    command_id=reply.command_id,
                    kind=row.kind,
                    state=reply.state,
                )
            )
    await ledger.record_many(session, events, now=now)


def _aged(row: sa.RowMapping, now: datetime) -> CommandRow:
    over = row["state"] in _OPEN and row["expires_at"] <= now
    return CommandRow(**{**row, "state": "expired" if over else row["state"]})


def _sign(keyring: Keyring, row: Any, now: datetime) -> bytes:
    command = Command(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=row.expires_at,
        agent_id=row.agent_id,
        command_id=row.id,
        kind=row.kind,
        arguments=row.arguments,
    )
    return envelope.sign(command, [keyring.signer("command")])


async def _set(session: AsyncSession, command_id: UUID, **values: Any) -> None:
    await session.execute(sa.update(commands).where(commands.c.id == command_id).values(**values))
