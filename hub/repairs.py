"""Nothing sent down has to arrive: heartbeats say what agents have; what is behind goes again."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import arrays
from hub.batch import From
from hub.downlink import Downlinks
from hub.fleets import FleetConfigs
from tensorguard.protocol.messages import Ack, Boot, FrontConnected, Heartbeat
from tensorguard.protocol.topics import DownKind
from tensorguard.services.deployments import desired
from tensorguard.services.fleets import moves
from tensorguard.services.fleets.commands import take_commands
from tensorguard.services.keys.keyring import Keyring

# Never had a desired document: below every (epoch, revision).
_NOTHING = (-1, -1)
_BEHIND = sa.text("""
    SELECT d.agent_id
    FROM unnest(CAST(:agents AS uuid[]), CAST(:epochs AS bigint[]), CAST(:revisions AS bigint[]))
         AS h (agent_id, epoch, revision)
    JOIN agent_desired d ON d.agent_id = h.agent_id
    WHERE (d.epoch, d.revision) <> (h.epoch, h.revision)
""")
_WATERMARKS = sa.text("""
    SELECT DISTINCT ON (l.agent_id) l.agent_id, l.log_id, l.through, s.boot_id, s.boot_count
    FROM agent_logs l LEFT JOIN agent_state s ON s.agent_id = l.agent_id
    WHERE l.agent_id = ANY(:agents) ORDER BY l.agent_id, l.opened_at DESC
""")


async def repair(
    session: AsyncSession,
    keyring: Keyring,
    heartbeats: Sequence[From[Heartbeat]],
    configs: FleetConfigs,
    downlinks: Downlinks,
    now: datetime,
) -> None:
    """Queue the desired document and the fleet config again for agents that have another."""
    for one in heartbeats:
        revision = configs.revisions.get(one.fleet)
        if revision is not None and one.message.has.config != revision:
            envelope = configs.envelopes[one.fleet]
            downlinks.to_agent(one.fleet, one.agent_id, DownKind.CONFIG, envelope)
    fleets = {one.agent_id: one.fleet for one in heartbeats}
    behind = await _find_behind(session, heartbeats)
    if not behind:
        return
    documents = await desired.documents_for(session, keyring, behind, now=now)
    for agent_id, envelope in documents.items():
        downlinks.to_agent(fleets[agent_id], agent_id, DownKind.DESIRED, envelope)


async def _find_behind(session: AsyncSession, heartbeats: Sequence[From[Heartbeat]]) -> list[UUID]:
    if not heartbeats:
        return []
    positions = [
        (has.epoch, has.revision) if (has := one.message.has.desired) else _NOTHING
        for one in heartbeats
    ]
    columns = {
        "agents": arrays.of_plain(one.agent_id for one in heartbeats),
        "epochs": arrays.of_plain(epoch for epoch, _ in positions),
        "revisions": arrays.of_plain(revision for _, revision in positions),
    }
    return list((await session.execute(_BEHIND, columns)).scalars())


async def repeat_orders(
    session: AsyncSession,
    keyring: Keyring,
    heartbeats: Sequence[From[Heartbeat]],
    downlinks: Downlinks,
    now: datetime,
) -> None:
    """Queue again what agents were ordered to and have not done: to move, and other commands."""
    fleets = {one.agent_id: one.fleet for one in heartbeats}
    if not fleets:
        return
    orders = await moves.list_orders(session, keyring, list(fleets), now=now)
    for agent_id, envelope in orders.items():
        downlinks.to_agent(fleets[agent_id], agent_id, DownKind.COMMAND, envelope)
    for agent_id, envelope in await take_commands(session, keyring, list(fleets), now=now):
        downlinks.to_agent(fleets[agent_id], agent_id, DownKind.COMMAND, envelope)


async def greet(
    session: AsyncSession,
    connected: Sequence[tuple[str, FrontConnected]],
    downlinks: Downlinks,
) -> None:
    """Queue the watermark of its newest log, and its newest boot, for each agent that connected.

    An agent whose outbox or boot count is below was restored from an old image: it starts a new
    log, and counts on from there, so that its heartbeats are taken.
    """
    if not connected:
        return
    fleets = {message.agent_id: message.fleet for _, message in connected}
    for row in await session.execute(_WATERMARKS, {"agents": list(fleets)}):
        boot = None if row.boot_id is None else Boot(id=row.boot_id, count=row.boot_count)
        ack = Ack(log_id=row.log_id, through=row.through, boot=boot)
        downlinks.to_agent(fleets[row.agent_id], row.agent_id, DownKind.ACK, ack)
