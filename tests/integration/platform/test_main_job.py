"""The main job: a real model, built, signed, uploaded, released, and run on every agent."""

import secrets
import time
from functools import partial
from pathlib import Path

import pytest

from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import RealAgent, Simulator
from tests.integration.platform.publishing import Publisher, magika_model
from tests.integration.platform.running import RunningPlatform
from tests.integration.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

SIMULATED = [50, pytest.param(200, marks=pytest.mark.deep)]


@pytest.mark.parametrize("simulated", SIMULATED)
def test_a_real_agent_and_simulated_ones_in_two_fleets_get_a_model_and_run_it(
    simulated: int, platform: RunningPlatform, operator: Operator, tmp_path: Path
) -> None:
    here, there = (f"{name}-{secrets.token_hex(3)}" for name in ("lab", "field"))
    for fleet in (here, there):
        operator.create_fleet(fleet)
    half = simulated // 2
    with (
        RealAgent(tmp_path / "real", operator.mint(here)) as real,
        Simulator(tmp_path / "here", operator, here, half) as near,
        Simulator(tmp_path / "there", operator, there, simulated - half) as far,
    ):
        operator.wait_online(here, half + 1, within_s=90)
        operator.wait_online(there, simulated - half, within_s=90)

        publisher = Publisher(platform, operator, tmp_path / "publisher")
        release = publisher.release(magika_model())
        began = time.monotonic()
        deployment = operator.deploy(release["id"], here, there)
        done = operator.wait_deployed(deployment["id"], within_s=150)
        print(f"deployed to {simulated + 1} agents in {time.monotonic() - began:.1f} s")
        assert (done["state"], done["counts"]) == ("completed", {"succeeded": simulated + 1})

        digest = release["package_digest"]
        for fleet, count in ((here, half + 1), (there, simulated - half)):
            running = [agent["package"] for agent in operator.agents(fleet)]
            assert [package["digest"] for package in running] == [digest] * count

        inference = operator.wait_entry("agent.reported.model.inference", subject=real.agent_id)
        reported = inference["details"]["reported"]
        assert reported["engine"].startswith("onnxruntime")
        assert reported["model"] == "model.onnx"
        assert inference["actor"] == {"kind": "agent", "id": real.agent_id}
        assert real.status()["package"]["digest"] == digest
        current = real.state_dir / "current" / "model.onnx"
        assert current.read_bytes() == magika_model().read_bytes()

        agents = {agent["id"] for fleet in (here, there) for agent in operator.agents(fleet)}
        for type_ in ("grant.issued", "agent.reported.model.decrypted"):
            wait_until(
                partial(_all_have, operator, type_, agents), f"{type_} of every agent in the ledger"
            )
        assert operator.verify_ledger().size > 3 * simulated
        for simulator in (near, far):
            summary = simulator.finish()
            assert (summary["lost"], summary["not_drained"]) == (0, 0)
        assert real.stop() == 0


def _all_have(operator: Operator, type_: str, agents: set[str]) -> bool:
    return agents <= {entry["subject"]["id"] for entry in operator.entries(type=type_)}
