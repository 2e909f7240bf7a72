"""Lines of several sinks, and of several processes, on one standard output or in one file."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tensorguard.siem.lines import StandardOutput, append_to
from tests.patience import PATIENCE_S

LINES = 30
LONG = 20_000
"""Many times what a pipe takes at once without another getting between."""
OTHER = f"""
import json, sys
from tensorguard.siem.lines import StandardOutput
output = StandardOutput()
for number in range({LINES}):
    output.write(json.dumps({{"of": "process", "n": number, "x": "p" * {LONG}}}).encode() + b"\\n")
"""


def line_of(name: str, number: int) -> bytes:
    return json.dumps({"of": name, "n": number, "x": name[0] * LONG}).encode() + b"\n"


def test_lines_of_two_sinks_and_of_another_process_stay_whole() -> None:
    read_end, write_end = os.pipe()
    output = StandardOutput(write_end, timeout_s=PATIENCE_S)

    def write(name: str) -> None:
        for number in range(LINES):
            output.write(line_of(name, number))

    other = subprocess.Popen([sys.executable, "-c", OTHER], stdout=write_end)
    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    found: dict[str, list[int]] = {}
    with os.fdopen(read_end, "rb") as stream:
        for _ in range(3 * LINES):
            line = json.loads(stream.readline())
            assert set(line["x"]) == {line["of"][0]}
            found.setdefault(line["of"], []).append(line["n"])
        for writer in writers:
            writer.join(PATIENCE_S)
        assert other.wait(PATIENCE_S) == 0
    os.close(write_end)
    assert found == {name: list(range(LINES)) for name in ("one", "two", "process")}


def test_an_output_that_nobody_reads_is_given_up_and_goes_on_with_whole_lines() -> None:
    read_end, write_end = os.pipe()
    output = StandardOutput(write_end, timeout_s=0.2)
    os.set_blocking(write_end, True)
    with pytest.raises(TimeoutError):
        output.write(b"".join(line_of("torn", number) for number in range(10)))
    with os.fdopen(read_end, "rb") as stream:
        os.set_blocking(read_end, False)
        torn = stream.read()
        os.set_blocking(read_end, True)
        assert not torn.endswith(b"\n")
        output.write(line_of("whole", 1))
        assert stream.readline() == b"\n"
        assert json.loads(stream.readline())["of"] == "whole"
    os.close(write_end)


def test_whoever_writes_to_a_file_waits_for_whoever_does(tmp_path: Path) -> None:
    path = tmp_path / "sinks" / "a.jsonl"
    append_to(path, b'{"n":1}\n')
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"half')
        other.flush()
        writer = threading.Thread(target=append_to, args=(path, b'{"n":2}\n'))
        writer.start()
        other.write(b'":0}\n')
        other.flush()
    writer.join(PATIENCE_S)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"n": 1},
        {"half": 0},
        {"n": 2},
    ]
