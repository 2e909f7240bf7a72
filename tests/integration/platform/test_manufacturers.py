"""Devices of a manufacturer join with what they left the factory with, and nothing of ours."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.integration.platform.device import Device, fetch_ca
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Program, run_mosquitto
from tests.integration.platform.running import (
    RunningPlatform,
    command,
    error_of,
    tensorguard,
)
from tests.integration.platform.second_person import SecondPerson
from tests.integration.platform.waiting import wait_until
from tests.manufacturer import MadeDevice, Manufacturer, openssl

Json = dict[str, Any]


@dataclass
class Line:
    """A maker's production line whose devices may join one fleet."""

    operator: Operator
    maker: Manufacturer
    fleet: str
    view: Json
    ca_path: Path

    @property
    def port(self) -> int:
        return int(self.view["enroll_url"].rpartition(":")[2])

    def ask(self, device: MadeDevice, request: Json, *, port: int | None = None) -> Json:
        """Ask as mosquitto does; the answer, or what mosquitto said as `failed`."""
        where = ("-h", "127.0.0.1", "-p", str(port or self.port), "--cafile", str(self.ca_path))
        status, said = run_mosquitto(
            [
                *("mosquitto_rr", "-V", "mqttv311", *where, "-i", device.client_id),
                *("--cert", str(device.certificate_path), "--key", str(device.key_path)),
                *("-t", device.up, "-e", device.down, "-q", "1", "-W", "20"),
                *("-m", json.dumps(request)),
            ]
        )
        answer: Json = json.loads(said) if status == 0 else {"status": "failed", "said": said}
        return answer

    def wait_believed(self, device: MadeDevice) -> None:
        """Active since a moment ago: the listener follows within a second or so."""
        wait_until(
            lambda: self.ask(device, {})["status"] == "refused", "the listener believes the maker"
        )


OpenLine = Callable[..., Line]


@pytest.fixture
def second(platform: RunningPlatform) -> SecondPerson:
    return SecondPerson(platform)


@pytest.fixture
def open_line(
    platform: RunningPlatform, operator: Operator, second: SecondPerson, fleet: str, tmp_path: Path
) -> Iterator[OpenLine]:
    """Register a new maker, prove it and have it approved."""
    opened: list[str] = []

    def register(**terms: Any) -> Line:
        maker = Manufacturer(tmp_path / f"maker-{len(opened)}")
        url = f"fleets/{fleet}/manufacturer-cas"
        known = {"name": "Acme", "certificate": maker.pem, "approval": "auto", "max_agents": 10}
        view = operator.post(url, known | terms)
        opened.append(f"{url}/{view['id']}")
        proof = {"certificate": maker.proof(view["challenge"])}
        approval = operator.post(f"{url}/{view['id']}/prove", proof)
        assert second.approve(approval["id"])["state"] == "approved"
        ca_path = tmp_path / "platform-ca.pem"
        ca_path.write_text(fetch_ca(platform.device_url))
        return Line(operator, maker, fleet, view, ca_path)

    yield register
    for url in opened:
        operator.http.delete(f"/api/v1/{url}")


def request_of(folder: Path) -> Json:
    """New operational keys and what a device says of itself, all by OpenSSL."""
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", folder / "op.key", "-out", folder / "op.csr", "-subj", "/CN=anything"),
    )
    encryption = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return {
        "csr": (folder / "op.csr").read_text(),
        "encryption_key": base64.b64encode(encryption).decode(),
        "name": "made by acme",
        "facts": {"os": "rtos"},
    }


