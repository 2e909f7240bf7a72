"""The command line as its page gives it: files, exit codes, refusals with their code."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from tensorguard.cli.main import main
from tensorguard.tgsp.volatile import is_memory_backed


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `tensorguard tgsp …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tensorguard", "tgsp", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def built(run: Run) -> Run:
    """The same, with keys and a package in the folder."""
    assert run("keygen", "publisher", "--out", "publisher").code == 0
    assert run("keygen", "recipient", "--out", "recipient").code == 0
    Path("model.onnx").write_bytes(b"weights" * 1000)
    assert run(*BUILD).code == 0
    return run


BUILD = (
    *("build", "model.onnx", "--name", "model", "--version", "1.0.0", "--seq", "3"),
    *("--sign", "publisher.key", "--recipient", "recipient.pub", "--fleet", "hospital-a"),
    *("--not-after", "2999-12-31T00:00:00Z", "--out", "model.tgsp", "--json"),
)
OPEN = (
    *("open", "model.tgsp", "--publisher", "publisher.pub", "--key", "recipient.key"),
    *("--out", "opened", "--json"),
)


def test_a_package_goes_from_build_to_open(built: Run) -> None:
    verified = built("verify", "model.tgsp", "--publisher", "publisher.pub", "--json").json
    assert verified["verified"] is True
    assert verified["not_checked"]
    inspected = built("inspect", "model.tgsp", "--json").json
    assert inspected["verified"] is False
    assert inspected["digest"] == verified["digest"]
    assert inspected["manifest"]["not_after"] == 32_503_593_600
    assert inspected["manifest"]["target"]["fleets"] == ["hospital-a"]
    opened = built(*OPEN, "--fleet", "hospital-a", "--min-seq", "3")
    assert opened.code == 0
    assert opened.json["files"] == ["model.onnx"]
    assert Path("opened/model.onnx").read_bytes() == b"weights" * 1000


def test_people_get_lines_instead_of_json(built: Run) -> None:
    shown = built("inspect", "model.tgsp")
    assert shown.code == 0
    assert "NOTHING of this is verified" in shown.out
    assert "package       model 1.0.0, seq 3" in shown.out
    assert "for fleets    hospital-a" in shown.out
    assert "at rest       plain: opened once" in shown.out
    assert "6.8 KiB" in shown.out
    assert "valid         now (" in shown.out
    verified = built("verify", "model.tgsp", "--publisher", "publisher.pub")
    assert "good, as far as it was checked" in verified.out
    assert verified.out.count("\nNOT checked") == 5
    assert built(*BUILD, "--at-rest", "sealed").code == 0
    assert "at rest       sealed: encrypted" in built("inspect", "model.tgsp").out


def test_what_a_package_says_cannot_move_the_terminal(built: Run) -> None:
    Path("provenance.json").write_text(json.dumps({"\x1b[2J": "\u202egpj.exe", "list": ["\r"]}))
    assert built(*BUILD, "--provenance", "provenance.json").code == 0
    shown = built("inspect", "model.tgsp").out
    assert "'\\x1b[2J' = '\\u202egpj.exe'" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_a_sealed_package_opens_into_memory_only(built: Run, tmp_path: Path) -> None:
    assert built(*BUILD, "--at-rest", "sealed").code == 0
    arguments = [*OPEN, "--fleet", "hospital-a"]
    assert json.loads(built(*arguments).err)["error"]["code"] == "sealed-at-rest"
    if not is_memory_backed(tmp_path):
        assert built(*arguments, "--volatile").code == 2
    if is_memory_backed(Path("/dev/shm")):
        with TemporaryDirectory(dir="/dev/shm") as folder:
            arguments[arguments.index("opened")] = f"{folder}/opened"
            ran = built(*arguments, "--volatile")
            assert ran.json["at_rest"] == "sealed"
            assert Path(folder, "opened", "model.onnx").read_bytes() == b"weights" * 1000


def test_private_keys_are_for_their_owner_and_never_replaced(built: Run) -> None:
    before = Path("publisher.key").read_bytes()
    assert stat.S_IMODE(Path("publisher.key").stat().st_mode) == 0o600
    again = built("keygen", "publisher", "--out", "publisher", "--json")
    assert again.code == 1
    assert json.loads(again.err)["error"]["code"] == "output-exists"
    assert Path("publisher.key").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([*OPEN], "wrong-fleet"),
        ([*OPEN, "--fleet", "hospital-a", "--min-seq", "4"], "seq-too-low"),
        ([*OPEN[:-5], "--key", "publisher.key", *OPEN[-3:]], "bad-key"),
        (["verify", "model.tgsp", "--publisher", "recipient.pub", "--json"], "bad-key"),
        (["verify", "model.onnx", "--publisher", "publisher.pub", "--json"], "not-a-package"),
        (["inspect", "model.onnx", "--json"], "not-a-package"),
        ([*BUILD[:3], "Model", *BUILD[4:]], "bad-manifest"),
        ([*BUILD[:-2], "no/such/folder.tgsp", "--json"], "file-failed"),
    ],
)
def test_a_refusal_ends_with_1_and_its_code(built: Run, arguments: list[str], code: str) -> None:
    ran = built(*arguments)
    assert ran.code == 1
    error = json.loads(ran.err)["error"]
    assert error["code"] == code
    assert error["hint"]
    assert not Path("opened").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["open", "model.tgsp"],
        ["verify", "no-such-file.tgsp", "--publisher", "publisher.pub"],
        ["keygen", "emperor", "--out", "x"],
        [*BUILD, "--not-after", "tomorrow"],
        [*BUILD, "--provenance", "model.onnx"],
    ],
)
def test_wrong_usage_ends_with_2(built: Run, arguments: list[str]) -> None:
    assert built(*arguments).code == 2


def test_fractions_in_the_provenance_stay_decimal_text(built: Run) -> None:
    Path("provenance.json").write_text('{"epsilon": 1.50, "delta": 1e-5, "rows": 12}')
    assert built(*BUILD, "--provenance", "provenance.json").code == 0
    manifest = built("inspect", "model.tgsp", "--json").json["manifest"]
    assert manifest["provenance"] == {"epsilon": "1.50", "delta": "1e-5", "rows": 12}
