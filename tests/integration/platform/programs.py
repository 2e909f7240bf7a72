"""Programs beside the platform: real agents, simulated ones, mosquitto's clients."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import clean_environment, command, run_json
from tests.patience import PATIENCE_S

Json = dict[str, Any]


class Program:
    """A child whose output goes to files."""

    def __init__(self, directory: Path, name: str, arguments: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.stdout_path = directory / f"{name}.out"
        self.stderr_path = directory / f"{name}.err"
        with self.stdout_path.open("w") as stdout, self.stderr_path.open("w") as stderr:
            self.process = subprocess.Popen(
                list(arguments),
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def stop(self, *, within_s: float = PATIENCE_S) -> int:
        """SIGTERM, then its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(within_s)
            raise

    def wait(self, within_s: float = PATIENCE_S) -> int:
        return self.process.wait(within_s)

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


class RealAgent(Program):
    """`tensorguard agent run` on a state directory that has been enrolled."""

    def __init__(self, directory: Path, join: str, name: str = "real") -> None:
        state = directory / "agent"
        self.enrolled = run_json("agent", "enroll", join, "--name", name, "--state-dir", str(state))
        self.state_dir = state
        super().__init__(directory, "agent", command("agent", "run", "--state-dir", str(state)))

    @property
    def agent_id(self) -> str:
        return str(self.enrolled["agent_id"])

    def status(self) -> Json:
        return run_json("agent", "status", "--state-dir", str(self.state_dir))


class Simulator(Program):
    """`tensorguard simulate`: agents of one fleet, kept in a directory for the next run."""

    def __init__(
        self,
        directory: Path,
        operator: Operator,
        fleet: str,
        agents: int,
        *,
        name: str = "simulate",
        events_per_minute: int = 0,
        interval: str = "2s",
        drain: str = "120s",
        behaviour: Json | None = None,
    ) -> None:
        self.acked_log = directory / "acked.log"
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "behaviour.json"
        file.write_text(json.dumps(behaviour or {}))
        super().__init__(
            directory,
            name,
            command(
                *("simulate", "--agents", str(agents), "--fleet", fleet, "--interval", interval),
                *("--url", operator.url, "--api-key", operator.api_key, "--seed", "7"),
                *("--state", str(directory / "agents"), "--acked-log", str(self.acked_log)),
                *("--behaviour", str(file)),
                *("--events-per-minute", str(events_per_minute), "--drain", drain, "--json"),
            ),
        )

    def finish(self, *, within_s: float = 150.0) -> Json:
        """Have it drain and stop; its summary."""
        status = self.stop(within_s=within_s)
        assert status == 0, self.stderr[-2000:]
        summary: Json = json.loads(self.stdout.splitlines()[-1])
        return summary

    def acked(self) -> list[tuple[str, str, int]]:
        """(agent, log, number) of each event that an agent holds an ack for."""
        text = self.acked_log.read_text() if self.acked_log.exists() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [(agent, log, int(number)) for agent, log, number in map(str.split, whole)]


def mosquitto(program: str, device: Device, *more: str, client_id: str = "") -> list[str]:
    """The command line of a mosquitto client that uses a device's certificate."""
    return [
        *(program, "-V", "mqttv311", "-h", device.mqtt_host, "-p", str(device.mqtt_port)),
        *("--cafile", str(device.ca_path)),
        *("--cert", str(device.certificate_path), "--key", str(device.key_path)),
        *("-i", client_id or device.agent_id),
        *more,
    ]


def run_mosquitto(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stdout + done.stderr
