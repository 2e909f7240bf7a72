"""A package opens in its time, where it is meant for, and never after a newer one."""

from datetime import timedelta
from typing import Any

import pytest

from tensorguard.tgsp.manifest import Target
from tensorguard.tgsp.target import SeqFloor
from tests.unit.tgsp.builders import NOW, NOW_S, Forge
from tests.unit.tgsp.refusals import refusal


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(-1, "not-yet-valid"), (0, None), (60, None), (61, "expired"), (10**9, "expired")],
)
def test_a_package_opens_inside_its_window_only(
    forge: Forge, seconds: int, code: str | None
) -> None:
    forge.build(not_after=NOW_S + 60)
    now = NOW + timedelta(seconds=seconds)
    if code is None:
        forge.open(now=now)
    else:
        assert refusal(forge, now=now) == code


def test_an_end_beyond_all_calendars_is_no_crash(forge: Forge) -> None:
    forge.build(not_before=2**63, not_after=2**64 - 1)
    assert refusal(forge) == "not-yet-valid"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"fleet": "factory-b"}, "wrong-fleet"),
        ({"fleet": None}, "wrong-fleet"),
        ({"matches": lambda selector: selector != "gpu=true"}, "selector-mismatch"),
        ({"matches": None}, "selector-mismatch"),
        ({"hardware": ["cpu"]}, "wrong-hardware"),
        ({"hardware": []}, "wrong-hardware"),
        ({"agent_version": "1.9.9"}, "agent-too-old"),
        ({"agent_version": "2.0.0-rc.1"}, "agent-too-old"),
        ({"agent_version": ""}, "agent-too-old"),
        ({}, None),
    ],
)
def test_a_package_opens_where_it_is_meant_for_only(
    forge: Forge, given: dict[str, Any], code: str | None
) -> None:
    target = Target(fleets=("hospital-a",), selector="gpu=true", hardware=("cuda", "rocm"))
    forge.build(target=target, min_agent="2.0.0")
    right: dict[str, Any] = {
        "fleet": "hospital-a",
        "matches": lambda selector: selector == "gpu=true",
        "hardware": ["cpu", "cuda"],
        "agent_version": "2.0.0",
    }
    if code is None:
        forge.open(**right)
    else:
        assert refusal(forge, **right | given) == code


def test_a_lower_seq_is_refused_unless_allowed(forge: Forge) -> None:
    built = forge.build(seq=7)
    assert refusal(forge, min_seq=SeqFloor(8)) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor(7)) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor(7, bytes(32))) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor.at_least(8)) == "seq-too-low"
    for number, floor in enumerate(
        [SeqFloor(), SeqFloor(6), SeqFloor(7, built.digest), SeqFloor.at_least(7)]
    ):
        forge.out = forge.folder / f"opened-{number}"
        forge.open(min_seq=floor)
    forge.out = forge.folder / "downgraded"
    forge.open(min_seq=SeqFloor(8), allow_downgrade=True)


def test_another_package_than_the_one_asked_for_is_refused(forge: Forge) -> None:
    forge.build()
    assert refusal(forge, digest=bytes(32)) == "wrong-package"
