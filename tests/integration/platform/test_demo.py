"""The demo from nothing to a deployed model; killed, it goes on where it was."""

import contextlib
import json
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.platform.operator import Operator
from tests.integration.platform.running import Addresses, clean_environment, command

PATIENCE_S = 150.0


class RunningDemo:
    """`tensorguard demo --json` with few agents, in one data directory."""

    def __init__(self, directory: Path, addresses: Addresses) -> None:
        self.data = directory / "data"
        self._log = (directory / "demo.log").open("ab")
        self.process = subprocess.Popen(
            command(
                *("demo", "--data-dir", str(self.data), "--agents", "4", "--json"),
                *addresses.options(),
            ),
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (directory / "demo.log").read_text()
        self.ready: dict[str, Any] = json.loads(line)
        self.tree = [psutil.Process(self.process.pid)]
        self.tree += self.tree[0].children(recursive=True)

    def operator(self) -> Operator:
        kept = json.loads((self.data / "demo-credentials").read_text())
        assert {"email": kept["email"], "password": kept["password"]} == self.ready["admin"]
        return Operator(self.ready["url"], kept["api_key"])

    def ends(self, number: signal.Signals) -> int:
        """Send one signal to the demo itself; all that it started ends."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        _, alive = psutil.wait_procs(self.tree, timeout=60)
        assert not alive
        return status

    def close(self) -> None:
        for one in self.tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(60)
        self._log.close()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory that the database's user can reach."""
    with tempfile.TemporaryDirectory(prefix="tg-demo-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def facts(operator: Operator) -> dict[str, Any]:
    """What a second run must neither change nor double."""
    agents = [one for fleet in ("hospital-a", "factory-b") for one in operator.agents(fleet)]
    return {
        "agents": sorted((one["id"], one["name"], str(one["tags"])) for one in agents),
        "deployments": [
            (one["id"], one["state"], one["counts"]) for one in operator.pages("deployments")
        ],
        "packages": [one["digest"] for one in operator.pages("packages")],
        "publishers": [one["kid"] for one in operator.pages("publishers")],
    }


@pytest.mark.timeout(2 * PATIENCE_S)
def test_the_demo_deploys_a_model_and_goes_on_where_it_was_after_a_revocation_and_a_kill(
    short_directory: Path,
) -> None:
    addresses = Addresses.free()
    with contextlib.closing(RunningDemo(short_directory, addresses)) as first:
        operator = first.operator()
        other = next(one for one in operator.agents("factory-b") if one["status"] == "active")
        operator.post(f"agents/{other['id']}/revoke", {"reason": "to see what happens"})
        before = facts(operator)
        assert len(before["agents"]) == 5
        [(_, state, counts)] = before["deployments"]
        assert (state, counts) == ("completed", {"succeeded": 5})
        here = next(one for one in operator.agents("hospital-a") if one["tags"]["region"] == "here")
        tried = operator.wait_entry("agent.reported.model.inference", subject=here["id"])
        assert tried["details"]["reported"]["engine"].startswith("onnxruntime")
        mode = (first.data / "demo-credentials").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        first.ends(signal.SIGKILL)
    with contextlib.closing(RunningDemo(short_directory, addresses)) as second:
        assert second.ready == first.ready
        assert facts(second.operator()) == before
        assert second.ends(signal.SIGINT) == 0
