"""The data directory and who may have it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorguard.cli.supervisor.errors import AlreadyRunning, BadSettings
from tensorguard.cli.supervisor.place import DataDirectoryLock, create_data_directory
from tests.patience import PATIENCE_S

PASS_THROUGH = 0o711 if os.geteuid() == 0 else 0o700


def test_a_new_directory_is_closed_to_others(tmp_path: Path) -> None:
    made = create_data_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == PASS_THROUGH


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    assert create_data_directory(tmp_path).stat().st_mode & 0o777 == 0o750


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(BadSettings, match="is not a directory"):
        create_data_directory(path)


def test_the_second_lock_names_the_first_process(tmp_path: Path) -> None:
    first = DataDirectoryLock(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        DataDirectoryLock(tmp_path)
    first.close()
    DataDirectoryLock(tmp_path).close()


async def test_a_service_that_outlives_its_parent_is_waited_for(tmp_path: Path) -> None:
    first = DataDirectoryLock(tmp_path)
    await first.wait_for_leftovers(lambda: None)
    service = await asyncio.create_subprocess_exec(  # inherits the lock, lives as long as its input
        *(sys.executable, "-c", "import sys; sys.stdin.read()"),
        stdin=subprocess.PIPE,
        pass_fds=[first.children],
    )
    first.close()  # as a kill -9 would

    second = DataDirectoryLock(tmp_path)
    announced = asyncio.Event()
    waiting = asyncio.create_task(second.wait_for_leftovers(announced.set))
    await announced.wait()
    assert not waiting.done()
    assert service.stdin is not None
    service.stdin.close()
    await asyncio.wait_for(waiting, PATIENCE_S)
    await service.wait()
    second.close()
