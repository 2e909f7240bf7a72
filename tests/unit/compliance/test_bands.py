"""Bands of compliance: every reason has its band, the gravest first, and counts add up."""

from typing import get_args

import pytest

from tensorguard.protocol.messages import EventType
from tensorguard.services.compliance.bands import BAND_OF, BANDS, reasons_of, tell_all, tell_fleets
from tensorguard.services.evidence.catalogue import list_event_types
from tensorguard.store.standing import DEEDS, REASONS, Reason

COUNTS: list[tuple[str, str, Reason, int]] = [
    ("a", "Hospital A", "online", 5),
    ("a", "Hospital A", "offline", 2),
    ("a", "Hospital A", "decryption-failed", 1),
    ("b", "Factory B", "revoked", 30),
    ("b", "Factory B", "late", 1),
    ("b", "Factory B", "never-seen", 1),
]


def test_every_reason_has_a_band_and_a_graver_one_never_comes_after_a_lighter_one() -> None:
    assert set(BAND_OF) == set(REASONS)
    assert set(BAND_OF.values()) == set(BANDS)
    places = [BANDS.index(BAND_OF[reason]) for reason in REASONS]
    assert places == sorted(places)


def test_what_is_held_against_an_agent_are_entries_that_the_ledger_has() -> None:
    reported = {f"agent.reported.{name}" for name in get_args(EventType)}
    assert set(DEEDS) <= {kind.TYPE for kind in list_event_types()} | reported
    assert not {BAND_OF[reason] for reason in DEEDS.values()} & {"revoked", "compliant"}


@pytest.mark.parametrize(
    ("wanted", "reasons"),
    [
        ("revoked", ["revoked"]),
        ("compliant", ["late", "online"]),
        ("offline", ["offline"]),
        ("decryption-failed", ["decryption-failed"]),
    ],
)
def test_a_filter_names_a_band_or_one_reason(wanted: Reason, reasons: list[str]) -> None:
    assert reasons_of(wanted) == reasons


def test_fleets_are_told_by_bands_the_largest_first_and_nothing_is_lost() -> None:
    factory, hospital = tell_fleets(COUNTS)
    assert (factory.fleet, factory.name, factory.agents) == ("b", "Factory B", 32)
    assert [(band.band, band.agents) for band in factory.bands] == [
        ("revoked", 30),
        ("attention", 1),
        ("compliant", 1),
    ]
    assert [(band.band, band.agents) for band in hospital.bands] == [
        ("at-risk", 1),
        ("attention", 2),
        ("compliant", 5),
    ]
    whole = {band.band: band.agents for band in tell_all([factory, hospital])}
    assert whole == {"revoked": 30, "at-risk": 1, "attention": 3, "compliant": 6}
    assert tell_fleets([]) == tell_all([]) == []
