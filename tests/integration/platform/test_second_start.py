"""Stopping and starting again: the same platform as before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.platform.conftest import operator_of
from tests.integration.platform.device import Device, fetch_ca
from tests.integration.platform.running import RunningPlatform
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.timeout(240)


def test_a_second_start_keeps_ports_ca_and_agents_and_tells_no_password(
    new_platform: Callable[[], RunningPlatform], tmp_path: Path
) -> None:
    platform = new_platform()
    first = platform.start()
    print(f"first start: ready after {platform.ready_after_s:.1f} s")
    assert first["admin"]["password"]
    operator = operator_of(platform)
    operator.create_fleet("kept")
    device, unused = Device(tmp_path / "device"), operator.mint("kept")
    assert device.enroll(operator.mint("kept")).status_code == 201
    ca = fetch_ca(platform.device_url)
    with device.session() as session:
        session.publish("heartbeat", device.heartbeat())
        operator.wait_online("kept", 1)
        platform.stop()
        assert session.ends.get(timeout=PATIENCE_S)

    second = platform.start("--trust-domain", "tensorguard.local")  # addresses are remembered
    print(f"second start: ready after {platform.ready_after_s:.1f} s")
    assert {key: second[key] for key in ("url", "device_url", "mqtt_url")} == {
        key: first[key] for key in ("url", "device_url", "mqtt_url")
    }
    assert second["admin"] == {"email": first["admin"]["email"]}
    assert first["admin"]["password"] not in json.dumps(second) + platform.log_tail(10_000)
    assert fetch_ca(platform.device_url) == ca
    device.boot()
    with device.session() as session:
        session.publish("heartbeat", device.heartbeat())
        (agent,) = operator.wait_online("kept", 1)
    assert agent["id"] == device.agent_id
    assert Device(tmp_path / "late").enroll(unused).status_code == 201
    operator.verify_ledger()
    platform.stop()
