"""An agent's tags: given at enrollment, changed by a command that the agent has agreed to.

Deployments choose by them at once; the agent has them signed in its next desired document.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol.messages import Tags
from tensorguard.services.enrollment.tokens import MOST_TAGS
from tensorguard.services.errors import Invalid
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, AgentTagsChanged
from tensorguard.store.tables import agents


def parse_tags(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a `set-tags` command: {"tags": {…}} and nothing else. Raises: Invalid."""
    if set(arguments) != {"tags"}:
        raise Invalid('set-tags takes {"tags": {…}}: all that the agent is to have')
    try:
        tags: dict[str, str] = msgspec.convert(arguments["tags"], Tags)
    except msgspec.ValidationError as error:
        raise Invalid(f"the tags are not allowed: {error}") from None
    if len(tags) > MOST_TAGS:
        raise Invalid(f"an agent has at most {MOST_TAGS} tags")
    return tags


async def set_tags(
    session: AsyncSession, agent_id: UUID, tags: Mapping[str, str], *, by: Actor, now: datetime
) -> None:
    """Give an agent these tags and no others; the same again changes nothing."""
    table = agents.c
    query = sa.select(table.tags, table.fleet).where(table.id == agent_id).with_for_update()
    row = (await session.execute(query)).one()
    if row.tags == tags:
        return
    await session.execute(
        sa.update(agents)
        .where(table.id == agent_id)
        .values(tags=dict(tags), revision=table.revision + 1)
    )
    event = AgentTagsChanged(
        by=by, fleet=row.fleet, agent_id=agent_id, before=row.tags, after=dict(tags)
    )
    await ledger.record(session, event, now=now)
