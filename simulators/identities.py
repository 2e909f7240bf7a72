"""The identities of simulated agents, kept for the next run: one SQLite file and a PEM each."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from agent.core.state import AgentState
from simulators.errors import SimulatorError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trust (version INTEGER PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS agents (
    number INTEGER PRIMARY KEY, home BLOB NOT NULL, state BLOB NOT NULL, outbox BLOB) STRICT;
"""


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """Who a simulated agent is and where its platform is; `encryption_key` is raw X25519."""

    number: int
    agent_id: UUID
    fleet: str
    trust_domain: str
    device_url: str
    mqtt_host: str
    mqtt_port: int
    encryption_key: bytes


class HeldEvents(msgspec.Struct, frozen=True, kw_only=True):
    """An outbox as a run that ended cleanly left it."""

    log_id: UUID
    issued: int
    events: list[tuple[int, bytes]]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as the last run left it; no outbox after a crash: a new log_id begins."""

    home: Home
    state: AgentState
    outbox: HeldEvents | None


class IdentityStore:
    """A directory of mode 0700 with everything that the next run needs."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises: SimulatorError."""
        self.path = path
        try:
            (path / "agents").mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._db = sqlite3.connect(path / "simulators.sqlite3", isolation_level=None)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.DatabaseError) as error:
            raise SimulatorError(
                f"{path} cannot be used: {error}",
                hint="Name another directory with --state; two simulations cannot share one.",
            ) from error

    def pem(self, agent_id: UUID, *, next: bool = False) -> Path:
        """Where an agent's key and certificate lie; `next`: those that have yet to connect."""
        return self.path / "agents" / f"{agent_id}{'.next' if next else ''}.pem"

    def promote_pem(self, agent_id: UUID) -> None:
        """Put the newer key and certificate in the place of the ones in use."""
        self.pem(agent_id, next=True).rename(self.pem(agent_id))

    def list_agents(self, most: int) -> list[Kept]:
        """The first agents by number; their outboxes are now this run's, and no longer here."""
        rows = self._db.execute(
            "SELECT home, state, outbox FROM agents ORDER BY number LIMIT ?", (most,)
        ).fetchall()
        self._db.execute(
            "UPDATE agents SET outbox = NULL WHERE number IN "
            "(SELECT number FROM agents ORDER BY number LIMIT ?)",
            (most,),
        )
        return [
            Kept(
                home=msgspec.msgpack.decode(home, type=Home),
                state=msgspec.msgpack.decode(state, type=AgentState),
                outbox=None if box is None else msgspec.msgpack.decode(box, type=HeldEvents),
            )
            for home, state, box in rows
        ]

    def next_number(self) -> int:
        """The number of the next new agent, from 0."""
        (number,) = self._db.execute("SELECT coalesce(max(number) + 1, 0) FROM agents").fetchone()
        return int(number)

    def add(self, home: Home, state: AgentState, pem: bytes) -> None:
        """Keep a new agent; its PEM first, so that a row never lacks one."""
        self.write_pem(home.agent_id, pem)
        self._db.execute(
            "INSERT INTO agents (number, home, state) VALUES (?, ?, ?)",
            (home.number, msgspec.msgpack.encode(home), msgspec.msgpack.encode(state)),
        )

    def write_pem(self, agent_id: UUID, pem: bytes, *, next: bool = False) -> None:
        """Replace an agent's key and certificate at once."""
        path = self.pem(agent_id, next=next)
        partial = path.with_suffix(".partial")
        with os.fdopen(
            os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
        ) as file:
            file.write(pem)
        partial.rename(path)

    def save(self, states: Iterable[tuple[int, AgentState, HeldEvents | None]]) -> None:
        """Keep the states of many agents in one transaction."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "UPDATE agents SET state = ?, outbox = ? WHERE number = ?",
            (
                (
                    msgspec.msgpack.encode(state),
                    None if held is None else msgspec.msgpack.encode(held),
                    number,
                )
                for number, state, held in states
            ),
        )
        self._db.execute("COMMIT")

    def keep_trust(self, version: int, envelope: bytes) -> None:
        """Keep a trust bundle; the newest one counts."""
        self._db.execute("INSERT OR REPLACE INTO trust VALUES (?, ?)", (version, envelope))

    def find_trust(self) -> bytes | None:
        """The newest trust bundle that was kept."""
        row: Sequence[bytes] | None = self._db.execute(
            "SELECT envelope FROM trust ORDER BY version DESC LIMIT 1"
        ).fetchone()
        return None if row is None else row[0]

    def clear(self) -> None:
        """Forget everything: it belongs to a platform that is no more."""
        self._db.executescript("DELETE FROM agents; DELETE FROM trust;")
        for path in (self.path / "agents").iterdir():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
