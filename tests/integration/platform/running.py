"""`tensorguard up` as a test sees it: a child that says when it is ready, and its processes."""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.integration.platform.waiting import wait_until
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
# Below the range from which outgoing connections take theirs: nobody else gets one in between.
_PORTS = range(20_000, 32_000)


def clean_environment() -> dict[str, str]:
    """The environment for a program of ours: none of our settings, no proxy that works."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TG_")}
    nowhere = "http://127.0.0.1:9"
    proxies = {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "https_proxy": nowhere}
    return {**kept, **proxies, "PYTHONPATH": str(ROOT)}


def command(*arguments: str) -> list[str]:
    """The `tensorguard` command of this checkout."""
    return [sys.executable, "-m", "tensorguard.cli", *arguments]


def tensorguard(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a `tensorguard` command to its end."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=PATIENCE_S,
        check=False,
    )


def run_json(*arguments: str) -> dict[str, Any]:
    """Run a `tensorguard` command that succeeds and prints one JSON document."""
    done = tensorguard(*arguments, "--json")
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What a command that failed, run with --json, says of it."""
    assert done.returncode != 0, f"it succeeded: {done.stdout}"
    error: dict[str, str] = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    return error


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nobody listens."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class Addresses:
    """Where a platform listens."""

    http: str
    device: str
    mqtt: str
    enroll_mqtt: str
    nats: str

    @classmethod
    def free(cls) -> "Addresses":
        return cls(*(f"127.0.0.1:{port}" for port in free_ports(5)))

    @property
    def mqtt_port(self) -> int:
        return int(self.mqtt.rpartition(":")[2])

    def options(self) -> tuple[str, ...]:
        return (
            *("--http", self.http, "--device", self.device),
            *("--mqtt", self.mqtt, "--enroll-mqtt", self.enroll_mqtt),
        )

    def nats_options(self) -> tuple[str, ...]:
        return (*self.options(), "--engine", "nats", "--nats", self.nats)


class RunningPlatform:
    """The platform of one data directory; started and stopped as often as a test likes."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.addresses = Addresses.free()
        self.ready: dict[str, Any] = {}
        """The ready line of the latest start."""
        self.ready_after_s = 0.0
        self._began = 0.0
        self._log = directory / "up.log"
        self._process: subprocess.Popen[str] | None = None
        self._printed = b""
        self._seen: set[psutil.Process] = set()

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def device_url(self) -> str:
        return str(self.ready["device_url"])

    def start(self, *options: str) -> dict[str, Any]:
        """Start `tensorguard up` and return its ready line; options default to the addresses."""
        self.launch(*options)
        return self.wait_ready()

    def launch(self, *options: str, **settings: str) -> None:
        """Start `tensorguard up` with these variables, and wait for nothing."""
        self._began = time.monotonic()
        arguments = options or self.addresses.options()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command("up", "--data-dir", str(self.data), *arguments, "--json"),
                env=clean_environment() | settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_ready(self) -> dict[str, Any]:
        """Return the ready line of what was launched."""
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self.kill_everything()
            raise AssertionError(f"not ready: {self.log_tail()}")
        self.ready = json.loads(line)
        self.ready_after_s = time.monotonic() - self._began
        self.processes()
        return self.ready

    def printed(self) -> list[str]:
        """The whole lines that it has printed after the ready line, as far as they have come."""
        assert self._process is not None
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        while select.select([file], [], [], 0)[0] and (some := os.read(file, 65_536)):
            self._printed += some
        return self._printed.decode().split("\n")[:-1]

    def stop(self) -> None:
        """SIGTERM; it ends with status 0 and leaves no process behind."""
        assert self._process is not None
        known = self.processes()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(PATIENCE_S)
        left = [process for process in known if _is_alive(process)]
        self.kill_everything()
        assert status == 0, self.log_tail()
        assert not left, f"left behind: {left}"

    def kill_everything(self) -> None:
        """kill -9 of every process of the tree at once."""
        if self._process is None:
            return
        tree = self.processes()
        for process in tree:
            process.suspend()  # none may tidy up after another
        for process in tree:
            process.kill()
        self._process.wait(PATIENCE_S)
        psutil.wait_procs(tree, timeout=PATIENCE_S)

    def service(self, name: str) -> psutil.Process:
        """The process that runs a service now, or the database's first."""
        process = self.find_service(name)
        assert process is not None, f"{name} does not run: {self.log_tail()}"
        return process

    def find_service(self, name: str) -> psutil.Process | None:
        """The process that runs a service now; None while there is none."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children():
            try:
                what = ("broker", "nats-server") if name == "nats" else (name, "run")
                is_python = process.cmdline()[1:] == ["-m", "tensorguard.cli", *what]
                if _is_alive(process) and (is_python or process.name() == name):
                    return process
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return None

    def kill_service(self, name: str) -> None:
        """kill -9 of one service; returns when another process is in its place."""
        killed = self.service(name)
        killed.kill()
        wait_until(
            lambda: (now := self.find_service(name)) is not None and now.pid != killed.pid,
            f"{name} is started again",
        )

    def processes(self) -> set[psutil.Process]:
        """What lives of the tree, orphans included as far as they were ever seen."""
        if self._process is not None and self._process.poll() is None:
            self._seen.add(psutil.Process(self._process.pid))
        for process in list(self._seen):
            try:
                self._seen.update(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        self._seen = {process for process in self._seen if _is_alive(process)}
        return self._seen

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def log_records(self) -> list[dict[str, Any]]:
        """Everything that the services have logged, as far as it is JSON."""
        records = []
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
