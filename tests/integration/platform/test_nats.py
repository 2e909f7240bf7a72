"""The whole platform on a NATS server: its own, or one that somebody else keeps."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tensorguard.cli.database import find_database_url
from tests.integration.platform.conftest import operator_of
from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import RealAgent, Simulator
from tests.integration.platform.publishing import Publisher, magika_model
from tests.integration.platform.running import (
    RunningPlatform,
    clean_environment,
    command,
    tensorguard,
)
from tests.integration.platform.waiting import wait_until
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.timeout(300)

NewPlatform = Callable[[], RunningPlatform]
SIMULATED = 6


def test_agents_join_run_a_model_and_one_is_revoked_on_nats(
    new_platform: NewPlatform, tmp_path: Path
) -> None:
    platform = new_platform()
    platform.start(*platform.addresses.nats_options())
    print(f"first start on NATS: ready after {platform.ready_after_s:.1f} s")
    operator = operator_of(platform)
    operator.create_fleet("lab")
    device = Device(tmp_path / "device")
    assert device.enroll(operator.mint("lab")).status_code == 201
    with (
        RealAgent(tmp_path / "real", operator.mint("lab")) as real,
        Simulator(tmp_path / "sim", operator, "lab", SIMULATED, events_per_minute=30) as simulator,
    ):
        operator.wait_online("lab", SIMULATED + 1, within_s=90)
        release = Publisher(platform, operator, tmp_path / "publisher").release(magika_model())
        with device.session() as session:
            session.publish("heartbeat", device.heartbeat())
            operator.wait_online("lab", SIMULATED + 2)
            began = time.monotonic()
            receipt = operator.post(f"agents/{device.agent_id}/revoke", {"reason": "stolen"})
            session.ends.get(timeout=PATIENCE_S)
            print(f"revoked and out after {(time.monotonic() - began) * 1000:.0f} ms")
            assert receipt["state"] == "complete"
            assert receipt["fronts"][0]["disconnected"] == 1
        deployment = operator.deploy(release["id"], "lab")
        done = operator.wait_deployed(deployment["id"], within_s=120)
        assert (done["state"], done["counts"]) == ("completed", {"succeeded": SIMULATED + 1})
        assert real.status()["package"]["digest"] == release["package_digest"]

        summary = simulator.finish()
        assert (summary["lost"], summary["not_drained"]) == (0, 0)
    operator.verify_ledger()
    platform.stop()


def test_the_engine_is_remembered_and_may_be_changed_and_agents_come_back(
    new_platform: NewPlatform, tmp_path: Path
) -> None:
    platform = new_platform()
    platform.start(*platform.addresses.options())
    operator = operator_of(platform)
    operator.create_fleet("lab")
    device = Device(tmp_path / "device")
    assert device.enroll(operator.mint("lab")).status_code == 201
    comes_back(platform, operator, device, "on the embedded engine")
    platform.stop()

    platform.start(*platform.addresses.nats_options())
    assert platform.find_service("nats") is not None
    comes_back(platform, operator, device, "on NATS")
    platform.kill_everything()

    platform.start()
    assert platform.find_service("nats") is not None
    comes_back(platform, operator, device, "after kill -9 of everything")
    platform.stop()

    platform.start("--engine", "embedded")
    assert platform.find_service("nats") is None
    comes_back(platform, operator, device, "on the embedded engine again")
    changes = [one for one in platform.log_records() if one.get("event") == "engine_changed"]
    assert [one["now"] for one in changes] == ["nats", "embedded"]
    operator.verify_ledger()
    platform.stop()


def comes_back(platform: RunningPlatform, operator: Operator, device: Device, where: str) -> None:
    """A device connects and is heard."""
    print(f"{where}: ready after {platform.ready_after_s:.1f} s")
    device.boot()
    with device.session() as session:
        session.publish("heartbeat", device.heartbeat())
        operator.wait_online("lab", 1)


def test_a_server_of_somebody_else_is_waited_for_and_used(
    new_platform: NewPlatform, tmp_path: Path
) -> None:
    platform = new_platform()
    keys = tmp_path / "keys.json"
    assert tensorguard("broker", "nats-keys", "--out", str(keys)).returncode == 0
    known = {
        "TG_NATS_URL": f"tls://{platform.addresses.nats}",
        "TG_NATS_KEYS": str(keys),
        "TG_MQTT": platform.addresses.mqtt,
    }
    platform.launch(*platform.addresses.nats_options(), **known)
    awaited = lambda: [  # noqa: E731  read right here
        one for one in platform.log_records() if one.get("event") == "nats_node_awaited"
    ]
    wait_until(awaited, "up says that the node is awaited")
    assert "nats-config" in awaited()[0]["hint"]
    environment = clean_environment() | known
    environment |= {
        "TG_DATABASE_URL": find_database_url(platform.data),
        "TG_NATS_DATA": str(tmp_path / "node"),
        "TG_NATS_LISTEN": platform.addresses.nats,
    }
    node = subprocess.Popen(command("broker", "nats-server"), env=environment)
    try:
        platform.wait_ready()
        assert platform.find_service("nats") is None
        operator = operator_of(platform)
        operator.create_fleet("lab")
        with Simulator(tmp_path / "sim", operator, "lab", 2):
            operator.wait_online("lab", 2)
        platform.stop()
    finally:
        node.terminate()
        assert node.wait(PATIENCE_S) == 0


def test_keys_that_are_not_named_and_an_engine_that_contradicts_are_refused(
    new_platform: NewPlatform,
) -> None:
    platform = new_platform()
    for settings, options, told in (
        ({"TG_NATS_URL": "tls://127.0.0.1:1"}, ("--engine", "nats"), "TG_NATS_KEYS"),
        ({"TG_NATS_URL": "tls://127.0.0.1:1", "TG_NATS_KEYS": "k"}, (), "--engine nats"),
    ):
        done = subprocess.run(
            command("up", "--data-dir", str(platform.data), *options, "--json"),
            env=clean_environment() | settings,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
        assert error["code"] == "bad-settings"
        assert told in error["message"] + error["hint"]
