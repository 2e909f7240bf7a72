import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.runtime.enroll import enroll
from agent.runtime.service import AgentService
from agent.runtime.statedir import StateDir
from tests.integration.agent import platform as platforms
from tests.integration.agent.platform import Hub, Platform


@pytest.fixture
def device_api(tmp_path: Path) -> Iterator[Platform]:
    """The device side of a platform's API, without a broker."""
    platform = platforms.new_platform(tmp_path)
    pem = platforms.issue_service(platform.signers, "api", tmp_path / "api.pem")
    with platforms.running_device_api(platform, pem):
        yield platform


@pytest.fixture
def platform(device_api: Platform) -> Iterator[Platform]:
    """A platform with mosquitto as its broker and a hub that answers."""
    if not shutil.which("mosquitto") and not Path(platforms.MOSQUITTO).exists():
        pytest.skip("mosquitto is not installed")
    pem = platforms.issue_service(device_api.signers, "broker", device_api.folder / "broker.pem")
    with platforms.running_broker(device_api, pem):
        device_api.hub = hub = Hub(device_api, platforms.hub_context(device_api))
        try:
            yield device_api
        finally:
            hub.close()


@pytest.fixture
def hub(platform: Platform) -> Hub:
    assert platform.hub is not None
    return platform.hub


class RunningAgents:
    """Agents of this process, each in a thread; stopped at the end of the test."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.stack = ExitStack()
        self._threads: dict[int, threading.Thread] = {}

    def enroll(self, name: str = "device") -> tuple[StateDir, UUID]:
        directory = StateDir(self.platform.folder / name)
        joined = enroll(self.platform.join, directory, name)
        return directory, joined.identity.agent_id

    def start(self, directory: StateDir, **settings: Any) -> AgentService:
        service = AgentService(directory, **settings)
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        self._threads[id(service)] = thread
        self.stack.callback(self.stop, service)
        return service

    def stop(self, service: AgentService) -> None:
        service.stop()
        thread = self._threads[id(service)]
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def agents(platform: Platform) -> Iterator[RunningAgents]:
    running = RunningAgents(platform)
    with running.stack:
        yield running
