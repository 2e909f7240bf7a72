"""What a node shows and believes, while it runs: renewed, and whom that puts out."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from cryptography import x509
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from broker.nats.health import find_certificate
from broker.nats.keys import CalloutKeys
from broker.nats.link import LOST
from broker.nats.node import NodeKeeper
from broker.nats.settings import KeeperSettings
from tensorguard.cli.rotation import Plan, Rotator
from tensorguard.cli.telling import Teller
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.services.certificates.authorities import PURPOSE_CA, list_authorities
from tensorguard.services.keys.following import KeyringFollower
from tensorguard.services.keys.keyring import BROKER_SECRETS, Keyring
from tensorguard.services.keys.sealed_rows import open_stored
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.broker.certificates import Platform
from tests.integration.broker.signer import running_signer
from tests.integration.nats.keeping import a_keeper, initialise
from tests.integration.nats.server import program
from tests.integration.nats.site import NatsSite
from tests.patience import PATIENCE_S
from tests.postgres import Database


@dataclass
class Home:
    """A keeper in this process, whose clock a test sets, and the services that connect to it."""

    settings: KeeperSettings
    folder: Path
    platform: Platform
    offset: timedelta = timedelta(0)
    opened: list[Client] = field(default_factory=list)
    keeper: NodeKeeper = field(init=False)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    async def shown(self) -> x509.Certificate:
        """The certificate that a new handshake at the agents' listener sees."""
        context = self.platform.hub.client_context(self.platform.ca_path)
        port = int(self.settings.mqtt.rpartition(":")[2])
        return await find_certificate("localhost", port, context)

    async def connect(self, service: str, certified_by: Platform | None = None) -> Client:
        credentials = (certified_by or self.platform).service(service)
        client = await nats.connect(
            f"tls://{self.settings.nats_listen}",
            tls=credentials.client_context(self.platform.ca_path),
            tls_handshake_first=True,
            allow_reconnect=False,
        )
        await client.flush()
        self.opened.append(client)
        return client

    async def respond(self) -> None:
        """Stand by at the auth callout, as a front does."""
        front = await self.connect("broker")

        async def ignore(_: Msg) -> None:
            return

        await front.subscribe("$SYS.REQ.USER.AUTH", queue="responders", cb=ignore)
        await front.flush()


@asynccontextmanager
async def running_home(database: Database, folder: Path, platform: Platform) -> AsyncIterator[Home]:
    async with a_keeper(database, folder) as prepared:
        names = {key.lower()[3:]: text for key, text in prepared.environment.items()}
        settings = KeeperSettings.model_validate(names)
    engine = create_engine(database.app_url, service="test")
    sessions = session_maker(engine)
    async with sessions() as session:
        keyring = await Keyring.load(session, None, only=BROKER_SECRETS)
    home = Home(settings, folder, platform)
    keeper = home.keeper = NodeKeeper(settings, keyring, program(), clock=home.now)
    keeper.prepare(CalloutKeys.load(settings.nats_keys))
    stop, ready = asyncio.Event(), asyncio.Event()
    changed = [keeper.trust_changed, keeper.certificate.hasten]
    follower = KeyringFollower(keyring, None, sessions, database.app_url, changed)
    assert await keeper.certificate.obtain(stop)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keeper.serve(follower, stop, ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 30)
            yield home
        finally:
            for client in home.opened:
                await client.close()
            stop.set()
    await engine.dispose()


@pytest.fixture
async def home(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Home]:
    await initialise(fresh_database, tmp_path)
    async with running_signer(fresh_database.app_url, tmp_path) as keyring:
        platform = Platform(tmp_path, keyring.ca)
        async with running_home(fresh_database, tmp_path, platform) as running:
            yield running


async def until_another(home: Home, first: x509.Certificate) -> x509.Certificate:
    async with asyncio.timeout(PATIENCE_S):
        while (now := await home.shown()) == first:  # noqa: ASYNC110  only a handshake tells
            await asyncio.sleep(0.05)
    return now


async def test_a_renewed_certificate_is_shown_and_services_stay_connected(home: Home) -> None:
    await home.respond()
    hub = await home.connect("hub")
    first = await home.shown()
    home.offset = timedelta(days=5)
    home.keeper.certificate.hasten()
    assert (await until_another(home, first)) == home.keeper.certificate.certificate
    await hub.flush()
    assert hub.is_connected


async def test_without_anybody_who_admits_agents_a_reload_waits(home: Home) -> None:
    first = await home.shown()
    with capture_logs() as logs:
        home.offset = timedelta(days=5)
        home.keeper.certificate.hasten()
        async with asyncio.timeout(PATIENCE_S):
            while not any(one["event"] == "nats_reload_postponed" for one in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await home.shown() == first
        await home.respond()
        assert await until_another(home, first) != first


class Halted(Exception):
    pass


class Halting(Teller):
    """Ends a rotation once agents are told to believe the new CA, before it issues anything."""

    def _write(self, step: str, text: str, facts: dict[str, object]) -> None:
        if step == "published":
            raise Halted


async def new_ca(home: Home) -> Platform:
    """Begin to follow the CA by another; return whom that one will certify."""
    plan = Plan(
        within_s=2,
        leave=frozenset(),
        patience_s=10,
        settle_s=0.1,
        again=False,
        draft=None,
        root_keys=home.folder / "root-keys",
        data_dir=home.folder,
    )
    with pytest.raises(Halted):
        await Rotator(home.settings.database_url, plan, Halting(as_json=True, bars=None)).run()
    engine = create_engine(home.settings.database_url, service="test")
    async with session_maker(engine)() as session:
        newest = (await list_authorities(session))[-1]
        kek = LocalKeyProvider.open(home.folder / KEK_FILE)
        der = await open_stored(session, kek, purpose=PURPOSE_CA, owner=newest.pin)
    await engine.dispose()
    folder = home.folder / "newer"
    await asyncio.to_thread(folder.mkdir)
    return Platform(folder, CertificateAuthority.load(newest.certificate, der))


async def test_whom_a_new_ca_has_certified_gets_in_once_the_bundle_says_so(home: Home) -> None:
    await home.respond()
    newer = await new_ca(home)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                hub = await home.connect("hub", newer)
                break
            except LOST:
                await asyncio.sleep(0.1)
    assert hub.is_connected
    old = await home.connect("hub")
    assert old.is_connected


async def test_a_reload_ends_the_sessions_of_agents_who_are_admitted_again(site: NatsSite) -> None:
    """Why reloads are rare, wait for a responder, and take turns: a trait of the server (2.15)."""
    agent = site.platform.agent()
    wire = await site.agent(agent)
    await site.present(1)
    site.node.server.process.send_signal(signal.SIGHUP)
    assert await wire.hear() is None
    await site.agent(agent)
    await site.present(1)
