"""What goes wrong over the whole platform: a clear error, an entry, and nothing half-written."""

import hashlib
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.platform.device import Device, read_join, write_join
from tests.integration.platform.impostor import Impostor
from tests.integration.platform.operator import Operator
from tests.integration.platform.publishing import TGSP, Publisher
from tests.integration.platform.running import (
    RunningPlatform,
    clean_environment,
    error_of,
    free_ports,
    run_json,
    tensorguard,
)
from tests.integration.platform.waiting import wait_until
from tests.patience import PATIENCE_S

Enrolled = Callable[[], Device]


@dataclass(frozen=True)
class Package:
    """A package file, and where in it the signature and the encrypted payload begin."""

    name: str
    digest: str
    content: bytes
    signature: int
    payload: int


def _enroll(join: str, state: Path) -> subprocess.CompletedProcess[str]:
    return tensorguard("agent", "enroll", join, "--state-dir", str(state), "--json")


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("cut off", "bad-join-string", "damaged or cut off"),
        ("unknown token", "enrollment-refused", "enrollment-token-unknown"),
        ("exhausted", "enrollment-refused", "enrollment-token-exhausted"),
        ("expired", "enrollment-refused", "enrollment-token-expired"),
        ("nobody there", "platform-unreachable", "127.0.0.1"),
    ],
)
def test_a_bad_join_string_says_what_to_do_and_stores_no_agent(
    how: str, code: str, says: str, operator: Operator, fleet: str, tmp_path: Path
) -> None:
    join = operator.mint(fleet, ttl_s=1 if how == "expired" else 600)
    parts = read_join(join)
    if how == "cut off":
        join = join[:-10]
    elif how == "unknown token":
        join = write_join(parts | {"token": secrets.token_urlsafe(32)})
    elif how == "exhausted":
        assert Device(tmp_path / "first").enroll(join).status_code == 201
    elif how == "nobody there":
        join = write_join(parts | {"url": f"https://127.0.0.1:{free_ports(1)[0]}"})
    elif how == "expired":
        wait_until(lambda: says in Device(tmp_path / secrets.token_hex(4)).enroll(join).text, says)
    before = operator.agents(fleet)
    error = error_of(_enroll(join, tmp_path / "agent"))
    assert error["code"] == code
    assert says in error["message"]
    assert error["hint"]
    assert operator.agents(fleet) == before
    assert error_of(
        tensorguard("agent", "status", "--state-dir", str(tmp_path / "agent"), "--json")
    )


def test_whoever_has_not_the_pinned_ca_never_sees_the_token(
    operator: Operator, fleet: str, tmp_path: Path
) -> None:
    parts = read_join(operator.mint(fleet))
    impostor = Impostor(tmp_path)
    with impostor.serving() as url:
        error = error_of(_enroll(write_join(parts | {"url": url}), tmp_path / "agent"))
    assert error["code"] == "pin-mismatch"
    assert [line for line in impostor.told if "HTTP/1.1" in line] == ["GET /device/v1/ca HTTP/1.1"]
    assert parts["token"] not in "".join(impostor.told)
    # The token was not used: the real platform takes it.
    assert Device(tmp_path / "device").enroll(write_join(parts)).status_code == 201


def test_a_taken_port_is_refused_and_its_holder_named(
    platform: RunningPlatform, tmp_path: Path
) -> None:
    http, device = (f"127.0.0.1:{port}" for port in free_ports(2))
    done = tensorguard(
        *("up", "--data-dir", str(tmp_path / "data"), "--http", http, "--device", device),
        *("--mqtt", platform.addresses.mqtt, "--json"),
    )
    error = error_of(done)
    assert error["code"] == "port-taken"
    assert platform.addresses.mqtt in error["message"]
    assert str(platform.service("broker").pid) in error["message"]
    assert not (tmp_path / "data" / "addresses.json").exists()


def test_a_second_platform_on_the_same_data_directory_is_refused(
    platform: RunningPlatform, operator: Operator
) -> None:
    error = error_of(tensorguard("up", "--data-dir", str(platform.data), "--json"))
    assert error["code"] == "already-running"
    assert operator.is_ready()


