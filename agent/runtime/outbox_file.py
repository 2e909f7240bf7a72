"""The outbox on disk: SQLite in WAL mode, every commit on the disk before it returns."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID, uuid4

from agent.core.outbox import Outbox
from agent.errors import StateDamaged, StateNotWritable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (only INTEGER PRIMARY KEY CHECK (only = 1),
                                log_id TEXT NOT NULL, issued INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
"""


class OutboxFile:
    """Keeps what the core's outbox holds; `issued` survives even when nothing is held."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises: StateDamaged, StateNotWritable."""
        self._path = path
        try:
            # Autocommit: transactions are begun where they are meant. One thread at a time uses it,
            # but it need not be the one that opened it.
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=5, check_same_thread=False
            )
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO log VALUES (1, ?, 0)", (str(uuid4()),))
        except sqlite3.DatabaseError as error:
            raise _explain(path, error) from error
        except OSError as error:
            raise StateNotWritable(f"{path}: {error.strerror}") from error

    def load(self) -> Outbox:
        """Return the outbox as it was when the last change was written. Raises: StateDamaged."""
        try:
            log_id, issued = self._db.execute("SELECT log_id, issued FROM log").fetchone()
            held = self._db.execute("SELECT number, payload FROM events ORDER BY number").fetchall()
        except sqlite3.DatabaseError as error:
            raise _explain(self._path, error) from error
        return Outbox(UUID(log_id), held, issued=issued)

    def keep(self, number: int, payload: bytes) -> None:
        """Add an event, durably. Raises: StateNotWritable."""
        self._change(
            [
                ("INSERT INTO events VALUES (?, ?)", (number, payload)),
                ("UPDATE log SET issued = ?", (number,)),
            ]
        )

    def drop(self, through: int, numbers: Iterable[int]) -> None:
        """Delete events up to `through`, and those in `numbers`. Raises: StateNotWritable."""
        self._change(
            [
                ("DELETE FROM events WHERE number <= ?", (through,)),
                *(("DELETE FROM events WHERE number = ?", (number,)) for number in numbers),
            ]
        )

    def start_log(self, log_id: UUID, events: Iterable[tuple[int, bytes]]) -> None:
        """Replace everything by `events` under a new log_id. Raises: StateNotWritable."""
        rows = list(events)
        self._change(
            [
                ("DELETE FROM events", ()),
                *(("INSERT INTO events VALUES (?, ?)", row) for row in rows),
                (
                    "UPDATE log SET log_id = ?, issued = ?",
                    (str(log_id), rows[-1][0] if rows else 0),
                ),
            ]
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _change(self, statements: Iterable[tuple[str, tuple[object, ...]]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    self._db.execute(sql, values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise StateNotWritable(f"{self._path}: {error}") from error


def _explain(path: Path, error: sqlite3.DatabaseError) -> StateDamaged | StateNotWritable:
    if isinstance(error, sqlite3.OperationalError):
        return StateNotWritable(f"{path}: {error}")
    return StateDamaged(f"{path}: {error}")
