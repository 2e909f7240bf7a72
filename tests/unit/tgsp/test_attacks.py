"""The attack table: what each attack is refused with, told at the end of the test run."""

from collections.abc import Callable

import pytest

from tests.unit.tgsp.attacks import ATTACKS, Attack
from tests.unit.tgsp.builders import Forge
from tests.unit.tgsp.refusals import refusal

Report = Callable[[str, object], None]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_with_its_code(
    forge: Forge, attack: Attack, record_property: Report
) -> None:
    opening = attack.mount(forge) or {}
    code = refusal(forge, **opening)
    record_property("TGSP attack", f"{attack.name} → {code}")
    assert code == attack.code


def test_every_attack_is_named_once() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
