"""The `tensorguard` command before any subcommand runs."""

import json
import subprocess
import sys

import pytest

from tensorguard.cli import main
from tensorguard.cli.main import explain, find_explained


class DoorShut(Exception):
    code = "door-shut"
    message = "The door is shut."
    hint = "Open it."


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tensorguard.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_help_names_every_subcommand_and_imports_none() -> None:
    script = (
        "import sys, tensorguard.cli.main as m\n"
        "try: m.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'fastapi', 'amqtt', 'cryptography', 'pydantic', 'paho'}\n"
        "print('imported', sorted(heavy & set(sys.modules)))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert "imported []" in said
    for name, known in main.SUBCOMMANDS.items():
        assert name in said
        assert known.summary in said


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    ended = run("frobnicate")
    assert ended.returncode == 2
    assert "frobnicate" in ended.stderr


def test_a_library_that_is_missing_names_the_extra_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['sqlalchemy'] = None  # as if it were not installed\n"
        "sys.argv = ['tensorguard', 'db', 'upgrade']\n"
        "from tensorguard.cli.main import main; main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert "pip install 'tensorguard-platform[server]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bug_of_ours_is_not_called_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    known = main.Subcommand("server", "Not written.")
    monkeypatch.setitem(main.SUBCOMMANDS, "nowhere", known)
    with pytest.raises(ModuleNotFoundError, match=r"tensorguard\.cli\.nowhere"):
        main.load("nowhere")


def test_an_error_of_ours_is_found_inside_task_groups() -> None:
    error = DoorShut()
    assert find_explained(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    assert find_explained(ExceptionGroup("", [error, DoorShut()])) is None
    assert find_explained(ValueError("no hint")) is None


def test_an_explained_error_is_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(DoorShut(), as_json=True) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "error": {"code": "door-shut", "message": "The door is shut.", "hint": "Open it."}
    }


def test_an_explained_error_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    explain(DoorShut(), as_json=False)
    said = capsys.readouterr().err
    assert "The door is shut." in said
    assert "Open it." in said
    assert "Traceback" not in said
