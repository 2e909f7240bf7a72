"""Bands of compliance: which reason puts an agent where, and the fleets told by them; pure.

Until trust is judged by signals, what decides is presence, the certificate, and what the ledger
says of the agent in the last seven days.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

import msgspec

from tensorguard.store.standing import REASONS, Reason

Band = Literal["revoked", "at-risk", "attention", "compliant"]
BANDS: Final[Sequence[Band]] = get_args(Band)
"""The gravest first."""

BAND_OF: Final[Mapping[Reason, Band]] = {
    "revoked": "revoked",
    "decryption-failed": "at-risk",
    "signature-refused": "at-risk",
    "policy-violation": "at-risk",
    "operation-denied": "at-risk",
    "conflicting-events": "at-risk",
    "low-trust": "at-risk",
    "certificate-expired": "attention",
    "certificate-ends-soon": "attention",
    "offline": "attention",
    "never-seen": "attention",
    "flooding": "attention",
    "unreadable-messages": "attention",
    "late": "compliant",
    "online": "compliant",
}


class ReasonCount(msgspec.Struct, frozen=True):
    """How many agents of a fleet have a reason."""

    reason: Reason
    agents: int


class BandCount(msgspec.Struct, frozen=True):
    """How many agents of a fleet are in a band, and why; the gravest reason first."""

    band: Band
    agents: int
    reasons: Sequence[ReasonCount]


class FleetStanding(msgspec.Struct, frozen=True):
    """How the agents of a fleet stand; the gravest band first, none that is empty."""

    fleet: str
    name: str
    agents: int
    bands: Sequence[BandCount]


def reasons_of(wanted: Band | Reason) -> list[Reason]:
    """Return the reasons of a band, or the one reason that was named."""
    # `revoked` is both, and means the same agents either way.
    return [reason for reason in REASONS if wanted in (reason, BAND_OF[reason])]


def tell_fleets(counts: Iterable[tuple[str, str, Reason, int]]) -> list[FleetStanding]:
    """Return fleets by bands and reasons, that with the most agents first."""
    found: dict[str, Counter[Reason]] = defaultdict(Counter)
    names: dict[str, str] = {}
    for fleet, name, reason, agents in counts:
        names[fleet] = name
        found[fleet][reason] += agents
    told = [
        FleetStanding(fleet, names[fleet], reasons.total(), tell_bands(reasons))
        for fleet, reasons in found.items()
    ]
    return sorted(told, key=lambda one: (-one.agents, one.fleet))


def tell_all(fleets: Iterable[FleetStanding]) -> list[BandCount]:
    """Return the bands and reasons of all these fleets together."""
    counts: Counter[Reason] = Counter()
    for fleet in fleets:
        for one in (one for band in fleet.bands for one in band.reasons):
            counts[one.reason] += one.agents
    return tell_bands(counts)


def tell_bands(counts: Mapping[Reason, int]) -> list[BandCount]:
    """Return counts of reasons by bands, the gravest first; what has none is left out."""
    bands = []
    for band in BANDS:
        reasons = [
            ReasonCount(reason, counts[reason])
            for reason in REASONS
            if BAND_OF[reason] == band and counts.get(reason)
        ]
        if reasons:
            bands.append(BandCount(band, sum(one.agents for one in reasons), reasons))
    return bands
