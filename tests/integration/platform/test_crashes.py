"""kill -9, of one service and of everything: what was acknowledged stays, nothing is damaged."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tensorguard.ledger.tree import Frontier, leaf_hash
from tests.integration.platform.conftest import operator_of
from tests.integration.platform.device import fetch_ca
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.running import RunningPlatform
from tests.integration.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(400)

AGENTS = [50, pytest.param(200, marks=pytest.mark.deep)]
NewPlatform = Callable[[], RunningPlatform]
EventKey = tuple[str, str, int]


def _simulator(
    directory: Path, operator: Operator, fleet: str, agents: int, *, drain: str = "120s"
) -> Simulator:
    return Simulator(directory, operator, fleet, agents, events_per_minute=40, drain=drain)


def _keep_going(simulator: Simulator, more: int) -> None:
    """Return when so many further events have been acked."""
    before = len(simulator.acked())
    wait_until(
        lambda: len(simulator.acked()) >= before + more,
        f"{more} more events are acked",
        within_s=120,
    )


def _reported(operator: Operator, fleet: str) -> Counter[EventKey]:
    """How often each event of a fleet's agents stands in the ledger."""
    return Counter(
        (entry["actor"]["id"], entry["details"]["log_id"], entry["details"]["number"])
        for entry in operator.entries(type="agent.reported", fleet=fleet)
    )


def _check_every_acked_event_is_there_once(
    operator: Operator, fleet: str, simulator: Simulator
) -> None:
    acked = simulator.acked()
    assert len(acked) == len(set(acked))
    wait_until(
        lambda: set(acked) <= _reported(operator, fleet).keys(),
        "every acked event in the ledger",
    )
    stored = _reported(operator, fleet)
    assert set(stored.values()) == {1}
    assert not operator.entries(type="events", fleet=fleet)


@pytest.mark.parametrize("agents", AGENTS)
def test_every_acked_event_is_in_the_ledger_once_after_kill_9_of_the_hub(
    agents: int, platform: RunningPlatform, operator: Operator, fleet: str, tmp_path: Path
) -> None:
    with _simulator(tmp_path, operator, fleet, agents) as simulator:
        operator.wait_online(fleet, agents, within_s=90)
        _keep_going(simulator, random.randint(agents // 2, 2 * agents))
        platform.kill_service("hub")
        _keep_going(simulator, agents)
        summary = simulator.finish()
    assert (summary["lost"], summary["not_drained"], summary["rejected"]) == (0, 0, 0)
    assert summary["acked"] == len(simulator.acked()) == summary["published"]
    _check_every_acked_event_is_there_once(operator, fleet, simulator)
    operator.verify_ledger()


@pytest.mark.parametrize("service", ["broker", "postgres", "api"])
def test_any_other_service_comes_back_after_kill_9_and_no_event_is_lost(
    service: str, platform: RunningPlatform, operator: Operator, fleet: str, tmp_path: Path
) -> None:
    with _simulator(tmp_path, operator, fleet, 10) as simulator:
        operator.wait_online(fleet, 10)
        _keep_going(simulator, 10)
        platform.kill_service(service)
        _keep_going(simulator, 10)
        wait_until(lambda: operator.is_ready(), "the API answers")
        operator.wait_online(fleet, 10)
        summary = simulator.finish()
    assert (summary["lost"], summary["not_drained"]) == (0, 0)
    _check_every_acked_event_is_there_once(operator, fleet, simulator)


@pytest.mark.parametrize("agents", AGENTS)
def test_everything_is_back_and_nothing_damaged_after_kill_9_of_everything_twice(
    agents: int, new_platform: NewPlatform, tmp_path: Path
) -> None:
    platform = new_platform()
    assert "password" in platform.start()["admin"]
    operator, fleet = operator_of(platform), "crashing"
    operator.create_fleet(fleet)
    ca = fetch_ca(platform.device_url)
    enrolled: set[str] = set()
    for _ in range(2):
        # Its own end comes with the platform's: who stays waits longer and longer to come back.
        with _simulator(tmp_path, operator, fleet, agents, drain="1s") as simulator:
            online = {agent["id"] for agent in operator.wait_online(fleet, agents, within_s=90)}
            assert online == (enrolled or online)
            enrolled = online
            _keep_going(simulator, random.randint(1, agents))
            before = operator.verify_ledger()
            _keep_going(simulator, random.randint(1, agents))
            platform.kill_everything()
            assert simulator.finish()["lost"] == 0
        assert "password" not in platform.start()["admin"]
        assert fetch_ca(platform.device_url) == ca
        assert operator.verify_ledger().size >= before.size
        assert _root_at(operator, before.size) == before.root
    with _simulator(tmp_path, operator, fleet, agents) as simulator:
        assert {one["id"] for one in operator.wait_online(fleet, agents)} == enrolled
        summary = simulator.finish()
    assert (summary["lost"], summary["not_drained"]) == (0, 0)
    assert {agent["id"] for agent in operator.agents(fleet)} == enrolled
    _check_every_acked_event_is_there_once(operator, fleet, simulator)
    operator.verify_ledger()
    platform.stop()


def _root_at(operator: Operator, size: int) -> bytes:
    """The root of the first entries: what an older checkpoint has to say."""
    tree = Frontier()
    for entry in operator.raw_entries(end=size):
        tree.append(leaf_hash(entry))
    assert tree.size == size
    return tree.root
