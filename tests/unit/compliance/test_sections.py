"""Sections of a report: each type has its place, floods count as often as they say."""

from typing import get_args

import pytest

from tensorguard.protocol.messages import EventType
from tensorguard.services.compliance.sections import (
    COUNTING,
    ROUTINE,
    Part,
    TypeCount,
    section_of,
    sum_up,
)
from tensorguard.services.evidence.catalogue import list_event_types


def counted(
    type: str, entries: int, *, times: int | None = None, part: Part = "fleet"
) -> TypeCount:
    return TypeCount(
        type=type,
        outcome="success",
        part=part,
        entries=entries,
        times=entries if times is None else times,
        unsigned=1,
    )


@pytest.mark.parametrize(
    ("type", "section"),
    [
        ("agent.enrolled", "enrollment"),
        ("fleet.revoked", "revocations"),
        ("fleet.config-changed", "changes"),
        ("agent.reported.package.refused", "violations"),
        ("package.refused", "releases"),
        ("agent.reported.decryption.failed", "keys"),
        ("ledger.fork-seen", "violations"),
        ("ledger.exported", "other"),
        ("second-factor.failed", "sign-ins"),
        ("second-factor.reset", "changes"),
        ("sink.created", "changes"),
        ("agent.reported.model.inference", "other"),
        ("something.that-nobody-knows", "other"),
    ],
)
def test_the_longest_beginning_that_fits_decides(type: str, section: str) -> None:
    assert section_of(type) == section


def test_what_counts_and_what_is_routine_is_in_the_catalogue() -> None:
    reported = {f"agent.reported.{name}" for name in get_args(EventType)}
    known = {kind.TYPE: kind for kind in list_event_types()}
    assert reported | set(known) >= ROUTINE
    assert {name for name, kind in known.items() if "count" in kind.__struct_fields__} == COUNTING


def test_numbers_count_floods_as_often_as_they_say_and_keep_the_parts_apart() -> None:
    numbers = sum_up(
        [
            counted("agent.moved", 2),
            counted("agent.moved", 3, part="left"),
            counted("session.failed", 2, times=40, part="platform"),
            counted("agent.denied", 1, times=7),
            counted("kek.rotated", 1),
            counted("kek.rotated", 1, part="platform"),
            counted("agent.reported.model.inference", 100),
        ]
    )
    assert (numbers.moved_in, numbers.moved_away) == (2, 3)
    assert (numbers.sign_ins_failed, numbers.violations, numbers.kek_rotations) == (40, 7, 2)
    assert (numbers.entries, numbers.unsigned) == (110, 7)
