"""The demo's other programs: our own command line, once for an answer, or for as long as we run."""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Self

from tensorguard.cli.lifeline import PARENT_PIPE
from tensorguard.cli.showcase.errors import DemoFailed

ANSWER_WITHIN_S = 120.0
_END_WITHIN_S = 15.0
_LONGEST_PAUSE_S = 30.0
_LOG_LIMIT_BYTES = 10 * 1024 * 1024


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tensorguard.cli", *arguments)


async def ask(*arguments: str, given: str = "") -> dict[str, Any]:
    """Run `tensorguard ARGUMENTS --json` and return what it prints. Raises: DemoFailed."""
    process = await asyncio.create_subprocess_exec(
        *_command(*arguments, "--json"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            said, complained = await process.communicate(given.encode())
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise DemoFailed(f"'tensorguard {arguments[0]}' did not answer") from None
        raise
    if process.returncode != 0:
        raise _refused(arguments, complained.decode(errors="replace"))
    answer = json.loads(said)
    assert isinstance(answer, dict)
    return answer


def _refused(arguments: tuple[str, ...], complaint: str) -> DemoFailed:
    what = f"'tensorguard {' '.join(arguments[:2])}'"
    try:
        facts = json.loads(complaint.splitlines()[-1])["error"]
        return DemoFailed(f"{what}: {facts['message']}", hint=facts["hint"])
    except (ValueError, LookupError, TypeError):
        return DemoFailed(f"{what} failed: {complaint[-500:].strip()}")


class Programs:
    """Our own commands as processes that run while the block does, again if they end by themselves.

    They end with this process, however that ends.
    """

    def __init__(self) -> None:
        self._keepers: list[asyncio.Task[None]] = []
        self._lifeline, self._end_of_lifeline = os.pipe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        os.close(self._lifeline)
        os.close(self._end_of_lifeline)

    def start(self, *arguments: str, log: Path, environment: dict[str, str]) -> None:
        """Run `tensorguard ARGUMENTS` from now on; what it prints goes to `log`."""
        keeping = _keep(arguments, log, environment, self._lifeline)
        self._keepers.append(asyncio.create_task(keeping, name=log.stem))


async def _keep(
    arguments: tuple[str, ...], log: Path, environment: dict[str, str], lifeline: int
) -> None:
    loop, failures = asyncio.get_running_loop(), 0
    while True:
        began = loop.time()
        await _run_once(arguments, log, environment, lifeline)
        failures = 0 if loop.time() - began > 60 else failures + 1
        ceiling_s = min(_LONGEST_PAUSE_S, 2.0 ** min(failures, 10))
        await asyncio.sleep(random.uniform(0.5, ceiling_s))  # noqa: S311 - jitter


def _open(log: Path) -> BinaryIO:
    too_long = log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES
    return log.open("wb" if too_long else "ab")


async def _run_once(
    arguments: tuple[str, ...], log: Path, environment: dict[str, str], lifeline: int
) -> None:
    with _open(log) as file:
        process = await asyncio.create_subprocess_exec(
            *_command(*arguments),
            env={**os.environ, **environment, PARENT_PIPE: str(lifeline)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=(lifeline,),
            start_new_session=True,
        )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_END_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
