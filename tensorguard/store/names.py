"""What people, agents and things are called now: the ledger holds ids only, so names can go."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.store.tables import (
    agents,
    api_keys,
    deployments,
    manufacturer_cas,
    packages,
    publishers,
    releases,
    sinks,
    users,
)

Thing = tuple[str, str]
"""A kind and an id, as they stand in a ledger entry."""

_VERSIONED = releases.c.name + " " + releases.c.version
_QUERIES: Final[Mapping[str, tuple[Callable[[str], Any], sa.Select[tuple[Any, str]]]]] = {
    "agent": (UUID, sa.select(agents.c.id.label("id"), agents.c.name.label("name"))),
    "user": (UUID, sa.select(users.c.id.label("id"), users.c.email.label("name"))),
    "api-key": (UUID, sa.select(api_keys.c.id.label("id"), api_keys.c.name.label("name"))),
    "release": (UUID, sa.select(releases.c.id.label("id"), _VERSIONED.label("name"))),
    "deployment": (
        UUID,
        sa.select(deployments.c.id.label("id"), _VERSIONED.label("name")).join(
            releases, releases.c.id == deployments.c.release_id
        ),
    ),
    "package": (
        bytes.fromhex,
        sa.select(
            packages.c.digest.label("id"),
            (packages.c.name + " " + packages.c.version).label("name"),
        ),
    ),
    "sink": (UUID, sa.select(sinks.c.id.label("id"), sinks.c.name.label("name"))),
    "manufacturer-ca": (
        UUID,
        sa.select(manufacturer_cas.c.id.label("id"), manufacturer_cas.c.name.label("name")),
    ),
    "publisher": (str, sa.select(publishers.c.kid.label("id"), publishers.c.name.label("name"))),
}


async def find_names(session: AsyncSession, things: Iterable[Thing]) -> dict[Thing, str]:
    """Return what each thing is called; what has no name, or is no longer there, is absent.

    One query for each kind that is asked about.
    """
    wanted: dict[str, dict[Any, str]] = defaultdict(dict)
    for kind, id in set(things):
        if kind in _QUERIES:
            try:
                wanted[kind][_QUERIES[kind][0](id)] = id
            except ValueError:  # `unknown`, where nothing could be identified
                continue
    names: dict[Thing, str] = {}
    for kind, ids in wanted.items():
        query = _QUERIES[kind][1]
        rows = await session.execute(query.where(query.selected_columns.id.in_(list(ids))))
        names |= {(kind, ids[id]): name for id, name in rows}
    return names
