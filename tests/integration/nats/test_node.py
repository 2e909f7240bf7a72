"""The keeper of a NATS node: what it writes, what it survives, what it says."""

import asyncio
import socket
import stat
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from broker.nats.configuration import STREAM
from tensorguard.services.keys.keyring import Keyring
from tests.integration.broker.certificates import Platform
from tests.integration.broker.signer import running_signer
from tests.integration.nats.keeping import (
    Keeper,
    a_keeper,
    initialise,
    is_alive,
    kill,
    until_gone,
)
from tests.patience import PATIENCE_S
from tests.postgres import Database


@pytest.fixture
async def database(fresh_database: Database, tmp_path: Path) -> Database:
    await initialise(fresh_database, tmp_path)
    return fresh_database


async def connect(keeper: Keeper, keyring: Keyring, folder: Path) -> Client:
    """A hub's connection to the node."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    platform = Platform(folder, keyring.ca)
    context = platform.hub.client_context(platform.ca_path)
    return await nats.connect(
        f"tls://localhost:{keeper.port}",
        tls=context,
        tls_handshake_first=True,
        connect_timeout=PATIENCE_S,
    )


async def test_what_was_stored_survives_kill_9_of_everything_twice(
    database: Database, tmp_path: Path
) -> None:
    async with (
        running_signer(database.app_url, tmp_path) as keyring,
        a_keeper(database, tmp_path) as keeper,
    ):
        await keeper.start()
        for name in ("node.pem", "ca.pem", "nats.conf"):
            assert stat.S_IMODE((keeper.data / name).stat().st_mode) == 0o600, name
        hub = await connect(keeper, keyring, tmp_path / "hub")
        await hub.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["tgp.>"]))
        await hub.close()
        for _ in range(2):
            kill(keeper.server_pid)
            await keeper.kill()
            await keeper.start()
            hub = await connect(keeper, keyring, tmp_path / "hub")
            assert (await hub.jetstream().stream_info(STREAM)).config.subjects == ["tgp.>"]
            await hub.close()


async def test_the_server_dies_with_its_keeper(database: Database, tmp_path: Path) -> None:
    async with running_signer(database.app_url, tmp_path), a_keeper(database, tmp_path) as keeper:
        await keeper.start()
        pid = keeper.server_pid
        assert is_alive(pid)
        await keeper.kill()
        await until_gone(pid)
        await keeper.start()  # nothing holds the ports or the store
        assert keeper.server_pid != pid


async def test_a_keeper_whose_server_ends_by_itself_ends_too(
    database: Database, tmp_path: Path
) -> None:
    async with running_signer(database.app_url, tmp_path), a_keeper(database, tmp_path) as keeper:
        await keeper.start()
        kill(keeper.server_pid)
        assert "nats-server has ended by itself (signal 9)" in await keeper.ended()


async def test_a_taken_port_is_named(database: Database, tmp_path: Path) -> None:
    async with running_signer(database.app_url, tmp_path), a_keeper(database, tmp_path) as keeper:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", keeper.mqtt_port))
            holder.listen()
            with pytest.raises(AssertionError):
                await keeper.start()
            said = await keeper.ended()
        assert "nats-address-taken" in said
        assert str(keeper.mqtt_port) in said


async def test_a_store_that_cannot_be_read_is_called_so(database: Database, tmp_path: Path) -> None:
    async with (
        running_signer(database.app_url, tmp_path) as keyring,
        a_keeper(database, tmp_path) as keeper,
    ):
        await keeper.start()
        hub = await connect(keeper, keyring, tmp_path / "hub")
        await hub.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["tgp.>"]))
        await hub.close()
        await keeper.stop()
        (meta,) = keeper.data.glob(f"store/jetstream/PLATFORM/streams/{STREAM}/meta.inf")
        meta.write_bytes(b"\x00" * 100)
        with pytest.raises(AssertionError):
            await keeper.start()
        said = await keeper.ended()
        assert "nats-store-damaged" in said
        assert STREAM in said
