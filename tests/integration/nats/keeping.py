"""The keeper of a NATS node as a process of its own, on the database of a real platform."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from broker.nats.keys import CalloutKeys
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.broker.certificates import TRUST_DOMAIN
from tests.integration.nats.server import free_ports
from tests.postgres import Database

PATIENCE_S = 30.0


async def initialise(database: Database, data_dir: Path) -> None:
    """Make a migrated database a platform, with its key in the folder."""
    engine = create_engine(database.app_url, service="test")
    async with session_maker(engine).begin() as session:
        await bootstrap(
            session,
            kek=LocalKeyProvider.open_or_create(data_dir / KEK_FILE),
            trust_domain=TRUST_DOMAIN,
            root_dir=data_dir / "root-keys",
            now=datetime.now(UTC),
            hash_with=lambda _: "no password",
        )
    await engine.dispose()


@dataclass
class Keeper:
    """How to run one, and what it said."""

    data: Path
    environment: dict[str, str]
    port: int
    mqtt_port: int
    said: list[dict[str, object]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it has said that it is ready."""
        starts = len(self.heard("nats_server_ready"))
        read_end, write_end = os.pipe()
        command = (sys.executable, "-m", "tensorguard.cli", "broker", "nats-server")
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env={**self.environment, "TG_READY_FD": str(write_end)},
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(write_end,),
            )
        finally:
            os.close(write_end)
        assert self.process.stderr is not None
        self._reading = asyncio.create_task(self._read(self.process.stderr))
        # Ends when the keeper does, whatever it says: it holds the only other end.
        reading = asyncio.to_thread(os.read, read_end, 16)
        asyncio.get_running_loop().call_later(PATIENCE_S, self._give_up, self.process)
        line = await reading
        os.close(read_end)
        assert line == b"ready\n", self.said
        await self.until("nats_server_ready", starts + 1)

    def _give_up(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None and not self.heard("nats_server_ready"):
            process.kill()

    async def ended(self) -> str:
        """Wait for its end; return what it wrote last."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE_S):
            await self.process.wait()
            await self._reading
        return "\n".join(str(record) for record in self.said[-8:])

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.ended()

    async def kill(self) -> None:
        """kill -9, of the keeper alone."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    @property
    def server_pid(self) -> int:
        """The process of the server that it runs now."""
        return next(
            int(str(record["pid"]))
            for record in reversed(self.said)
            if record.get("event") == "nats_server_ready"
        )

    def heard(self, event: str) -> list[dict[str, object]]:
        """The records of this kind that it has logged."""
        return [record for record in self.said if record.get("event") == event]

    async def until(self, event: str, count: int = 1) -> None:
        """Wait until it has logged this event so often."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while len(self.heard(event)) < count:  # noqa: ASYNC110  its log is all that tells
                    await asyncio.sleep(0.02)
        assert len(self.heard(event)) >= count, self.said

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace").rstrip()
            try:
                record = json.loads(text)
            except ValueError:
                record = {"event": text}
            self.said.append(record if isinstance(record, dict) else {"event": text})


@asynccontextmanager
async def a_keeper(database: Database, folder: Path, **settings: str) -> AsyncIterator[Keeper]:
    """A keeper that was not started yet, on free ports; whatever runs of it ends at the end."""
    port, mqtt_port = free_ports(2)
    data = folder / "nats"
    keys = folder / "nats-keys.json"
    if not keys.exists():
        CalloutKeys.generate().store(keys)
    environment = {
        **os.environ,
        "TG_DATABASE_URL": database.app_url,
        "TG_NATS_LISTEN": f"127.0.0.1:{port}",
        "TG_MQTT": f"127.0.0.1:{mqtt_port}",
        "TG_NATS_KEYS": str(keys),
        "TG_NATS_DATA": str(data),
        "TG_NATS_STORED_BYTES": str(512 * 1024**2),
        **settings,
    }
    keeper = Keeper(data, environment, port, mqtt_port)
    try:
        yield keeper
    finally:
        await keeper.stop()


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while is_alive(pid):  # noqa: ASYNC110  it is somebody else's child
            await asyncio.sleep(0.02)


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
