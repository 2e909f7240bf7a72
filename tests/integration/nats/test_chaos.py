"""Three nodes, two hubs and many agents: what is left of their events when parts are killed."""

import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.integration.nats.machines import Machines, running_machines
from tests.integration.platform.programs import Simulator
from tests.integration.platform.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("nats-chaos"), pytest.mark.deep, pytest.mark.timeout(2400)]

AGENTS = int(os.environ.get("TG_TEST_CHAOS_AGENTS", "2000"))
POSTGRES_AWAY_S = float(os.environ.get("TG_TEST_CHAOS_POSTGRES_S", "60"))
FLEET = "chaos"
EventKey = tuple[str, str, int]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the database's user may pass through."""
    made = Path(tempfile.mkdtemp(prefix="tg-chaos-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@dataclass
class Mark:
    """A moment, and who has had an event acked since."""

    waiting: set[str]
    at: float = field(default_factory=time.monotonic)
    all_heard_after_s: float = 0.0

    def heard(self, agents: set[str]) -> None:
        if self.waiting:
            self.waiting -= agents
            self.all_heard_after_s = time.monotonic() - self.at


class Acks:
    """Watches the log of acked events grow: pauses of all together, and who is heard again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._grew_at = time.monotonic()
        self._pauses: list[tuple[float, float]] = []
        self._marks: list[Mark] = []
        self.agents: set[str] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def mark(self) -> Mark:
        """Begin to wait for everybody."""
        made = Mark(set(self.agents))
        self._marks.append(made)
        return made

    def longest_pause_s(self, since: float) -> float:
        return max((long for begun, long in self._pauses if begun + long > since), default=0.0)

    def _watch(self) -> None:
        while not self._ending.wait(0.1):
            heard = self._read()
            now = time.monotonic()
            if not heard:
                continue
            if now - self._grew_at > 1.0:
                self._pauses.append((self._grew_at, now - self._grew_at))
            self._grew_at = now
            self.agents |= heard
            for mark in self._marks:
                mark.heard(heard)

    def _read(self) -> set[str]:
        if not self._path.exists():
            return set()
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return {line.split()[0].decode() for line in whole.splitlines()}


def stored_events(machines: Machines) -> Counter[EventKey]:
    """How often each event stands in the ledger."""
    return Counter(
        (entry["actor"]["id"], entry["details"]["log_id"], entry["details"]["number"])
        for entry in machines.operator.entries(type="agent.reported", fleet=FLEET)
    )


def recover(name: str, acks: Acks, break_it: Callable[[], Mark]) -> None:
    """Break something, wait until every agent has had an event acked since, and say how long."""
    begun = time.monotonic()
    mark = break_it()
    wait_until(lambda: not mark.waiting, f"all agents are heard after: {name}", within_s=400)
    found = {
        "what": name,
        "all_heard_again_s": round(mark.all_heard_after_s, 1),
        "longest_pause_of_acks_s": round(acks.longest_pause_s(begun), 1),
    }
    print(json.dumps(found), flush=True)


def test_no_acked_event_is_lost_or_doubled_when_a_node_a_hub_and_the_database_are_killed(
    folder: Path,
) -> None:
    with running_machines(folder) as machines:
        print(f"load {os.getloadavg()[0]:.0f}", flush=True)
        operator, services = machines.operator, machines.services
        operator.create_fleet(FLEET, heartbeat_interval_s=30)
        began = time.monotonic()
        simulator = Simulator(
            folder / "sim",
            operator,
            FLEET,
            AGENTS,
            events_per_minute=4,
            interval="30s",
            drain="300s",
        )
        with simulator:
            acks = Acks(simulator.acked_log)
            wait_until(lambda: len(acks.agents) == AGENTS, "all are heard once", within_s=600)
            print(f"{AGENTS} agents heard after {time.monotonic() - began:.0f} s", flush=True)
            recover("nothing", acks, acks.mark)

            def kill(name: str) -> Mark:
                services[name].kill()
                mark = acks.mark()
                time.sleep(20)  # what is broken stays so for a while: that is the test
                services[name].start()
                return mark

            def database() -> Mark:
                machines.kill_postgres()
                time.sleep(POSTGRES_AWAY_S)
                machines.start_postgres()
                return acks.mark()

            recover("kill -9 of a node", acks, partial(kill, "nats-2"))
            recover("kill -9 of a hub", acks, partial(kill, "hub-1"))
            recover(f"kill -9 of PostgreSQL for {POSTGRES_AWAY_S:g} s", acks, database)
            acks.close()
            summary = simulator.finish(within_s=400)
        acked = simulator.acked()
        wait_until(
            lambda: set(acked) <= stored_events(machines).keys(), "every acked event", within_s=120
        )
        stored = stored_events(machines)
        figures = {
            "published": summary["published"],
            "acked": len(acked),
            "stored": len(stored),
            "lost": len(set(acked) - stored.keys()),
            "doubled": sum(count - 1 for count in stored.values()),
            "not_drained": summary["not_drained"],
            "repeated_by_agents": summary["duplicates"],
            "connects": summary["connects"],
        }
        print(json.dumps(figures), flush=True)
        assert len(acked) == len(set(acked))
        assert (figures["lost"], figures["doubled"], figures["not_drained"]) == (0, 0, 0)
        assert (summary["lost"], summary["rejected"]) == (0, 0)
        operator.verify_ledger()
