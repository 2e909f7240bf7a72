"""The state directory: keys, identity, state, outbox and packages of one agent."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.core.state import AgentState
from agent.errors import NotEnrolled, StateDamaged, StateInUse, StateNotWritable

T = TypeVar("T")
AGENT_PEM = "agent.pem"  # key and certificate in one file, so that both change at once
NEXT_PEM = "next.pem"  # the same, newer, until it has connected
PENDING_KEY = "pending-key.pem"  # made, but not certified yet
ENCRYPTION_KEY = "encryption-key.pem"
IDENTITY = "identity.json"
STATE = "state.json"
TRUST = "trust.json"
OUTBOX = "outbox.sqlite3"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """Where the platform is, as the enrollment said."""

    device_url: str
    mqtt_host: str
    mqtt_port: int
    name: str


class StateDir:
    """Files of mode 0600 below one directory of mode 0700, replaced as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the directory, for this user only. Raises: StateNotWritable."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise StateNotWritable(f"{self.path}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other agent off this directory. Raises: StateInUse, StateNotWritable."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateNotWritable(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateInUse(f"an agent already runs on {self.path}") from None
        try:
            yield
        finally:
            os.close(descriptor)

    @property
    def is_enrolled(self) -> bool:
        """Whether an enrollment was completed here; `agent.pem` is what it writes last."""
        return (self.path / AGENT_PEM).is_file()

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, durably: old or new content survives a power cut, never a mixture.

        Raises: StateNotWritable.
        """
        partial = self.path / f"{name}.partial"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path / name)
            self.sync()
        except OSError as error:
            raise StateNotWritable(f"{self.path / name}: {error.strerror}") from error

    def find(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is none. Raises: StateDamaged."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateDamaged(f"{self.path / name}: {error.strerror}") from error

    def get(self, name: str) -> bytes:
        """Return a file's content. Raises: NotEnrolled, StateDamaged."""
        data = self.find(name)
        if data is None:
            raise NotEnrolled(f"there is no {name} in {self.path}")
        return data

    def remove(self, name: str) -> None:
        """Delete a file if it is there. Raises: StateNotWritable."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StateNotWritable(f"{self.path / name}: {error.strerror}") from error

    def replace(self, name: str, by: str) -> None:
        """Put the file `by` in the place of `name`, durably. Raises: StateNotWritable."""
        try:
            (self.path / by).rename(self.path / name)
            self.sync()
        except OSError as error:
            raise StateNotWritable(f"{self.path / name}: {error.strerror}") from error

    def sync(self) -> None:
        """Make renames in the directory durable."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get_home(self) -> Home:
        """Return where the platform is. Raises: NotEnrolled, StateDamaged."""
        return _decode(self.get(IDENTITY), Home, self.path / IDENTITY)

    def get_state(self) -> AgentState:
        """Return the agent's state. Raises: NotEnrolled, StateDamaged."""
        return _decode(self.get(STATE), AgentState, self.path / STATE)

    def write_state(self, state: AgentState) -> None:
        """Replace the agent's state. Raises: StateNotWritable."""
        self.write(STATE, msgspec.json.encode(state))


def _decode(data: bytes, type_: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateDamaged(f"{path} cannot be read: {str(error)[:200]}") from None
