"""How a long command says how far it is: a bar on a terminal, lines elsewhere, or JSON lines."""

import json
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


class Teller(AbstractContextManager["Teller"]):
    """Says each step once, and each count when it has changed."""

    def __init__(self, *, as_json: bool, bars: Progress | None) -> None:
        self._as_json = as_json
        self._bars = bars
        self._bar: TaskID | None = None
        self._said: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, step: str, text: str, **facts: Any) -> None:
        """Something has been done."""
        self._end_bar()
        self._write(step, text, facts)

    def count(self, step: str, text: str, done: int, total: int, **facts: Any) -> None:
        """So much of something that is waited for is there."""
        if self._bars is not None:
            if self._bar is None:
                self._bar = self._bars.add_task(text, total=total)
            self._bars.update(self._bar, description=text, completed=done, total=total)
            return
        if self._said != (step, f"{done}/{total} {text}"):
            self._said = (step, f"{done}/{total} {text}")
            facts = {"done": done, "total": total, **facts}
            self._write(step, f"{text}: {done} of {total}", facts)

    def _end_bar(self) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None

    def _write(self, step: str, text: str, facts: dict[str, Any]) -> None:
        if self._as_json:
            typer.echo(json.dumps({"step": step, **facts}))
        elif self._bars is not None:
            self._bars.console.print(text, highlight=False)
        else:
            typer.echo(text)
        sys.stdout.flush()


def new_teller(*, as_json: bool) -> Teller:
    """A teller for this process's standard output."""
    bars = None
    if not as_json and sys.stdout.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bars = Progress(*columns, console=Console(), transient=True)
    return Teller(as_json=as_json, bars=bars)
