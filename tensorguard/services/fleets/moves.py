"""Moving an agent to another fleet: an order, a certificate with another name, an arrival.

The order is a signed `command`, sent again at heartbeats until the agent has arrived. The agent
asks for a certificate with reason `move` and keeps the old one until the new one has connected.
Only that first connect makes it a member of the new fleet: until then it speaks, and is spoken to,
in the old one, and what it says is filed under the fleet of its topic, which the front vouches for.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import AgentIdentity, identity_from_certificate
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import Command
from tensorguard.rollouts.states import OPEN, AgentState
from tensorguard.services.certificates.certificate_events import (
    AgentMoveCancelled,
    AgentMoved,
    AgentMoveOrdered,
)
from tensorguard.services.deployments import desired
from tensorguard.services.deployments.assignment import content_before
from tensorguard.services.deployments.desired import Recipient
from tensorguard.services.errors import Conflict, FleetNotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.agents import AgentNotFound
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.fleets import find_fleet
from tensorguard.store.ids import new_id
from tensorguard.store.tables import (
    agent_desired,
    agents,
    certificates,
    commands,
    deployment_agents,
    deployments,
)

KIND: Final = "move"
# An agent runs a command once. One that forgot it, or gave up, gets another after this time.
COMMAND_VALID_FOR: Final = timedelta(hours=1)
_NEAR_ITS_END: Final = timedelta(minutes=5)
_OPEN_COMMAND: Final = ("queued", "sent", "acknowledged")


class NotMovable(Conflict):
    """The agent is not active, or is in that fleet already."""

    code = "not-movable"
    hint = "Only active agents move, and only to another fleet."


class MoveUnderWay(Conflict):
    """The agent has the new fleet's certificate already and may arrive at any moment."""

    code = "move-under-way"
    hint = "Wait until it has arrived, then move it again."


class NoMoveOrdered(Conflict):
    """There is no move to call off."""

    code = "no-move-ordered"
    hint = "Read the agent: it may have arrived."


async def order_move(
    session: AsyncSession, agent_id: UUID, *, fleet: str, by: Actor, now: datetime
) -> None:
    """Order an agent to another fleet; the same order again changes nothing.

    Raises: AgentNotFound, FleetNotFound, NotMovable, MoveUnderWay.
    """
    if await find_fleet(session, fleet) is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")
    agent = await _lock_agent(session, agent_id)
    if agent.move_to == fleet:
        return
    if agent.status != "active":
        raise NotMovable(f"agent {agent_id} is {agent.status}")
    if agent.fleet == fleet:
        raise NotMovable(f"agent {agent_id} is in {fleet} already")
    await _check_not_under_way(session, agent_id, agent.fleet, now)
    await _end_commands(session, agent_id, "expired", now)
    await _set_move(session, agent_id, fleet)
    event = AgentMoveOrdered(by=by, fleet=agent.fleet, agent_id=agent_id, to_fleet=fleet)
    await ledger.record(session, event, now=now)


async def cancel_move(session: AsyncSession, agent_id: UUID, *, by: Actor, now: datetime) -> None:
    """Call a move off, as long as the agent has no certificate for it.

    Raises: AgentNotFound, NoMoveOrdered, MoveUnderWay.
    """
    agent = await _lock_agent(session, agent_id)
    if agent.move_to is None:
        raise NoMoveOrdered(f"agent {agent_id} was not ordered anywhere")
    await _check_not_under_way(session, agent_id, agent.fleet, now)
    await _end_commands(session, agent_id, "expired", now)
    await _set_move(session, agent_id, None)
    event = AgentMoveCancelled(by=by, fleet=agent.fleet, agent_id=agent_id, to_fleet=agent.move_to)
    await ledger.record(session, event, now=now)


async def list_orders(
    session: AsyncSession, keyring: Keyring, agent_ids: Sequence[UUID], *, now: datetime
) -> dict[UUID, bytes]:
    """Return the signed command of each of these agents that has to move.

    The same bytes each time, until the command is about to expire; then another one. An agent that
    has refused gets no more of them until somebody orders it anew.
    """
    query = (
        sa.select(agents.c.id, agents.c.move_to)
        .where(
            agents.c.id.in_(agent_ids), agents.c.move_to.is_not(None), agents.c.status == "active"
        )
        .order_by(agents.c.id)
    )
    moving = {row.id: row.move_to for row in await session.execute(query)}
    if not moving:
        return {}
    known = await _newest_commands(session, list(moving))
    orders = {}
    for agent_id, fleet in moving.items():
        row = known.get(agent_id)
        if row is not None and row.arguments != {"fleet": fleet}:
            row = None
        if row is not None and row.state in ("refused", "failed"):
            continue
        if row is None or row.expires_at - _NEAR_ITS_END <= now or row.envelope is None:
            orders[agent_id] = await _give(session, keyring, agent_id, fleet, now)
        else:
            orders[agent_id] = bytes(row.envelope)
    return orders


async def lock_deployments(session: AsyncSession, agent_id: UUID) -> None:
    """Lock the agent's open places in deployments, in the order of every other writer."""
    row = deployment_agents.c
    await session.execute(
        sa.select(row.deployment_id)
        .where(row.agent_id == agent_id, row.state.in_(OPEN))
        .order_by(row.deployment_id)
        .with_for_update(key_share=True)
    )