def test_a_database_that_is_not_there_is_named_with_what_to_check(tmp_path: Path) -> None:
    url = f"postgresql://tg_app@127.0.0.1:{free_ports(1)[0]}/tensorguard"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tensorguard.cli", "up", "--data-dir", str(tmp_path / "data")),
            *("--http", "127.0.0.1:0", "--device", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"),
            "--json",
        ],
        env=clean_environment() | {"TG_DATABASE_URL": url, "TG_DATABASE_OWNER_URL": url},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    error = error_of(done)
    assert error["code"] == "database-unreachable"
    assert "TG_DATABASE_URL" in error["hint"]


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("paho", ["agent", "status"], "agent"),
        ("amqtt", ["broker", "run"], "embedded"),
        ("fastapi", ["api", "run"], "server"),
    ],
)
def test_a_missing_extra_prints_the_command_that_installs_it(
    library: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None; "
        "from tensorguard.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=clean_environment() | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert library in done.stderr
    assert "pip install 'tensorguard-platform[" in done.stderr
    assert extra in done.stderr.split("[")[1].split("]")[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("heartbeat", b"\xff\x00 not json", "bad-message"),
        ("heartbeat", b"{}", "bad-message"),
        ("heartbeat", b'{"metrics": "' + b"x" * 9000 + b'"}', "message-too-large"),
        ("progress", b"[" * 50_000, "bad-message"),
        ("csr", b'{"request_id": 1}', "bad-message"),
    ],
    ids=["no json", "empty", "oversized", "deep", "wrong type"],
)
def test_a_bad_message_becomes_a_dead_letter_and_the_stream_goes_on(
    kind: str, payload: bytes, code: str, operator: Operator, fleet: str, enrolled: Enrolled
) -> None:
    device = enrolled()
    with device.session() as session:
        session.publish(kind, payload)
        session.publish("heartbeat", device.heartbeat(cpu_percent=42.5))
        (agent,) = operator.wait_online(fleet, 1)
        assert session.ends.empty()
    assert agent["cpu_percent"] == 42.5
    entry = operator.wait_entry("message.poisoned", subject=device.agent_id)
    assert (entry["details"]["kind"], entry["details"]["reason"]) == (kind, code)
    assert entry["outcome"] == "failure"


def test_a_packet_that_is_too_large_ends_its_connection_and_nobody_elses(
    operator: Operator, fleet: str, enrolled: Enrolled
) -> None:
    device, bystander = enrolled(), enrolled()
    with device.session() as session, bystander.session() as other:
        session.publish_to(device.up("event"), bytes(200_000), acked=False)
        session.ends.get(timeout=PATIENCE_S)
        other.publish("heartbeat", bystander.heartbeat())
        assert other.ends.empty()
        operator.wait_online(fleet, 1)
    entry = operator.wait_entry("agent.denied", subject=device.agent_id)
    assert entry["details"]["operation"] == "oversize"


def test_a_numbered_event_with_a_bad_body_is_recorded_and_acked(
    operator: Operator, enrolled: Enrolled
) -> None:
    device = enrolled()
    log_id = "01234567-89ab-4cde-8f01-23456789abcd"
    with device.session() as session:
        session.publish("event", {"log_id": log_id, "number": 1, "oldest": 1, "type": "no.such"})
        ack = session.wait_for("ack")
        assert (ack["log_id"], ack["through"]) == (log_id, 1)
    assert operator.wait_entry("event.malformed", subject=device.agent_id)["outcome"] == "failure"


@pytest.fixture(scope="module")
def package(
    platform: RunningPlatform, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    """A package by a publisher whom the platform believes, not uploaded yet."""
    directory = tmp_path_factory.mktemp("publisher")
    model = directory / "model.bin"
    model.write_bytes(secrets.token_bytes(200_000))
    publisher = Publisher(platform, operator, directory / "keys")
    file, digest = publisher.build(model)
    inspected = run_json("tgsp", "inspect", str(file))
    content = file.read_bytes()
    signature = content.index(bytes.fromhex(inspected["signatures"][0]["sig"]))
    return Package(publisher.package, digest, content, signature, inspected["payload_offset"])


@pytest.mark.parametrize("where", ["signature", "manifest", "payload", "cut off"])
def test_a_tampered_package_is_refused_and_nobody_ever_sees_it(
    where: str, platform: RunningPlatform, operator: Operator, package: Package
) -> None:
    content = bytearray(package.content)
    if where == "cut off":
        content = content[:-1000]
    else:
        places = {"signature": package.signature, "manifest": 200, "payload": package.payload + 500}
        content[places[where]] ^= 0x01
    stored = platform.data / "packages"
    before = {path for path in stored.rglob("*") if path.is_file()}
    answer = operator.http.post("/api/v1/packages", content=bytes(content), headers=TGSP)
    assert answer.status_code == 422, answer.text
    assert answer.json()["hint"]
    assert operator.http.get(f"/api/v1/packages/{package.digest}").status_code == 404
    assert not list(operator.pages("packages", name=package.name))
    assert {path for path in stored.rglob("*") if path.is_file()} == before
    wait_until(
        lambda: (
            operator.wait_entry("package.refused")["details"]["file_sha256"]
            == hashlib.sha256(content).hexdigest()
        ),
        "the refusal of this file in the ledger",
    )
    assert operator.wait_entry("package.refused")["details"]["reason"] == answer.json()["code"]


def test_the_same_package_whole_is_welcome(operator: Operator, package: Package) -> None:
    answer = operator.http.post("/api/v1/packages", content=package.content, headers=TGSP)
    assert (answer.status_code, answer.json()["digest"]) == (201, package.digest)
    assert [one["digest"] for one in operator.pages("packages", name=package.name)] == [
        package.digest
    ]
