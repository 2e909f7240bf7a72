"""Directories that the server's user can reach, and stacks that never outlive their test."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.run.stack import Stack


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    """An empty directory under a short path, open to pass through."""
    path = Path(tempfile.mkdtemp(prefix="tg-run-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of this test alone."""
    with reachable_directory() as path:
        yield path


@pytest.fixture
def start_empty_stack(directory: Path) -> Iterator[Callable[..., Stack]]:
    """Starts a platform of stub services on a data directory that is empty the first time."""
    stacks: list[Stack] = []

    def start(*stubs: str, **environment: str) -> Stack:
        names = stubs or ("broker", "hub", "api")
        stacks.append(Stack(directory / "data", *names, **environment))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.kill_everything()


@pytest.fixture(scope="session")
def used_data() -> Iterator[Path]:
    """A data directory that a platform has been started in and stopped, without its addresses."""
    with reachable_directory() as path:
        stack = Stack(path / "data", "hub")
        stack.wait_until_ready()
        stack.send(signal.SIGTERM)
        assert stack.wait_for_end() == 0
        (path / "data" / "addresses.json").unlink()  # tests run side by side
        for binaries in (path / "data" / "postgres").glob("postgres-*"):
            shutil.rmtree(binaries)  # linked again sooner than they are copied
        yield path / "data"


@pytest.fixture
def start_stack(
    directory: Path, used_data: Path, start_empty_stack: Callable[..., Stack]
) -> Callable[..., Stack]:
    """Starts a platform of stub services on a data directory that has been used before."""
    subprocess.run(["cp", "-a", used_data, directory / "data"], check=True)
    return start_empty_stack
