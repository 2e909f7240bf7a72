"""Journeys of people through the interface, in a real browser: node drives it, pytest tells."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.platform.running import ROOT, clean_environment

HERE = Path(__file__).parent
PATIENCE_S = 150
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _missing(what: str) -> None:
    """Not run here, and so said; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(f"NOT RUN: {what}")


def find_browser() -> str:
    """The first of $TG_BROWSER, chromium, Chrome."""
    named = os.environ.get("TG_BROWSER")
    found = next(filter(None, map(shutil.which, [named] if named else _BROWSERS)), None)
    if found is None:
        _missing("no browser: install chromium, or name one in TG_BROWSER")
    assert found is not None
    return found


def find_node() -> str:
    """The node of this virtual environment; the machine's only where there is no other."""
    beside = Path(sys.executable).parent / "node"
    found = str(beside) if beside.exists() else shutil.which("node")
    if found is None or not (ROOT / "ui/node_modules/playwright-core").is_dir():
        _missing("ui/node_modules is not installed: make setup")
    assert found is not None
    return found


def require_built_interface() -> None:
    """The api serves what was built when it started."""
    if not (ROOT / "api/static/index.html").is_file():
        _missing("api/static is not built: make setup")


def run_journey(
    name: str, directory: Path, *, patience_s: float = PATIENCE_S, **facts: Any
) -> dict[str, Any]:
    """Run a journey to its end and return what it measured; the error tells where it stopped."""
    facts |= {
        "browser": find_browser(),
        "directory": str(directory),
        "python": sys.executable,
        "root": str(ROOT),
    }
    done = subprocess.run(
        [find_node(), str(HERE / "run.mjs"), name],
        input=json.dumps(facts),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=patience_s,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stderr[-6000:]}"
    measured: dict[str, Any] = json.loads(done.stdout or "{}")
    return measured
