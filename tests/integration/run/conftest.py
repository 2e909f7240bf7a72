"""Directories that the server's user can reach, and stacks that never outlive their test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.run.stack import Stack


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory under a short path, open to pass through."""
    path = Path(tempfile.mkdtemp(prefix="tg-run-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start_stack(directory: Path) -> Iterator[Callable[..., Stack]]:
    """Starts a platform of stub services on this test's data directory."""
    stacks: list[Stack] = []

    def start(*stubs: str, **environment: str) -> Stack:
        names = stubs or ("broker", "hub", "api")
        stacks.append(Stack(directory / "data", *names, **environment))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.kill_everything()
