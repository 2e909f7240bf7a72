"""Syslog to a receiver that nobody here wrote: OpenSSL's."""

import asyncio
import re
import shutil
import socket

import pytest

from tests.integration.sinks.far_end import NAME
from tests.integration.sinks.lab import Lab
from tests.patience import PATIENCE_S

_OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(_OPENSSL is None, reason="openssl is not installed")
async def test_openssl_receives_whole_frames_and_closes_in_order(lab: Lab) -> None:
    assert _OPENSSL is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    certificate, key = lab.authority.files_for(NAME)
    server = await asyncio.create_subprocess_exec(
        *(_OPENSSL, "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", "-naccept", "1"),
        *("-cert", str(certificate), "-key", str(key)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    sink = await lab.sink("syslog", host=NAME, port=port)
    await lab.write(30)
    export = lab.export(sink)
    reading = asyncio.create_task(server.stdout.read())
    async with asyncio.timeout(PATIENCE_S):
        while (await lab.get(sink)).next_index == 0:  # it may not listen yet
            await lab.drain(export)
            lab.clock.advance(minutes=10)
            await asyncio.sleep(0.05)
    if server.returncode is None:
        server.terminate()
    received = await reading
    await server.wait()
    lengths, at = [], 0
    while at < len(received):
        frame = re.compile(rb"([1-9][0-9]*) <").match(received, at)
        assert frame is not None, received[at : at + 50]
        at = frame.end() - 1 + int(frame[1])
        lengths.append(int(frame[1]))
    assert (len(lengths), at) == (31, len(received))
    await export.close()
