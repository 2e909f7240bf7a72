"""What people do with a deployment in stages, done in a real browser against a whole platform."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Simulator
from tests.integration.platform.publishing import Publisher
from tests.integration.platform.running import RunningPlatform

pytestmark = pytest.mark.timeout(300)
AGENTS, CANARY = 10, 2
GOOD, FAILING = "1.0.1", "1.0.2"
BEHAVIOUR = {
    "faults": [{"phase": "activate", "version": FAILING, "fail": 1.0, "reason": "out of memory"}]
}


def test_a_canary_that_goes_wrong_is_stopped_looked_into_and_rolled_back(
    journey: Callable[..., dict[str, Any]],
    platform: RunningPlatform,
    operator: Operator,
    tmp_path: Path,
) -> None:
    fleet = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(fleet)
    operator.create_fleet(f"other-{fleet}")  # an only one would be chosen already
    publisher = Publisher(platform, operator, tmp_path / "publisher")
    with Simulator(tmp_path / "sims", operator, fleet, AGENTS, behaviour=BEHAVIOUR):
        releases = {}
        for version in (GOOD, FAILING):
            source = tmp_path / f"{version}.bin"
            source.write_bytes(secrets.token_bytes(1000))
            releases[version] = publisher.release(source)
        agents = operator.wait_online(fleet, AGENTS)
        operator.wait_deployed(operator.deploy(releases[GOOD]["id"], fleet)["id"])
        journey(
            "rollout",
            patience_s=250,
            fleet=fleet,
            agents=AGENTS,
            canary=CANARY,
            previous=GOOD,
            releaseId=releases[FAILING]["id"],
            agentId=agents[0]["id"],
        )
        running = {one["package"]["digest"] for one in operator.agents(fleet)}
    assert running == {releases[GOOD]["package_digest"]}
    (tagged,) = (one for one in operator.agents(fleet) if one["id"] == agents[0]["id"])
    assert tagged["tags"] == {"gpu": "true"}
    operator.wait_entry("deployment.rolled-back")
