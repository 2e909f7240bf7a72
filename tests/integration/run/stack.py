"""A running stub_stack.py as a test sees it: its records, its processes, its end."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from tests.patience import PATIENCE_S

PROGRAM = Path(__file__).with_name("stub_stack.py")
ROOT = Path(__file__).parents[3]


class Stack:
    """A platform in a process of its own."""

    def __init__(self, directory: Path, *stubs: str, **environment: str) -> None:
        self.directory = directory
        self.seen: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._records: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(directory), *stubs],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._known = {psutil.Process(self.process.pid)}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            try:
                self._records.put(json.loads(line))
            except ValueError:
                self._records.put({"event": "text", "text": line})
        self._records.put(None)

    def wait_for(self, **facts: object) -> dict[str, Any]:
        """The next record that has these facts."""
        while (record := self._records.get(timeout=PATIENCE_S)) is not None:
            self.seen.append(record)
            if all(record.get(key) == value for key, value in facts.items()):
                return record
        raise AssertionError(f"ended without {facts}: {self.seen}")

    def wait_until_ready(self) -> dict[str, Any]:
        return self.wait_for(ready=True)

    def wait_for_end(self) -> int:
        """The exit status, after the last record."""
        while (record := self._records.get(timeout=PATIENCE_S)) is not None:
            self.seen.append(record)
        return self.process.wait(timeout=PATIENCE_S)

    def events(self, event: str) -> list[str]:
        """The names of the services that this was said of, in order."""
        return [str(record["name"]) for record in self.seen if record.get("event") == event]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def processes(self) -> set[psutil.Process]:
        """The whole tree, as far as it has ever been looked at."""
        for process in list(self._known):
            try:
                self._known.update(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        return {process for process in self._known if process.is_running()}

    def kill_parent(self) -> set[psutil.Process]:
        """kill -9 of the parent alone; returns what it leaves behind."""
        tree = self.processes()
        self.process.kill()
        self.process.wait(timeout=PATIENCE_S)
        return tree

    def kill_everything(self) -> None:
        """kill -9 of every process of the tree."""
        tree = self.processes()
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(timeout=PATIENCE_S)
        psutil.wait_procs(tree, timeout=PATIENCE_S)