async def arrive(
    session: AsyncSession, keyring: Keyring, agent_id: UUID, *, fleet: str, now: datetime
) -> None:
    """Make the agent, whose row the caller has locked, a member of the fleet it has come to.

    It leaves the deployments that are not for this fleet: what it has not finished there is
    withdrawn, what it runs stays.
    """
    agent = await _lock_agent(session, agent_id)
    order = None if agent.move_to == fleet else agent.move_to
    await session.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(fleet=fleet, move_to=order, revision=agents.c.revision + 1)
    )
    await _end_commands(session, agent_id, "done", now)
    await _leave_deployments(session, keyring, agent_id, agent.tags, fleet, now)
    event = AgentMoved(
        by=Actor("agent", str(agent_id)), fleet=fleet, agent_id=agent_id, from_fleet=agent.fleet
    )
    await ledger.record(session, event, now=now)


async def _lock_agent(session: AsyncSession, agent_id: UUID) -> sa.Row[Any, Any, Any, Any]:
    table = agents.c
    query = sa.select(table.fleet, table.status, table.move_to, table.tags)
    locked = await session.execute(query.where(table.id == agent_id).with_for_update())
    row = locked.one_or_none()
    if row is None:
        raise AgentNotFound(f"there is no agent {agent_id}")
    return row


async def _set_move(session: AsyncSession, agent_id: UUID, fleet: str | None) -> None:
    await session.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(move_to=fleet, revision=agents.c.revision + 1)
    )


async def _check_not_under_way(
    session: AsyncSession, agent_id: UUID, fleet: str, now: datetime
) -> None:
    """Refuse while the agent may connect with another fleet's certificate.

    To take it back could strand an agent that has just thrown away its old one.
    """
    table = certificates.c
    query = sa.select(table.certificate).where(
        table.agent_id == agent_id,
        table.superseded_at.is_(None),
        table.not_after > now,
    )
    for pem in (await session.execute(query)).scalars():
        identity = identity_from_certificate(x509.load_pem_x509_certificate(pem.encode()))
        if isinstance(identity, AgentIdentity) and identity.fleet != fleet:
            raise MoveUnderWay(f"agent {agent_id} has a certificate of {identity.fleet} already")


async def _newest_commands(
    session: AsyncSession, agent_ids: Sequence[UUID]
) -> dict[UUID, sa.Row[Any]]:
    query = (
        sa.select(commands)
        .ext(distinct_on(commands.c.agent_id))
        .where(
            commands.c.agent_id.in_(agent_ids),
            commands.c.kind == KIND,
            commands.c.state.in_((*_OPEN_COMMAND, "refused", "failed")),
        )
        .order_by(commands.c.agent_id, commands.c.created_at.desc())
    )
    return {row.agent_id: row for row in await session.execute(query)}


async def _give(
    session: AsyncSession, keyring: Keyring, agent_id: UUID, fleet: str, now: datetime
) -> bytes:
    await _end_commands(session, agent_id, "expired", now)
    command = Command(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=now + COMMAND_VALID_FOR,
        agent_id=agent_id,
        command_id=new_id(),
        kind="move",
        arguments={"fleet": fleet},
    )
    signed = envelope.sign(command, [keyring.signer("command")])
    await session.execute(
        sa.insert(commands).values(
            id=command.command_id,
            agent_id=agent_id,
            kind=KIND,
            arguments=command.arguments,
            state="sent",
            envelope=signed,
            created_at=now,
            created_by="hub",
            expires_at=command.expires_at,
            sent_at=now,
        )
    )
    return signed


async def _end_commands(session: AsyncSession, agent_id: UUID, state: str, now: datetime) -> None:
    """End the open ones; to a new order old refusals do not count."""
    table = commands.c
    ended = (*_OPEN_COMMAND, "refused", "failed") if state == "expired" else _OPEN_COMMAND
    await session.execute(
        sa.update(commands)
        .where(table.agent_id == agent_id, table.kind == KIND, table.state.in_(ended))
        .values(state=state, finished_at=now)
    )


async def _leave_deployments(
    session: AsyncSession,
    keyring: Keyring,
    agent_id: UUID,
    tags: dict[str, str],
    fleet: str,
    now: datetime,
) -> None:
    row = deployment_agents.c
    left = await session.execute(
        sa.update(deployment_agents)
        .where(
            row.agent_id == agent_id,
            row.state.in_(OPEN),
            row.deployment_id == deployments.c.id,
            sa.literal(fleet) != sa.all_(deployments.c.fleets),
        )
        .values(state=AgentState.EXCLUDED, reason="moved", finished_at=now, updated_at=now)
        .returning(row.deployment_id, row.previous_digest)
    )
    before = {found.deployment_id: found.previous_digest for found in left}
    query = sa.select(agent_desired.c.deployment_id).where(agent_desired.c.agent_id == agent_id)
    assigned = (await session.execute(query)).scalar()
    if assigned is not None and assigned in before:
        digest = before[assigned]
        content = await content_before(session, None if digest is None else bytes(digest))
        recipients = [Recipient(agent_id, tags)]
        await desired.assign(session, keyring, content, recipients, owner=assigned, now=now)
