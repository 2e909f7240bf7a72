"""A compliance report: what happened to a fleet in a period, and how to check that."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import ledger_origin
from tensorguard.services.compliance.compliance_events import ReportExported
from tensorguard.services.compliance.listing import (
    ActorCount,
    Place,
    RevocationReceipt,
    Section,
    count_actors,
    find_receipts,
    list_sections,
)
from tensorguard.services.compliance.period import Scope, count_types, open_scope
from tensorguard.services.compliance.revocation_times import (
    RevocationTimes,
    measure_revocations,
)
from tensorguard.services.compliance.running import (
    PeriodDeployment,
    RunningPackage,
    list_deployments,
    list_running,
)
from tensorguard.services.compliance.sections import Numbers, TypeCount, sum_up
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.tree_queries import list_verifier_keys
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.names import Thing, find_names
from tensorguard.store.tables import users

_OPEN_KINDS: Final[Mapping[str, Permission]] = {
    "agent": Permission.AGENTS_READ,
    "api-key": Permission.API_KEYS_ADMIN,
    "deployment": Permission.DEPLOYMENTS_READ,
    "package": Permission.PACKAGES_READ,
    "publisher": Permission.PUBLISHERS_READ,
    "release": Permission.RELEASES_READ,
}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a period, and nothing one by one."""

    scope: Scope
    numbers: Numbers
    revocation_times: RevocationTimes
    types: Sequence[TypeCount]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of a report but the proofs: those are streamed, by proofs.py.

    `receipts` by the place of the revocation; `keys` verify the checkpoints, by epoch.
    `names` are those that this reader may see, and no part of the ledger. What runs where is of
    `made_at`, not of the period.
    """

    scope: Scope
    made_at: datetime
    numbers: Numbers
    revocation_times: RevocationTimes
    types: Sequence[TypeCount]
    sections: Sequence[Section]
    receipts: Mapping[Place, RevocationReceipt]
    actors: Sequence[ActorCount]
    running: Sequence[RunningPackage]
    deployments: Sequence[PeriodDeployment]
    deployments_left_out: int
    keys: Mapping[int, Sequence[str]]
    names: Mapping[Thing, str]

    def listed_indexes(self) -> dict[int, list[int]]:
        """The places of all entries that are listed or cited, by epoch."""
        found: dict[int, set[int]] = {epoch: set() for epoch in self.scope.checkpoints}
        for section in self.sections:
            for one in section.listed:
                found[one.epoch].add(one.leaf_index)
        for receipt in self.receipts.values():
            found[receipt.epoch].add(receipt.leaf_index)
        return {epoch: sorted(indexes) for epoch, indexes in found.items() if indexes}


async def summarise(
    session: AsyncSession,
    *,
    fleet: str | None,
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> Summary:
    """Return the numbers of a period. Raises: as `open_scope`."""
    scope = await open_scope(session, fleet=fleet, since=since, until=until, now=now)
    types = await count_types(session, scope)
    times = await measure_revocations(session, scope, types)
    return Summary(scope=scope, numbers=sum_up(types), revocation_times=times, types=types)


async def make_report(
    session: AsyncSession,
    *,
    fleet: str | None,
    since: datetime | None,
    until: datetime | None,
    trust_domain: str,
    caller: Caller,
    now: datetime,
) -> Report:
    """Return a report, and write down that it was handed out. Raises: as `open_scope`."""
    summary = await summarise(session, fleet=fleet, since=since, until=until, now=now)
    scope = summary.scope
    sections = await list_sections(session, scope, summary.types)
    revoked = [one for part in sections if part.name == "revocations" for one in part.listed]
    actors = await count_actors(session, scope, summary.types)
    found, left_out = await list_deployments(session, scope)
    keys = {
        epoch: [str(key) for key in await list_verifier_keys(session, origin)]
        for epoch in scope.checkpoints
        for origin in [ledger_origin(trust_domain, epoch)]
    }
    report = Report(
        scope=scope,
        made_at=now,
        numbers=summary.numbers,
        revocation_times=summary.revocation_times,
        types=summary.types,
        sections=sections,
        receipts=await find_receipts(session, scope, revoked),
        actors=actors,
        running=await list_running(session, fleet),
        deployments=found,
        deployments_left_out=left_out,
        keys=keys,
        names=await _names(session, sections, actors, caller),
    )
    newest = scope.checkpoints[max(scope.checkpoints)]
    exported = ReportExported(
        by=caller.actor,
        fleet=fleet,
        epoch=newest.epoch,
        size=newest.tree_size,
        since=scope.since,
        until=scope.until,
        entries=sum(len(indexes) for indexes in report.listed_indexes().values()),
    )
    await ledger.record(session, exported, now=now)
    return report


async def _names(
    session: AsyncSession,
    sections: Sequence[Section],
    actors: Sequence[ActorCount],
    caller: Caller,
) -> dict[Thing, str]:
    """What things and people are called, as far as the reader may see that; never an address."""
    things = {(one.kind, one.id) for one in actors}
    for one in (one for section in sections for one in section.listed):
        things |= {(one.actor_kind, one.actor_id), (one.subject_kind, one.subject_id)}
    allowed = {kind for kind, permission in _OPEN_KINDS.items() if caller.may(permission)}
    names = await find_names(session, [thing for thing in things if thing[0] in allowed])
    if caller.may(Permission.USERS_ADMIN):
        ids = [_uuid(id) for kind, id in things if kind == "user"]
        known = sa.select(users.c.id, users.c.name).where(users.c.id.in_([id for id in ids if id]))
        names |= {("user", str(row.id)): row.name for row in await session.execute(known)}
    return names


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
