"""Simulated trouble: by fixed odds per phase and version, and the same each time."""

from pathlib import Path
from typing import Any

import pytest

from agent.core.settings import Telemetry
from simulators.behaviour import NOTHING, Behaviour, Fault, Phase, draw, read_behaviour, regress
from simulators.behaviour import Regression as Worse
from simulators.errors import BadBehaviour

AGENTS = range(2000)
SAMPLE = Telemetry(cpu_percent=50.0, memory_percent=40.0, disk_percent=30.0)


def behaviour(**fault: Any) -> Behaviour:
    return Behaviour(faults=(Fault(phase=Phase.ACTIVATE, **fault),))


def failing(one: Behaviour, *, version: str = "2.0.1", seed: int = 1) -> set[int]:
    lots = {
        agent: draw(one, Phase.ACTIVATE, version=version, seed=seed, agent=agent)
        for agent in AGENTS
    }
    return {agent for agent, lot in lots.items() if lot.fail == "out of memory"}


def test_as_many_agents_fail_as_the_odds_say_and_always_the_same_ones() -> None:
    one = behaviour(version="2.0.*", fail=0.3, reason="out of memory")
    found = failing(one)
    assert abs(len(found) / len(AGENTS) - 0.3) < 0.05
    assert failing(one) == found
    assert failing(one, seed=2) != found
    assert failing(one, version="2.0.2") not in (found, set())
    assert failing(one, version="2.1.0") == set()


@pytest.mark.parametrize(
    ("odds", "expected"),
    [
        ({"slow": 1.0, "slow_s": 7.0}, ("slow_s", 7.0)),
        ({"offline": 1.0, "offline_s": 9.0}, ("offline_s", 9.0)),
        ({"crash": 1.0}, ("crash", True)),
        ({"dark": 1.0}, ("dark", True)),
        ({"cut": 1.0}, ("cut", True)),
        ({"fail": 1.0}, ("fail", "simulated failure")),
    ],
)
def test_what_is_certain_happens_in_its_phase_and_nothing_else_does(
    odds: dict[str, float], expected: tuple[str, Any]
) -> None:
    one = behaviour(**odds)
    lot = draw(one, Phase.ACTIVATE, version="1.0.0", seed=1, agent=5)
    name, value = expected
    assert getattr(lot, name) == value
    others = {"fail", "slow_s", "offline_s", "crash", "dark", "cut"} - {name}
    assert all(getattr(lot, other) == getattr(NOTHING, other) for other in others)
    assert draw(one, Phase.DOWNLOAD, version="1.0.0", seed=1, agent=5) == NOTHING


def test_figures_get_worse_by_version_and_percentages_stay_ones() -> None:
    one = Behaviour(
        regressions=(
            Worse(metric="cpu_percent", version="2.*", factor=1.4),
            Worse(metric="memory_percent", version="2.*", add=90.0),
            Worse(metric="latency_ms", add=12.5),
        )
    )
    worse, same = regress(one, SAMPLE, "2.0.0"), regress(one, SAMPLE, "1.0.0")
    assert (worse.cpu_percent, worse.memory_percent, worse.disk_percent) == (70.0, 100.0, 30.0)
    assert (same.cpu_percent, same.memory_percent) == (50.0, 40.0)
    assert worse.metrics == same.metrics == {"latency_ms": 12.5}
    assert regress(one, SAMPLE, None) == SAMPLE


def test_a_file_is_read_and_a_wrong_one_says_where(tmp_path: Path) -> None:
    file = tmp_path / "behaviour.json"
    file.write_text('{"faults": [{"phase": "running", "version": "2.*", "dark": 0.3}]}')
    assert read_behaviour(file).faults == (Fault(phase=Phase.RUNNING, version="2.*", dark=0.3),)
    file.write_text('{"faults": [{"phase": "running", "dark": 1.3}]}')
    with pytest.raises(BadBehaviour, match=r"\$\.faults\[0\]\.dark"):
        read_behaviour(file)
    with pytest.raises(BadBehaviour, match=r"missing\.json"):
        read_behaviour(tmp_path / "missing.json")
