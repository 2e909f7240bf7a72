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
from tensorguard.protocol.messages import Ack, FrontConnected, Heartbeat
from tensorguard.protocol.topics import DownKind
from tensorguard.services import desired
from tensorguard.services.keyring import Keyring

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
    SELECT DISTINCT ON (agent_id) agent_id, log_id, through FROM agent_logs
    WHERE agent_id = ANY(:agents) ORDER BY agent_id, opened_at DESC
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


async def greet(
    session: AsyncSession,
    connected: Sequence[tuple[str, FrontConnected]],
    downlinks: Downlinks,
) -> None:
    """Queue the watermark of its newest log for each agent that connected.

    An agent whose outbox is below it was restored from an old image, and starts a new log.
    """
    if not connected:
        return
    fleets = {message.agent_id: message.fleet for _, message in connected}
    for row in await session.execute(_WATERMARKS, {"agents": list(fleets)}):
        ack = Ack(log_id=row.log_id, through=row.through)
        downlinks.to_agent(fleets[row.agent_id], row.agent_id, DownKind.ACK, ack)
