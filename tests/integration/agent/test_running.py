"""The agent against a foreign broker and a foreign HTTP server, over real mutual TLS."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from agent.runtime.statedir import OUTBOX, StateDir
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol.messages import Heartbeat, KeyRequest, Progress
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.tgsp.manifest import Target
from tests.integration.agent import platform as platforms
from tests.integration.agent.conftest import RunningAgents
from tests.integration.agent.models import broken_model, relu_model
from tests.integration.agent.platform import Hub, Platform, leaf_of

AGENT_RUN = [sys.executable, "-m", "tensorguard.cli", "agent", "run"]


def runs(hub: Hub, agent_id: UUID, digest: str) -> Heartbeat:
    """Wait for a heartbeat that names the digest."""

    def found() -> Heartbeat | None:
        beats = hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)
        return next((b for b in reversed(beats) if b.package and b.package.digest == digest), None)

    beat = hub.wait(found)
    assert isinstance(beat, Heartbeat)
    return beat


def held(directory: StateDir) -> int:
    db = sqlite3.connect(directory.path / OUTBOX)
    try:
        count: int = db.execute("SELECT count(*) FROM events").fetchone()[0]
        return count
    finally:
        db.close()


def types(hub: Hub, agent_id: UUID) -> list[str]:
    return [event.type for event in hub.events_of(agent_id)]


def test_an_agent_beats_with_the_figures_of_this_machine(hub: Hub, agents: RunningAgents) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    hub.wait(lambda: len(hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)) >= 3)
    beats = hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)
    assert [beat.seq for beat in beats] == list(range(len(beats)))
    assert 0 < beats[-1].memory_percent < 100
    assert 0 < beats[-1].disk_percent <= 100
    hub.wait(lambda: "started" in types(hub, agent_id))


def test_a_model_is_downloaded_verified_decrypted_tried_and_reported(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    pytest.importorskip("onnxruntime")
    directory, agent_id = agents.enroll()
    agents.start(directory)
    package = platform.build({"model.onnx": relu_model(), "labels.txt": b"yes\nno\n"})
    desired = platform.desired(agent_id, package, revision=1)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    hub.wait_for_state(agent_id, "succeeded", desired.deployment_id)
    beat = runs(hub, agent_id, package.digest)
    assert beat.package is not None
    assert (beat.package.name, beat.package.version) == ("model", "1.0.0")
    current = directory.path / "current"
    assert (current / "model.onnx").read_bytes() == relu_model()
    assert (current / "labels.txt").read_bytes() == b"yes\nno\n"
    hub.wait(lambda: "model.inference" in types(hub, agent_id))
    inference = next(e for e in hub.events_of(agent_id) if e.type == "model.inference")
    assert inference.details["engine"].startswith("onnxruntime")
    assert inference.details["inputs"] == "x float32[1, 4]"
    assert isinstance(inference.details["ms"], int)
    dek = package.dek
    for path in directory.path.rglob("*"):
        if path.is_file():
            assert dek not in path.read_bytes(), f"the DEK is in {path.name}"


def test_a_download_waits_for_its_turn_and_is_taken_up_where_it_was_cut(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    package = platform.build({"weights.bin": bytes(range(256)) * 8000})
    platform.busy = 1
    platform.cut_after_bytes = 700_000
    desired = platform.desired(agent_id, package, revision=1)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    hub.wait_for_state(agent_id, "succeeded", desired.deployment_id)
    ranges = [one.range for one in platform.requests if "/packages/" in one.path]
    assert ranges == [None, None, "bytes=700000-"]


def test_a_tampered_package_is_refused_and_what_ran_stays(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    good = platform.build({"weights.bin": b"good"})
    hub.deploy(platform.desired(agent_id, good, revision=1))
    runs(hub, agent_id, good.digest)
    bad = platform.build({"weights.bin": b"better"}, version="2.0.0", seq=2)
    bad.data = bad.data[:-1] + bytes([bad.data[-1] ^ 1])
    desired = platform.desired(agent_id, bad, revision=2)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    failed = hub.wait_for_state(agent_id, "failed", desired.deployment_id)
    assert failed.reason is not None
    assert failed.reason.startswith("ciphertext-mismatch")
    hub.wait(lambda: "package.refused" in types(hub, agent_id))
    assert (directory.path / "current" / "weights.bin").read_bytes() == b"good"
    assert runs(hub, agent_id, good.digest).status in ("ok", "degraded")
    assert hub.of(agent_id, UpKind.KEY_REQUEST, KeyRequest)[-1].package_digest == good.digest


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"target": Target(fleets=("other",))}, "wrong-fleet"),
        ({"target": Target(selector="gpu=true")}, "selector-mismatch"),
        ({"target": Target(hardware=("cuda",))}, "wrong-hardware"),
        ({"min_agent": "99.0.0"}, "agent-too-old"),
    ],
)
def test_a_package_that_is_not_meant_for_this_agent_is_rejected(
    platform: Platform, hub: Hub, agents: RunningAgents, more: dict[str, object], code: str
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    desired = platform.desired(agent_id, platform.build({"a": b"1"}, **more), revision=1)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    rejected = hub.wait_for_state(agent_id, "rejected", desired.deployment_id)
    assert rejected.reason is not None
    assert rejected.reason.startswith(code)
    assert hub.of(agent_id, UpKind.KEY_REQUEST, KeyRequest) == []


def test_a_package_for_the_tags_of_this_agent_is_opened(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    package = platform.build({"a": b"1"}, target=Target(selector="gpu=true,!legacy"))
    hub.deploy(platform.desired(agent_id, package, revision=1, tags={"gpu": "true"}))
    runs(hub, agent_id, package.digest)


def test_a_lower_seq_is_rejected_unless_the_document_allows_exactly_that(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    new = platform.build({"w": b"new"}, version="2.0.0", seq=7)
    old = platform.build({"w": b"old"}, version="1.0.0", seq=6)
    hub.deploy(platform.desired(agent_id, new, revision=1))
    runs(hub, agent_id, new.digest)
    refused = platform.desired(agent_id, old, revision=2)
    hub.deploy(refused)
    assert refused.deployment_id is not None
    hub.wait_for_state(agent_id, "rejected", refused.deployment_id)
    hub.deploy(platform.desired(agent_id, old, revision=3, allow_downgrade=True))
    runs(hub, agent_id, old.digest)
    assert (directory.path / "current" / "w").read_bytes() == b"old"


def test_a_model_that_does_not_run_is_not_activated(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    pytest.importorskip("onnxruntime")
    directory, agent_id = agents.enroll()
    agents.start(directory)
    good = platform.build({"model.onnx": relu_model()})
    hub.deploy(platform.desired(agent_id, good, revision=1))
    runs(hub, agent_id, good.digest)
    bad = platform.build({"model.onnx": broken_model()}, version="1.1.0", seq=2)
    desired = platform.desired(agent_id, bad, revision=2)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    failed = hub.wait_for_state(agent_id, "failed", desired.deployment_id)
    assert failed.reason is not None
    assert failed.reason.startswith("inference-failed")
    hub.wait(lambda: "fell-back" in types(hub, agent_id))
    assert (directory.path / "current").resolve().name == good.digest


def test_what_the_health_check_of_its_command_line_refuses_is_taken_back(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    check = platform.folder / "check.sh"
    check.write_text('test -f "$TG_PACKAGE_DIR/ok" || { echo no; exit 4; }')
    options = ["--state-dir", str(directory.path), "--health-check", f"/bin/sh '{check}'"]
    process = subprocess.Popen([*AGENT_RUN, *options], stderr=subprocess.DEVNULL)
    try:
        good = platform.build({"ok": b"1", "w": b"1" * 1000})
        hub.deploy(platform.desired(agent_id, good, revision=1))
        runs(hub, agent_id, good.digest)
        bad = platform.build({"w": b"2" * 1000}, version="1.1.0", seq=2)
        desired = platform.desired(agent_id, bad, revision=2)
        hub.deploy(desired)
        assert desired.deployment_id is not None
        failed = hub.wait_for_state(agent_id, "failed", desired.deployment_id)
        assert failed.reason == "unhealthy: the health check ended with 4: no"
        hub.wait(lambda: "fell-back" in types(hub, agent_id))
        assert (directory.path / "current").resolve().name == good.digest
        seen = len(hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat))
        hub.wait(lambda: len(hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)) > seen)
        package = hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)[-1].package
        assert package is not None
        assert package.digest == good.digest
    finally:
        process.terminate()
        process.wait(10)


def test_events_wait_for_their_ack_and_survive_a_restart(hub: Hub, agents: RunningAgents) -> None:
    directory, agent_id = agents.enroll()
    hub.acking = False
    service = agents.start(directory)
    hub.wait(lambda: "started" in types(hub, agent_id))
    assert held(directory) >= 1
    agents.stop(service)
    hub.acking = True
    agents.start(directory)
    hub.wait(lambda: types(hub, agent_id).count("started") == 2 and held(directory) == 0)
    assert types(hub, agent_id) == ["started", "stopped", "started"]
    assert hub.conflicts == 0
    beats = hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)
    assert {beat.boot_count for beat in beats} == {1, 2}


def test_a_killed_agent_comes_back_with_its_events_and_finishes_its_work(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    hub.acking = hub.granting = False
    process = subprocess.Popen(
        [*AGENT_RUN, "--state-dir", str(directory.path)], stderr=subprocess.DEVNULL
    )
    try:
        package = platform.build({"w": b"x" * 100_000})
        desired = platform.desired(agent_id, package, revision=1)
        hub.deploy(desired)
        hub.wait(lambda: hub.of(agent_id, UpKind.KEY_REQUEST, KeyRequest))
    finally:
        process.kill()
        process.wait(10)
    hub.wait(lambda: any(k is UpKind.WILL for _, k, _ in hub.messages))
    hub.acking = hub.granting = True
    agents.start(directory)
    runs(hub, agent_id, package.digest)
    hub.wait(lambda: held(directory) == 0)
    assert hub.conflicts == 0
    assert types(hub, agent_id).count("started") == 2


def test_a_broker_that_comes_back_finds_the_agent_again(device_api: Platform) -> None:
    if not Path(platforms.MOSQUITTO).exists():
        pytest.skip("mosquitto is not installed")
    pem = platforms.issue_service(device_api.signers, "broker", device_api.folder / "broker.pem")
    agents = RunningAgents(device_api)
    device_api.mqtt_port = platforms.free_port()
    directory, agent_id = agents.enroll()
    with agents.stack:
        agents.start(directory)  # nobody answers yet
        for _ in range(2):
            with platforms.running_broker(device_api, pem):
                hub = Hub(device_api, platforms.hub_context(device_api))
                try:
                    hub.wait(lambda hub=hub: hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat))
                finally:
                    hub.close()


def test_a_renewal_connects_with_the_new_certificate_and_keeps_the_agent(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    before = leaf_of(directory.get("agent.pem"))
    service = agents.start(directory)
    hub.wait(lambda: hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat))
    # The core believes that two thirds of its life are over.
    now = datetime.now(UTC)
    service.core._renewal._renew_at = now - timedelta(days=1)
    service.core._uniform = lambda: 0.01  # it reconnects within a minute, at random
    service._wake()
    hub.wait(lambda: leaf_of(directory.get("agent.pem")).serial_number != before.serial_number)
    after = leaf_of(directory.get("agent.pem"))
    assert after.public_key() != before.public_key()
    for used_up in ("pending-key.pem", "next.pem"):
        assert not (directory.path / used_up).exists()
    agents.stop(service)
    agents.start(directory)
    hub.wait(
        lambda: {b.boot_count for b in hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)} == {1, 2}
    )


def test_the_next_trust_bundle_is_fetched_kept_and_shown(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    hub.wait(lambda: hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat))
    new = Ed25519Signer.generate()
    platform.bundles[2] = platform.signers.bundle(version=2, online=new)
    platform.signers.online = new
    package = platform.build({"w": b"1"})
    desired = platform.desired(agent_id, package, revision=1)
    hub.deploy(desired)  # signed by a key that the agent does not know yet
    beat = runs(hub, agent_id, package.digest)
    assert beat.has.trust == 2
    assert directory.get("trust.json") == platform.bundles[2]


def test_two_agents_cannot_run_on_one_directory(hub: Hub, agents: RunningAgents) -> None:
    directory, _ = agents.enroll()
    with directory.locked():
        done = subprocess.run(
            [*AGENT_RUN, "--json", "--state-dir", str(directory.path)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1
    assert "state-in-use" in done.stderr


def test_progress_is_told_again_after_a_reconnect(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    service = agents.start(directory)
    package = platform.build({"w": b"1"})
    desired = platform.desired(agent_id, package, revision=1)
    hub.deploy(desired)
    runs(hub, agent_id, package.digest)
    agents.stop(service)
    agents.start(directory)

    def told_twice() -> bool:
        told = [p.state for p in hub.of(agent_id, UpKind.PROGRESS, Progress)]
        return told.count("succeeded") >= 2

    hub.wait(told_twice)


def test_a_withdrawn_and_an_unsigned_document_change_nothing(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    agents.start(directory)
    hub.wait(lambda: hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat))
    hub.send(agent_id, DownKind.DESIRED, b'{"agent_id": "me"}')
    hub.wait(lambda: "signature.refused" in types(hub, agent_id))
    assert directory.get_state().desired is None
