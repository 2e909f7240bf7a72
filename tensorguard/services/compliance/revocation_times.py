"""How long it took until every broker front had shut somebody out, over a period."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.compliance.listing import list_newest, took_ms
from tensorguard.services.compliance.period import Scope
from tensorguard.services.compliance.sections import TypeCount

MOST_MEASURED: Final = 5_000
"""The newest: it is their times that tell how the platform does now."""
CONFIRMED_TYPES: Final = ("agent.revocation-confirmed", "fleet.revocation-confirmed")


class RevocationTimes(msgspec.Struct, frozen=True, kw_only=True):
    """From order to receipt, of the `measured` newest receipts that came in the period.

    A receipt is complete once every front has answered: that of the slowest counts. A fleet's
    receipt is one. `left_out` receipts are older, or hold no times.
    """

    measured: int
    left_out: int
    median_ms: int | None
    p99_ms: int | None
    longest_ms: int | None


async def measure_revocations(
    session: AsyncSession, scope: Scope, counts: Iterable[TypeCount]
) -> RevocationTimes:
    """Return the times of a period's receipts."""
    there = sum(one.entries for one in counts if one.type in CONFIRMED_TYPES)
    found = await list_newest(session, scope, CONFIRMED_TYPES, MOST_MEASURED) if there else []
    return sum_up_times([took for one in found if (took := took_ms(one)) is not None], there)


def sum_up_times(times: Sequence[int], there: int) -> RevocationTimes:
    """Return times by rank: each figure is one that was measured. `there`: so many receipts."""
    ranked = sorted(times)
    return RevocationTimes(
        measured=len(ranked),
        left_out=there - len(ranked),
        median_ms=_within(ranked, 0.5),
        p99_ms=_within(ranked, 0.99),
        longest_ms=ranked[-1] if ranked else None,
    )


def _within(ranked: Sequence[int], share: float) -> int | None:
    """The time that so large a share took no longer than (nearest rank)."""
    return ranked[math.ceil(share * len(ranked)) - 1] if ranked else None
