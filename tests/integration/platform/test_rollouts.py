"""Deployments in stages with simulated agents that misbehave: what stops, and what goes on."""

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.publishing import Publisher
from tests.integration.platform.running import RunningPlatform
from tests.integration.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

Json = dict[str, Any]
AWAY = [(8, 4), pytest.param(400, 100, marks=pytest.mark.deep)]
PACKAGE_BYTES = 300_000
GOOD, FAILING, COSTLY, DARK = "1.0.1", "1.0.2", "1.0.3", "1.0.4"
BEHAVIOUR = {
    "faults": [
        {"phase": "download", "version": GOOD, "cut": 0.3},
        {"phase": "activate", "version": FAILING, "fail": 0.3, "reason": "out of memory"},
        {"phase": "running", "version": DARK, "dark": 0.3},
    ],
    "regressions": [
        {"metric": "cpu_percent", "factor": 0, "add": 50},
        {"metric": "cpu_percent", "version": COSTLY, "factor": 1.4},
        {"metric": "latency_ms", "add": 20},
        {"metric": "latency_ms", "version": COSTLY, "factor": 2},
    ],
}
METRICS = [
    {"metric": "metrics.latency_ms", "max_difference": 10, "min_agents": 5},
    {"metric": "cpu_percent", "max_change": 0.2, "min_agents": 5},
    {"metric": "trust", "max_difference": 10, "min_agents": 5},
]


def canary(percent: int, *, on_pass: str = "advance", **gate: Any) -> Json:
    """A strategy with one stage before everybody."""
    first = {"percent": percent, "on_pass": on_pass, "gate": {"soak_s": 1} | gate}
    return {"stages": [first, {"percent": 100}]}


def resumed_downloads(platform: RunningPlatform) -> int:
    """How many downloads were taken up where an earlier try had ended."""
    return sum(
        record.get("route") == "/device/v1/packages/{digest}" and record["status"] == 206
        for record in platform.log_records()
    )


@dataclass
class Site:
    """A fleet of simulated agents that go wrong by version, and who gives them releases."""

    operator: Operator
    fleet: str
    agents: int
    publisher: Publisher
    folder: Path
    releases: dict[str, Json] = field(default_factory=dict)

    def deploy(self, version: str, strategy: Json) -> Json:
        """Start a deployment of this version; those before it are built, too."""
        for number in range(len(self.releases) + 1, int(version.rpartition(".")[2]) + 1):
            source = self.folder / f"{number}.bin"
            source.write_bytes(secrets.token_bytes(PACKAGE_BYTES))
            self.releases[f"1.0.{number}"] = self.publisher.release(source)
        release = self.releases[version]
        return self.operator.deploy(release["id"], self.fleet, strategy=strategy)

    def wait_state(self, deployment: Json, state: str, *, within_s: float = 90.0) -> Json:
        return self.operator.wait_deployment(
            deployment["id"], lambda found: bool(found["state"] == state), within_s=within_s
        )

    def running(self) -> Counter[str]:
        """How many agents have said in their newest heartbeat that they run which version."""
        known = {one["package_digest"]: version for version, one in self.releases.items()}
        found = [agent["package"] for agent in self.operator.agents(self.fleet)]
        return Counter(known[one["digest"]] if one else "none" for one in found)

    def told(self, deployment: Json) -> set[str]:
        """Whoever was sent a document of the deployment."""
        rows = self.operator.pages(f"deployments/{deployment['id']}/agents")
        return {row["agent_id"] for row in rows if row["assigned_at"]}

    def oldest(self, count: int) -> set[str]:
        """Whoever enrolled first: agents' ids rise with the time."""
        return set(sorted(agent["id"] for agent in self.operator.agents(self.fleet))[:count])


