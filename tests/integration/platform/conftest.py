"""One whole platform for all of these tests, and a new fleet for each."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform, run_json


@pytest.fixture(scope="session")
def new_platform() -> Iterator[Callable[[], RunningPlatform]]:
    """Makes platforms (not started yet) under short paths that the database's user can reach."""
    directories: list[Path] = []
    made: list[RunningPlatform] = []

    def make() -> RunningPlatform:
        directory = Path(tempfile.mkdtemp(prefix="tg-up-"))
        directory.chmod(0o711)
        directories.append(directory)
        made.append(RunningPlatform(directory))
        return made[-1]

    yield make
    for platform in made:
        platform.kill_everything()
    for directory in directories:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def platform(new_platform: Callable[[], RunningPlatform]) -> Iterator[RunningPlatform]:
    """A platform that runs for the whole session; stopping it leaves nothing behind."""
    platform = new_platform()
    platform.start()
    yield platform
    platform.stop()


def operator_of(platform: RunningPlatform) -> Operator:
    """An operator with an API key of the admin role, made on the platform's own machine."""
    made = run_json(
        *("admin", "api-key", "create", "--name", "tests", "--role", "admin"),
        *("--data-dir", str(platform.data)),
    )
    return Operator(platform.url, made["key"])


@pytest.fixture(scope="session")
def operator(platform: RunningPlatform) -> Operator:
    return operator_of(platform)


@pytest.fixture
def fleet(operator: Operator) -> str:
    """A fleet of this test alone."""
    slug = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(slug)
    return slug


@pytest.fixture
def enrolled(operator: Operator, fleet: str, tmp_path: Path) -> Callable[[], Device]:
    """Makes foreign devices that have joined this test's fleet."""

    def make() -> Device:
        device = Device(tmp_path / secrets.token_hex(4))
        answer = device.enroll(operator.mint(fleet))
        assert answer.status_code == 201, answer.text
        return device

    return make
