"""Moto's server as a process: a far end for AWS SDKs that somebody else has written."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx

from tests.patience import PATIENCE_S


@contextlib.contextmanager
def running_moto() -> Iterator[str]:
    """The server's URL, for AWS_ENDPOINT_URL_…"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        give_up_at = time.monotonic() + PATIENCE_S
        with httpx.Client(trust_env=False, timeout=2) as client:
            while True:
                try:
                    client.get(f"{url}/moto-api/")
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < give_up_at, "moto did not start"
                    time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
