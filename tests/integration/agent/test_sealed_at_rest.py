"""`at_rest: sealed` on a device: ciphertext on the disk, plaintext in memory, grants at starts."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from agent.runtime import memory
from agent.runtime.packages import PackageRefused, PackageStore
from agent.runtime.statedir import StateDir
from tensorguard.protocol.messages import Heartbeat, KeyRequest
from tensorguard.protocol.topics import DownKind, UpKind
from tensorguard.tgsp.volatile import is_memory_backed
from tests.integration.agent import platform as platforms
from tests.integration.agent.conftest import RunningAgents
from tests.integration.agent.platform import BuiltPackage, Hub, Platform

SECRET = b"weights that never touch the disk " * 1000
AGENT_RUN = [sys.executable, "-m", "tensorguard.cli", "agent", "run"]

pytestmark = pytest.mark.skipif(
    not is_memory_backed(Path("/dev/shm")), reason="this system has no /dev/shm in memory"
)


def on_disk(directory: StateDir) -> list[Path]:
    """The files of the state directory that hold some of the plaintext; links are not followed."""
    return [
        path
        for path in directory.path.rglob("*")
        if path.is_file() and not path.is_symlink() and SECRET[:16] in path.read_bytes()
    ]


def beats(hub: Hub, agent_id: UUID) -> list[Heartbeat]:
    return hub.of(agent_id, UpKind.HEARTBEAT, Heartbeat)


def requests(hub: Hub, agent_id: UUID) -> list[KeyRequest]:
    return hub.of(agent_id, UpKind.KEY_REQUEST, KeyRequest)


def boot(hub: Hub, agent_id: UUID, count: int) -> list[Heartbeat]:
    return [beat for beat in beats(hub, agent_id) if beat.boot_count == count]


def in_memory(directory: StateDir, package: BuiltPackage) -> Path:
    folder = memory.find_memory(directory.path)
    assert folder is not None
    return folder / package.digest


def deploy_sealed(platform: Platform, hub: Hub, agent_id: UUID) -> BuiltPackage:
    package = platform.build({"weights.bin": SECRET}, policy={"at_rest": "sealed"})
    desired = platform.desired(agent_id, package, revision=1)
    hub.deploy(desired)
    assert desired.deployment_id is not None
    hub.wait_for_state(agent_id, "succeeded", desired.deployment_id)
    return package


def test_the_disk_holds_ciphertext_and_each_start_takes_a_grant(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    service = agents.start(directory)
    package = deploy_sealed(platform, hub, agent_id)
    current = directory.path / "current"
    opened = current.resolve()
    assert is_memory_backed(opened)
    assert (opened / "weights.bin").read_bytes() == SECRET
    assert opened.parent.stat().st_mode & 0o777 == 0o700
    assert on_disk(directory) == []
    assert (directory.path / "packages" / f"{package.digest}.tgsp").read_bytes() == package.data

    agents.stop(service)
    assert not opened.parent.exists()
    assert not current.is_symlink()

    fetched = len(platform.requests)
    agents.start(directory)
    hub.wait(lambda: len(requests(hub, agent_id)) == 2)
    first, second = requests(hub, agent_id)
    assert first.request_id != second.request_id
    hub.wait(lambda: [e.type for e in hub.events_of(agent_id)].count("model.activated") == 2)
    assert (current / "weights.bin").read_bytes() == SECRET
    assert on_disk(directory) == []
    assert all(beat.package for beat in boot(hub, agent_id, 2)), "it was about to run"
    assert [one.path for one in platform.requests[fetched:] if "/packages/" in one.path] == []


@pytest.mark.parametrize("answer", ["denied", "none"])
def test_a_start_without_a_grant_opens_nothing(
    platform: Platform, hub: Hub, agents: RunningAgents, answer: str
) -> None:
    directory, agent_id = agents.enroll()
    service = agents.start(directory)
    package = deploy_sealed(platform, hub, agent_id)
    agents.stop(service)
    hub.granting = False  # for days of it see the unit tests
    agents.start(directory)
    hub.wait(lambda: len(requests(hub, agent_id)) == 2)
    if answer == "denied":
        request = requests(hub, agent_id)[-1]
        denied = msgspec.structs.replace(
            platform.grant(agent_id, request), kid=None, exp=None, sealed=None, denied="quarantined"
        )
        hub.send(agent_id, DownKind.GRANT, platform.signers.sign(denied))
        hub.wait(lambda: (seen := boot(hub, agent_id, 2)) and seen[-1].package is None)
        assert boot(hub, agent_id, 2)[-1].status == "degraded"
        assert directory.get_state().reason == "grant-denied: quarantined"
    assert not in_memory(directory, package).exists()
    assert not (directory.path / "current").exists()


def test_what_a_killed_agent_left_open_is_closed_before_anything_else(
    platform: Platform, hub: Hub, agents: RunningAgents
) -> None:
    directory, agent_id = agents.enroll()
    process = subprocess.Popen(
        [*AGENT_RUN, "--state-dir", str(directory.path)], stderr=subprocess.DEVNULL
    )
    try:
        package = deploy_sealed(platform, hub, agent_id)
    finally:
        process.kill()
        process.wait(10)
    left = in_memory(directory, package)
    assert (left / "weights.bin").exists(), "nobody was there to close it"
    hub.granting = False
    agents.start(directory)
    hub.wait(lambda: len(requests(hub, agent_id)) == 2)
    assert not left.exists()


def test_a_folder_that_others_could_read_is_not_used(tmp_path: Path) -> None:
    folder = memory.find_memory(tmp_path)
    assert folder is not None
    try:
        folder.chmod(0o755)
        assert memory.find_memory(tmp_path) is None
        folder.rmdir()
        folder.symlink_to(tmp_path)
        assert memory.find_memory(tmp_path) is None
    finally:
        folder.unlink() if folder.is_symlink() else folder.rmdir()


def test_a_disk_is_not_taken_for_memory(tmp_path: Path) -> None:
    assert is_memory_backed(Path("/dev/shm"))
    assert not is_memory_backed(Path("/no/such/place"))
    if not is_memory_backed(tmp_path):
        assert memory.find_memory(tmp_path, [tmp_path]) is None


def test_a_device_without_memory_for_it_refuses_before_it_asks_for_the_key(tmp_path: Path) -> None:
    platform = platforms.new_platform(tmp_path)
    package = platform.build({"weights.bin": SECRET}, policy={"at_rest": "sealed"})
    store = PackageStore(tmp_path, memory=None)
    store.prepare()
    store.file(package.digest).write_bytes(package.data)
    desired = platform.desired(uuid4(), package, revision=1)
    with pytest.raises(PackageRefused) as caught:
        store.verify(
            desired, platform.signers.trust(), datetime.now(UTC), fleet="hospital-a", floors={}
        )
    assert (caught.value.failure.kind, caught.value.failure.code) == ("policy", "sealed-at-rest")