def test_a_device_joins_with_mosquitto_and_openssl_alone_and_is_an_agent(
    open_line: OpenLine, operator: Operator, tmp_path: Path
) -> None:
    line = open_line(serials=["SN-1"], tags={"maker": "acme"})
    made = line.maker.device("SN-1")
    request = request_of(tmp_path)
    line.wait_believed(made)
    answer = line.ask(made, request)
    assert answer["status"] == "active", answer
    assert answer["fleet"] == line.fleet
    assert line.ask(made, request)["agent_id"] == answer["agent_id"]

    device = Device(tmp_path / "agent")
    device.fleet, device.agent_id = answer["fleet"], answer["agent_id"]
    (tmp_path / "agent.pem").write_text(answer["certificate"])
    message = tmp_path / "heartbeat.json"
    message.write_bytes(device.heartbeat())
    status, said = run_mosquitto(
        [
            *("mosquitto_pub", "-V", "mqttv311", "-h", answer["mqtt"]["host"]),
            *("-p", str(answer["mqtt"]["port"]), "--cafile", str(line.ca_path)),
            *("--cert", str(tmp_path / "agent.pem"), "--key", str(tmp_path / "op.key")),
            *("-i", answer["agent_id"], "-q", "1"),
            *("-t", device.up("heartbeat"), "-f", str(message)),
        ]
    )
    assert status == 0, said
    (agent,) = wait_until(
        lambda: [one for one in operator.agents(line.fleet) if one["last_heartbeat_at"]],
        "the heartbeat in the API",
    )
    assert (agent["id"], agent["tags"]) == (answer["agent_id"], {"maker": "acme"})
    detail = operator.get(f"agents/{agent['id']}")
    assert detail["enrolled_by"] == "mtls"

    # It has connected: once is once. And nobody else comes in by its number, or off the list.
    again = line.ask(made, request)
    assert (again["status"], again["code"]) == ("refused", "device-already-enrolled")
    twin = line.ask(line.maker.device("SN-1"), request_of(tmp_path))
    assert (twin["status"], twin["code"]) == ("refused", "device-already-enrolled")
    other = line.ask(line.maker.device("SN-2"), request_of(tmp_path))
    assert (other["status"], other["code"]) == ("refused", "device-serial-not-listed")
    broken = line.ask(made, {"name": "x"})
    assert (broken["status"], broken["code"]) == ("refused", "bad-message")
    assert len(operator.agents(line.fleet)) == 1
    entry = operator.wait_entry("agent.enrolled", subject=agent["id"])
    assert entry["details"]["manufacturer_ca_id"] == line.view["id"]


def test_the_agent_joins_by_a_pin_once_an_operator_has_approved_and_runs(
    open_line: OpenLine, operator: Operator, tmp_path: Path
) -> None:
    line = open_line(approval="manual")
    made = line.maker.device("SN-9")
    state = tmp_path / "state"
    options = (
        *("agent", "enroll-mtls", "--url", line.view["enroll_url"], "--state-dir", str(state)),
        *("--device-cert", str(made.certificate_path), "--device-key", str(made.key_path)),
        *("--no-wait", "--json"),
    )
    pin = ("--ca-pin", line.view["ca_pin"])
    line.wait_believed(made)
    wrong = tensorguard(*options, "--ca-pin", "0" * 64)
    assert error_of(wrong)["code"] == "pin-mismatch"
    assert error_of(tensorguard(*options, *pin))["code"] == "enrollment-pending"
    (waiting,) = operator.agents(line.fleet)
    assert waiting["status"] == "pending"
    assert operator.get(f"agents/{waiting['id']}")["device_serial"] == "SN-9"
    operator.post(f"agents/{waiting['id']}/approve", {})
    done = tensorguard(*options, *pin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agent_id"] == waiting["id"]
    run = command("agent", "run", "--state-dir", str(state))
    with Program(tmp_path, "agent", run):
        (online,) = operator.wait_online(line.fleet, 1)
        assert online["id"] == waiting["id"]
    home = json.loads((state / "identity.json").read_text())
    assert home["device_url"].startswith("https://")


def test_nobody_joins_whom_no_second_person_has_let_in(
    platform: RunningPlatform, operator: Operator, fleet: str, open_line: OpenLine, tmp_path: Path
) -> None:
    line = open_line()
    unproven = Manufacturer(tmp_path / "unproven")
    url = f"fleets/{fleet}/manufacturer-cas"
    terms = {"name": "B", "certificate": unproven.pem, "approval": "auto", "max_agents": 1}
    view = operator.post(url, terms)
    operator.post(f"{url}/{view['id']}/prove", {"certificate": unproven.proof(view["challenge"])})
    request = request_of(tmp_path)
    believed = line.maker.device()
    line.wait_believed(believed)
    assert line.ask(believed, request)["status"] == "active"
    assert line.ask(unproven.device(), request)["status"] == "failed"
    # And with the agents' listener no maker has anything to do.
    agents = platform.addresses.mqtt_port
    assert line.ask(line.maker.device(), request, port=agents)["status"] == "failed"
    operator.http.delete(f"/api/v1/{url}/{line.view['id']}")
    wait_until(
        lambda: line.ask(believed, request)["status"] == "failed", "the maker is believed no more"
    )
