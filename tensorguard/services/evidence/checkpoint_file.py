"""The newest checkpoint that a host has seen, in a file outside of the database."""

import os
from pathlib import Path

from tensorguard.ledger.checkpoint import MAX_NOTE_BYTES, parse_checkpoint

FOLDER = "ledger"
FILE = "checkpoint"


def checkpoint_file(data_dir: Path) -> Path:
    """Return where a host with this data directory keeps it."""
    return data_dir / FOLDER / FILE


def read_note(path: Path) -> str | None:
    """Return the note in the file, or None where there is no file.

    Raises: BadCheckpoint where the file holds something else.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_NOTE_BYTES + 1)
    except FileNotFoundError:
        return None
    note = raw.decode(errors="replace")
    parse_checkpoint(note)
    return note


def write_note(path: Path, note: str) -> None:
    """Replace the file as a whole: whoever reads it finds the old note or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(note)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
