"""What is on disk after the agent was killed at any moment."""

import random
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from agent.core.effects import KeepEvent
from agent.core.state import AgentState, Installed, SeqFloor
from agent.errors import StateDamaged, StateNotWritable
from agent.runtime.outbox_file import OutboxFile
from agent.runtime.statedir import StateDir
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Event

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from agent.runtime.outbox_file import OutboxFile

file = OutboxFile(Path(sys.argv[1]))
outbox = file.load()
while True:
    for effect in outbox.add("self-test", {"text": "x" * 3000}, datetime.now(UTC)):
        file.keep(effect.number, effect.payload)
        print(effect.number, flush=True)
"""


def test_every_event_that_was_kept_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        kept = [process.stdout.readline() for _ in range(random.randint(1, 60))]
        process.send_signal(signal.SIGKILL)
        kept += process.stdout.readlines()
        process.wait(10)
        numbers = [int(line) for line in kept if line.endswith(b"\n")]
        file = OutboxFile(path)
        outbox = file.load()
        assert outbox.issued >= numbers[-1]
        assert len(outbox) == outbox.issued, "every number that was given is held, whole"
        while (payload := outbox.take()) is not None:
            codec.decode(Event, payload)
        file.close()


def test_numbers_go_on_after_everything_was_acked(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path / "outbox.sqlite3")
    outbox = file.load()
    (kept,) = outbox.add("started", {}, datetime.now(UTC))
    assert isinstance(kept, KeepEvent)
    file.keep(kept.number, kept.payload)
    file.drop(1, ())
    file.close()
    again = OutboxFile(tmp_path / "outbox.sqlite3").load()
    assert (len(again), again.issued, again.log_id) == (0, 1, outbox.log_id)


def test_a_new_log_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path / "outbox.sqlite3")
    file.keep(7, b"old")
    new = uuid4()
    file.start_log(new, [(1, b"a"), (2, b"b")])
    outbox = file.load()
    assert (outbox.log_id, outbox.issued, len(outbox)) == (new, 2, 2)


def test_an_outbox_that_is_not_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StateDamaged):
        OutboxFile(path)


def test_a_full_disk_is_said_so_and_changes_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from agent.errors import StateNotWritable\n"
        "from agent.runtime.outbox_file import OutboxFile\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "file = OutboxFile(Path(sys.argv[1])); file.keep(1, b'x')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try: file.keep(2, b'y' * 500_000)\n"
        "except StateNotWritable: sys.exit(7)\n"
    )
    path = tmp_path / "outbox.sqlite3"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True)
    assert done.returncode == 7, done.stderr.decode()
    outbox = OutboxFile(path).load()
    assert (len(outbox), outbox.issued) == (1, 1)


def test_the_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    directory = StateDir(tmp_path / "device")
    directory.prepare()
    state = AgentState(
        time_floor=datetime(2026, 1, 1, tzinfo=UTC),
        boot_count=3,
        running=Installed(name="m", version="1.0.0", digest="11" * 32, seq=4),
        floors={"m": SeqFloor(seq=4, digest="11" * 32)},
        commands={uuid4(): datetime(2026, 1, 2, tzinfo=UTC)},
    )
    directory.write_state(state)
    assert directory.get_state() == state


def test_a_damaged_state_is_named_and_not_replaced(tmp_path: Path) -> None:
    directory = StateDir(tmp_path / "device")
    directory.prepare()
    directory.write("state.json", b'{"v": 1')
    with pytest.raises(StateDamaged) as caught:
        directory.get_state()
    assert "state.json" in caught.value.message


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    directory = StateDir(tmp_path / "device")
    directory.prepare()
    directory.write("state.json", b"old")
    (directory.path / "state.json.partial").mkdir()
    with pytest.raises(StateNotWritable):
        directory.write("state.json", b"new")
    assert directory.get("state.json") == b"old"
