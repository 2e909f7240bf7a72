"""What a service owes its parent, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tensorguard.cli.lifeline import PARENT_PIPE, READY_PIPE
from tests.patience import PATIENCE_S

SERVICE = """
import asyncio, os, subprocess, sys, time
from tensorguard.cli.lifeline import install, notify_ready
async def main(habit):
    stop = asyncio.Event()
    install(stop, hard_exit_after_s=0.3)
    notify_ready()
    notify_ready()
    print("serving", [name for name in os.environ if name.startswith("TG_")], flush=True)
    if habit == "stuck":
        time.sleep(60)
    await stop.wait()
    print("stopping", flush=True)
    if habit == "slow":
        await asyncio.sleep(60)
asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def service(habit: str, **pipes: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, habit],
        env={**os.environ, **{name: str(number) for name, number in pipes.items()}},
        pass_fds=tuple(pipes.values()),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def parent_pipe() -> Iterator[list[int]]:
    """[read end, write end]; a test that closes one takes it out."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_ready_is_said_once_and_the_pipes_are_nobody_else_s() -> None:
    read_end, write_end = os.pipe()
    with service("good", **{READY_PIPE: write_end}) as process:
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            assert pipe.read() == "ready\n"  # to the end: the service has closed it
        assert read_line(process) == "serving []"


def test_the_parent_s_end_is_a_request_to_stop(parent_pipe: list[int]) -> None:
    with service("good", **{PARENT_PIPE: parent_pipe[0]}) as process:
        assert read_line(process) == "serving []"
        os.close(parent_pipe.pop())
        assert process.wait(PATIENCE_S) == 0
        assert read_line(process) == "stopping"


@pytest.mark.parametrize("habit", ["slow", "stuck"])
def test_a_service_that_cannot_stop_after_its_parent_exits_hard(
    parent_pipe: list[int], habit: str
) -> None:
    with service(habit, **{PARENT_PIPE: parent_pipe[0]}) as process:
        read_line(process)
        began = time.monotonic()
        os.close(parent_pipe.pop())
        assert process.wait(PATIENCE_S) == 1
        assert time.monotonic() - began >= 0.3


def test_a_signal_stops_a_service_that_has_no_parent() -> None:
    with service("good") as process:
        read_line(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_second_signal_does_not_wait() -> None:
    with service("slow") as process:
        read_line(process)
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "stopping"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) in (130, 1)
