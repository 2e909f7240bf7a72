"""`tensorguard api run` as a process of its own, on ports that are free."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.settings import ApiSettings
from tests.patience import PATIENCE_S


def environment(platform: ApiSettings) -> dict[str, str]:
    """What the command sees: the platform, and nothing of the test run's own settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TG_")}
    return ours | {
        "TG_DATABASE_URL": platform.database_url.get_secret_value(),
        "TG_DATA_DIR": str(platform.data_dir),
        "TG_HTTP": "127.0.0.1:0",
        "TG_DEVICE": "127.0.0.1:0",
    }


@contextmanager
def running_api(platform: ApiSettings, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process once it says that it is ready, and the people's URL."""
    read_end, write_end = os.pipe()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorguard.cli", "api", "run"],
            env=environment(platform) | {"TG_READY_FD": str(write_end)},
            pass_fds=(write_end,),
            stderr=output,
        )
    os.close(write_end)
    try:
        assert os.read(read_end, 100) == b"ready\n", log.read_text()
        yield process, f"http://{address_of(process, log, 'people')}"
    finally:
        os.close(read_end)
        process.kill()
        process.wait(timeout=PATIENCE_S)


def address_of(process: subprocess.Popen[bytes], log: Path, listener: str) -> str:
    """HOST:PORT where a running api listens for `people`, or for a `device`."""
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if '"api_ready"' in line:
                return str(json.loads(line)[listener])
    raise AssertionError(log.read_text())
