"""What a report is about: a fleet or all of them, a period, and how far the ledger is signed."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.compliance.sections import COUNTING, TypeCount
from tensorguard.services.errors import FleetNotFound, Invalid
from tensorguard.services.evidence.tree_queries import (
    StoredCheckpoint,
    find_latest_checkpoint,
    get_latest_checkpoint,
)
from tensorguard.store.tables import (
    Time,
    deployments,
    fleets,
    ledger_entries,
    ledger_events,
)

LONGEST: Final = timedelta(days=1096)
USUAL: Final = timedelta(days=30)
event, place = ledger_events.c, ledger_entries.c


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of a fleet, or of all, whose time is from `since` on and before `until`.

    `checkpoints` are the newest of each epoch of the ledger, by epoch: what they do not cover is
    not proven, and not reported.
    """

    fleet: str | None
    since: datetime
    until: datetime
    checkpoints: Mapping[int, StoredCheckpoint]

    @property
    def part(self) -> sa.ColumnElement[str]:
        """Whose an entry is: a `Part`."""
        is_deployment = sa.and_(event.fleet.is_(None), event.subject_kind == "deployment")
        if self.fleet is None:
            return sa.case(
                (sa.or_(event.fleet.is_not(None), is_deployment), sa.literal("fleet")),
                else_=sa.literal("platform"),
            )
        return sa.case(
            (sa.or_(event.fleet == self.fleet, is_deployment), sa.literal("fleet")),
            (event.fleet.is_(None), sa.literal("platform")),
            else_=sa.literal("left"),
        )

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """What an entry has to be, proven or not."""
        found: list[sa.ColumnElement[bool]] = [
            event.time >= sa.literal(self.since, Time),
            event.time < sa.literal(self.until, Time),
        ]
        if self.fleet is not None:
            # What is of no fleet is of the whole platform; only a deployment to several has some.
            own_deployments = sa.select(sa.cast(deployments.c.id, sa.Text)).where(
                sa.literal(self.fleet) == sa.any_(deployments.c.fleets)
            )
            of_nobody_else = sa.or_(
                event.subject_kind != "deployment", event.subject_id.in_(own_deployments)
            )
            found.append(
                sa.or_(
                    event.fleet == self.fleet,
                    sa.and_(event.fleet.is_(None), of_nobody_else),
                    sa.and_(event.type == "agent.moved", _says(f'"from_fleet":"{self.fleet}"')),
                )
            )
        return found

    def is_proven(self) -> sa.ColumnElement[bool]:
        """Whether a checkpoint covers the entry; `ledger_entries` is joined."""
        return sa.or_(
            sa.false(),
            *(
                sa.and_(place.epoch == epoch, place.leaf_index < one.tree_size)
                for epoch, one in self.checkpoints.items()
            ),
        )


async def open_scope(
    session: AsyncSession,
    *,
    fleet: str | None,
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> Scope:
    """Return what is to be reported; by default the last 30 days.

    Raises: Invalid (an empty period, or one of more than three years), FleetNotFound, NoCheckpoint.
    """
    try:
        end = until or now
        start = since or end - USUAL
        length = end - start
    except OverflowError:
        raise Invalid("the period is outside the calendar") from None
    if not timedelta(0) < length <= LONGEST:
        raise Invalid(
            f"the period from {start.isoformat()} to {end.isoformat()} is empty or too long",
            hint=f"Ask for at most {LONGEST.days} days, `from` before `to`.",
        )
    if fleet is not None and not await session.scalar(
        sa.select(sa.exists().where(fleets.c.slug == fleet))
    ):
        raise FleetNotFound(f"there is no fleet {fleet!r}")
    latest = await get_latest_checkpoint(session)
    checkpoints = {latest.epoch: latest}
    for epoch in range(1, latest.epoch):  # there are as many as restores from too old a backup
        if (last := await find_latest_checkpoint(session, epoch)) is not None:
            checkpoints[epoch] = last
    return Scope(fleet=fleet, since=start, until=end, checkpoints=checkpoints)


async def count_types(session: AsyncSession, scope: Scope) -> list[TypeCount]:
    """Return how many entries there are of each type, in the order of types; one pass."""
    proven = scope.is_proven()
    is_proven = sa.and_(place.event_id.is_not(None), proven)
    # By the bytes, not as JSON: an entry that somebody has damaged must not end the report.
    told = sa.func.substring(_text(), '"count":([0-9]{1,15})[,}]')
    times = sa.case(
        (event.type.in_(COUNTING), sa.func.coalesce(sa.cast(told, sa.BigInteger), 1)), else_=1
    )
    part = scope.part.label("part")
    query = (
        sa.select(
            event.type,
            event.outcome,
            part,
            sa.func.count().filter(is_proven).label("entries"),
            sa.cast(sa.func.coalesce(sa.func.sum(times).filter(is_proven), 0), sa.BigInteger).label(
                "times"
            ),
            sa.func.count().filter(sa.not_(sa.func.coalesce(is_proven, False))).label("unsigned"),
        )
        .select_from(ledger_events)
        .outerjoin(ledger_entries, place.event_id == event.id)
        .where(*scope.conditions())
        .group_by(event.type, event.outcome, part)
        .order_by(event.type, event.outcome, part)
    )
    rows: Sequence[Any] = (await session.execute(query)).mappings().all()
    return [TypeCount(**row) for row in rows]


def _text() -> sa.ColumnElement[str]:
    return sa.func.encode(event.entry, "escape")


def _says(text: str) -> sa.ColumnElement[bool]:
    return sa.func.strpos(_text(), text) > 0
