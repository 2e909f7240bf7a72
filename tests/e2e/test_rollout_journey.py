"""What people do with a deployment in stages, done in a real browser against a whole platform."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.publishing import Publisher
from tests.integration.platform.running import RunningPlatform

pytestmark = pytest.mark.timeout(400)
Journey = Callable[..., dict[str, Any]]
AGENTS, CANARY = 10, 2
GOOD, FAILING = "1.0.1", "1.0.2"
BEHAVIOUR = {
    "faults": [{"phase": "activate", "version": FAILING, "fail": 1.0, "reason": "out of memory"}]
}


@dataclass(frozen=True)
class Site:
    """A fleet that runs the good version, and a release that it cannot activate."""

    fleet: str
    agents: list[str]
    releases: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def site(
    platform: RunningPlatform, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rollout")
    fleet = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(fleet)
    operator.create_fleet(f"other-{fleet}")  # an only one would be chosen already
    publisher = Publisher(platform, operator, folder / "publisher")
    with Simulator(folder / "sims", operator, fleet, AGENTS, behaviour=BEHAVIOUR):
        releases = {}
        for version in (GOOD, FAILING):
            source = folder / f"{version}.bin"
            source.write_bytes(secrets.token_bytes(1000))
            releases[version] = publisher.release(source)
        agents = [one["id"] for one in operator.wait_online(fleet, AGENTS)]
        operator.wait_deployed(operator.deploy(releases[GOOD]["id"], fleet)["id"])
        yield Site(fleet, agents, releases)


def test_a_canary_that_goes_wrong_is_stopped_looked_into_and_rolled_back(
    journey: Journey, operator: Operator, site: Site
) -> None:
    agent = site.agents[0]
    planned = {"release_id": site.releases[GOOD]["id"], "fleets": [site.fleet], "start": False}
    journey(
        "rollout",
        patience_s=250,
        fleet=site.fleet,
        agents=AGENTS,
        canary=CANARY,
        previous=GOOD,
        releaseId=site.releases[FAILING]["id"],
        agentId=agent,
        planned=operator.post("deployments", planned)["id"],
    )
    agents = {one["id"]: one for one in operator.agents(site.fleet)}
    running = {one["package"]["digest"] for one in agents.values()}
    assert running == {site.releases[GOOD]["package_digest"]}
    assert agents[agent]["tags"] == {"gpu": "true"}
    entries = operator.entries(type="deployment.rolling-back")
    assert entries[-1]["details"]["reason"] == "It <b>eats</b> memory"


def test_the_pages_of_deployments_are_accessible_and_fit_a_narrow_screen(
    journey: Journey, operator: Operator, site: Site
) -> None:
    operator.post(f"agents/{site.agents[1]}/commands", {"kind": "diagnostics"})
    canary = {"percent": 20, "gate": {"soak_s": 600}}
    strategy = {"stages": [canary, {"percent": 100}]}
    failing = operator.deploy(site.releases[FAILING]["id"], site.fleet, strategy=strategy)["id"]
    operator.wait_deployment(failing, lambda found: bool(found["state"] == "paused"))
    draft = {"release_id": site.releases[GOOD]["id"], "fleets": [site.fleet], "start": False}
    planned = operator.post("deployments", draft)["id"]
    release = site.releases[FAILING]["id"]
    journey(
        "accessibility",
        patience_s=250,
        isAll=False,
        pages=[
            *(f"/deployments/{failing}", f"/deployments/{planned}", f"/releases/{release}"),
            *(f"/deployments/new?fleet={site.fleet}", f"/agents/{site.agents[1]}"),
        ],
        dialogs=[
            *([f"/deployments/{failing}", "Roll back"], [f"/deployments/{failing}", "Resume"]),
            [f"/releases/{release}", "Withdraw"],
        ],
    )