@pytest.fixture(scope="module", params=[60, pytest.param(500, marks=pytest.mark.deep)])
def site(
    platform: RunningPlatform,
    operator: Operator,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rollouts")
    fleet = f"rollouts-{secrets.token_hex(3)}"
    operator.create_fleet(fleet)
    publisher = Publisher(platform, operator, folder / "publisher")
    # Who has gone dark never drains: it is not waited for until the end.
    with Simulator(
        folder / "sims", operator, fleet, request.param, behaviour=BEHAVIOUR, drain="20s"
    ):
        operator.wait_online(fleet, request.param, within_s=120)
        yield Site(operator, fleet, request.param, publisher, folder)


def test_a_canary_is_exact_and_bad_versions_end_at_it(
    site: Site, platform: RunningPlatform
) -> None:
    """In one test: what an agent runs decides with what a later version is compared."""
    everybody, tenth = site.agents, (site.agents + 9) // 10
    resumed = resumed_downloads(platform)
    deployment = site.deploy(GOOD, canary(10, on_pass="pause"))
    platform.kill_service("hub")
    passed = site.wait_state(deployment, "paused")
    assert passed["counts"] == {"succeeded": tenth, "pending": everybody - tenth}
    told = site.told(deployment)
    assert (passed["stages"][0]["agents"], len(told)) == (tenth, tenth)
    assert told != site.oldest(tenth)
    assert site.running() == {GOOD: tenth, "none": everybody - tenth}
    site.operator.post(f"deployments/{deployment['id']}/advance", {"reason": "it is good"})
    platform.kill_service("hub")
    done = site.operator.wait_deployed(deployment["id"], within_s=180)
    assert done["counts"] == {"succeeded": everybody}
    assert resumed_downloads(platform) - resumed > everybody // 10

    part = -(-everybody * 6 // 10)
    deployment = site.deploy(FAILING, canary(60) | {"on_failure": "rollback"})
    back = site.wait_state(deployment, "rolled_back")
    assert len(site.told(deployment)) == part
    assert back["rollback_counts"] == {"done": part}
    assert site.running() == {GOOD: everybody}
    (group,) = site.operator.get(f"deployments/{deployment['id']}/failures")["groups"]
    assert (group["state"], "out of memory" in group["reason"]) == ("failed", True)
    reason = site.operator.wait_entry("deployment.rolling-back", subject=deployment["id"])
    assert "failed, 5.0% may" in reason["details"]["reason"]

    deployment = site.deploy(COSTLY, canary(50, soak_s=6, metrics=METRICS))
    stopped = site.wait_state(deployment, "paused")
    assert "metrics.latency_ms is 40 against 20" in stopped["state_reason"]
    latency, cpu, trust = stopped["stages"][0]["verdict"]["metrics"]
    assert "cpu_percent is 70 against 50" in cpu["reason"]
    assert (latency["verdict"], cpu["verdict"], trust["verdict"]) == ("worse", "worse", "within")
    assert trust["reading"]["rest"] == {
        "mean": 100.0,
        "sent": everybody // 2,
        "asked": everybody // 2,
    }
    assert stopped["counts"] == {"succeeded": everybody // 2, "pending": everybody // 2}
    reason = "it costs too much"
    site.operator.post(f"deployments/{deployment['id']}/rollback", {"reason": reason})
    site.wait_state(deployment, "rolled_back")
    assert site.running() == {GOOD: everybody}


@pytest.mark.deep
def test_a_version_that_makes_agents_go_dark_ends_at_the_canary(site: Site) -> None:
    """It takes minutes: nobody is lost before two of them are over."""
    part = -(-site.agents * 6 // 10)
    deployment = site.deploy(DARK, canary(60, soak_s=300))
    stopped = site.wait_state(deployment, "paused", within_s=400)
    assert "failed, 5.0% may" in stopped["state_reason"]
    assert stopped["counts"]["pending"] == site.agents - part
    assert stopped["counts"]["failed"] + stopped["counts"].get("lost", 0) > part * 0.05


@pytest.mark.deep
def test_the_default_strategy_suits_a_fleet_of_thirteen_and_one_of_one(
    platform: RunningPlatform, operator: Operator, tmp_path: Path
) -> None:
    """Its soak takes five minutes."""
    publisher = Publisher(platform, operator, tmp_path / "publisher")
    source = tmp_path / "source.bin"
    source.write_bytes(secrets.token_bytes(1000))
    release = publisher.release(source)
    fleets = {f"small-{secrets.token_hex(3)}": agents for agents in (13, 1)}
    with ExitStack() as running:
        for fleet, agents in fleets.items():
            operator.create_fleet(fleet)
            running.enter_context(Simulator(tmp_path / fleet, operator, fleet, agents))
            operator.wait_online(fleet, agents)
        plan = {"release_id": release["id"]}
        started = {
            operator.post("deployments", plan | {"fleets": [fleet]})["id"]: agents
            for fleet, agents in fleets.items()
        }
        for deployment, agents in started.items():
            done = operator.wait_deployed(deployment, within_s=600)
            assert (done["state"], done["counts"]) == ("completed", {"succeeded": agents})
            assert done["stages"][0]["agents"] == -(-agents // 10)


@pytest.mark.parametrize(("here", "away"), AWAY)
def test_agents_that_were_away_get_it_when_they_return_and_never_moved_the_gate(
    here: int,
    away: int,
    platform: RunningPlatform,
    operator: Operator,
    fleet: str,
    tmp_path: Path,
) -> None:
    with Simulator(tmp_path / "here", operator, fleet, here):
        with Simulator(tmp_path / "away", operator, fleet, away) as leaving:
            operator.wait_online(fleet, here + away)
            leaving.finish()
        wait_until(
            lambda: Counter(one["presence"] for one in operator.agents(fleet))["offline"] == away,
            "those that left are offline",
        )
        publisher = Publisher(platform, operator, tmp_path / "publisher")
        site = Site(operator, fleet, here + away, publisher, tmp_path)
        deployment = site.deploy(GOOD, canary(50, min_reported=1))
        found = operator.wait_deployment(
            deployment["id"], lambda found: bool(found["counts"].get("succeeded") == here)
        )
        assert found["counts"] == {"succeeded": here, "pending": away}
        assert (found["state"], found["stage"]) == ("running", 1)
        verdict = found["stages"][0]["verdict"]
        assert (verdict["verdict"], verdict["failure"]) == ("passed", 0.0)
        with Simulator(tmp_path / "away", operator, fleet, away, name="again"):
            done = operator.wait_deployed(deployment["id"])
        assert (done["state"], done["counts"]) == ("completed", {"succeeded": here + away})
