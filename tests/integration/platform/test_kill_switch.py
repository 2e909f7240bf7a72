"""Revoking an agent: out at once, and no way back."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin
from uuid import uuid4

import httpx

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import mosquitto, run_mosquitto
from tests.integration.platform.publishing import Publisher
from tests.integration.platform.running import RunningPlatform, run_json
from tests.patience import PATIENCE_S

Enrolled = Callable[[], Device]


def test_a_revoked_agent_is_disconnected_and_refused_everywhere(
    platform: RunningPlatform,
    operator: Operator,
    fleet: str,
    enrolled: Enrolled,
    tmp_path: Path,
) -> None:
    device, bystander = enrolled(), enrolled()
    model = tmp_path / "model.bin"
    model.write_bytes(secrets.token_bytes(100_000))
    with device.session() as session, bystander.session() as other:
        for one in (session, other):
            one.publish("heartbeat", one.device.heartbeat())
        operator.wait_online(fleet, 2)
        release = Publisher(platform, operator, tmp_path / "publisher").release(model)
        deployment = operator.deploy(release["id"], fleet)
        desired = session.wait_for("desired")
        assert _download(device, desired["package"]["url"]).status_code == 206

        began = time.monotonic()
        receipt = operator.post(f"agents/{device.agent_id}/revoke", {"reason": "stolen"})
        session.ends.get(timeout=PATIENCE_S)
        print(f"revoked and disconnected after {(time.monotonic() - began) * 1000:.0f} ms")
        assert other.ends.empty()
        assert receipt["state"] == "complete"
        (front,) = receipt["fronts"]
        assert front["disconnected"] == 1
        print(f"receipt: disconnected after {front['took_ms']} ms")

        refused = _download(device, desired["package"]["url"])
        assert (refused.status_code, refused.json()["code"]) == (403, "download-refused")
        question = {
            "request_id": str(uuid4()),
            "package_digest": release["package_digest"],
            "deployment_id": deployment["id"],
        }
        status, said = run_mosquitto(
            mosquitto(
                *("mosquitto_pub", device, "-q", "1", "-t", device.up("key-request")),
                *("-m", str(question)),
            )
        )
        assert status != 0, said
        again = device.enroll(operator.mint(fleet))
        assert (again.status_code, again.json()["code"]) == (409, "key-already-enrolled")
        assert other.ends.empty()
    assert not operator.entries(type="grant.issued", subject=device.agent_id)
    for type_ in ("agent.revoked", "agent.revocation-confirmed"):
        entry = operator.wait_entry(type_, subject=device.agent_id)
        assert entry["fleet"] == fleet


def test_without_a_hub_the_agent_is_out_nevertheless_and_the_receipt_follows(
    platform: RunningPlatform, operator: Operator, enrolled: Enrolled
) -> None:
    device = enrolled()
    with device.session() as session:
        session.publish("heartbeat", device.heartbeat())
        hub = platform.service("hub")
        hub.suspend()
        try:
            began = time.monotonic()
            receipt = operator.post(f"agents/{device.agent_id}/revoke", {"reason": "stolen"})
            session.ends.get(timeout=PATIENCE_S)
            assert time.monotonic() - began < 5
            assert (receipt["state"], receipt["fronts"][0]["disconnected"]) == ("complete", 1)
            status, said = run_mosquitto(
                mosquitto("mosquitto_pub", device, "-t", device.up("heartbeat"), "-m", "{}")
            )
            assert status == 5, said
        finally:
            hub.resume()
    entry = operator.wait_entry("agent.revocation-confirmed", subject=device.agent_id)
    assert entry["details"]["disconnected"] == 1
    assert not operator.entries(type="agent.revocation-partial", subject=device.agent_id)


def test_a_fleet_takes_a_person_with_a_second_factor(operator: Operator, fleet: str) -> None:
    answer = operator.http.post(f"/api/v1/fleets/{fleet}/revoke", json={"reason": "breach"})
    assert (answer.status_code, answer.json()["code"]) == (403, "person-required")
    assert operator.get(f"fleets/{fleet}/revocations")["items"] == []


def test_the_command_line_revokes_an_agent_and_a_fleet_without_a_second_person(
    platform: RunningPlatform, operator: Operator, fleet: str, enrolled: Enrolled
) -> None:
    first, second, third = enrolled(), enrolled(), enrolled()
    options = ("--reason", "stolen", "--data-dir", str(platform.data))
    with first.session() as one, second.session() as two, third.session() as three:
        assert run_json("admin", "revoke", "agent", first.agent_id, *options)["seq"] > 0
        one.ends.get(timeout=PATIENCE_S)
        assert two.ends.empty()
        assert run_json("admin", "revoke", "fleet", fleet, *options)["agents"] == 2
        for session in (two, three):
            session.ends.get(timeout=PATIENCE_S)
    entry = operator.wait_entry("fleet.revocation-confirmed", subject=fleet)
    assert (entry["details"]["agents"], entry["details"]["disconnected"]) == (2, 2)
    (receipt,) = operator.get(f"fleets/{fleet}/revocations")["items"]
    assert (receipt["state"], receipt["revoked_by"]) == ("complete", "command-line")
    assert receipt["took_ms"] >= 0


def _download(device: Device, url: str) -> httpx.Response:
    """The first bytes of a package."""
    with device.https() as http:
        return http.get(urljoin(device.device_url, url), headers={"Range": "bytes=0-99"})
