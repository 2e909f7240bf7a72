"""Keeps one NATS node: certifies it, starts its server, renews what the server shows and believes.

A reload, which is what a new certificate takes, ends the sessions of all agents on the node: the
server (2.15) holds users that came from the auth callout for removed ones. They come back at once,
if a responder admits them; so a reload waits for one, and the nodes of a cluster take turns.
"""

import asyncio
import logging
import random
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
import structlog
from cryptography import x509

from broker.nats.configuration import render
from broker.nats.errors import NodeError, NodeStoreDamaged
from broker.nats.health import Health, NodeSilent, ask, find_certificate
from broker.nats.keys import CalloutKeys
from broker.nats.material import NodeCertificate, write_cas, write_configuration
from broker.nats.server import NatsServer, find_program
from broker.nats.settings import KeeperSettings
from broker.settings import split_address
from tensorguard.services.keys.following import KeyringFollower
from tensorguard.services.keys.keyring import BROKER_SECRETS, Keyring
from tensorguard.store.engine import check_schema, create_engine, session_maker
from tensorguard.store.errors import DatabaseUnreachable

_log = structlog.get_logger()
_ASK_EVERY_S: Final = 0.1
_SAY_EVERY_S: Final = 10.0
_WATCH_EVERY_S: Final = 15.0
_NEARLY_FULL: Final = 0.8
_RELOADED_WITHIN_S: Final = 10.0
_RETRY_S: Final = 5.0
# Without a responder a reload would only put agents out; but nobody connects to a server whose
# certificate has expired, not even the responder.
_RELOAD_BEFORE_END: Final = timedelta(hours=1)


async def run(settings: KeeperSettings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`; in a cluster end the sessions gently then.

    Starts the server once a hub or an api has certified it, and is ready when JetStream is, which
    in a cluster takes more than half of the nodes.
    Raises: StoreError, PlatformNotInitialised, NodeError, CertificateRefused.
    """
    # Of a TLS connection that its server has ended; whoever used it says what that meant.
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())
    keys, program = CalloutKeys.load(settings.nats_keys), find_program(settings.nats_server)
    engine = create_engine(settings.database_url, service="nats-server", pool_size=1)
    sessions = session_maker(engine)
    try:
        await check_schema(engine)
        async with sessions() as session:
            keyring = await Keyring.load(session, None, only=BROKER_SECRETS)
        keeper = NodeKeeper(settings, keyring, program)
        keeper.prepare(keys)
        follower = KeyringFollower(
            keyring,
            None,
            sessions,
            settings.database_url,
            [keeper.trust_changed, keeper.certificate.hasten],
        )
        try:
            if await keeper.certificate.obtain(stop):
                await keeper.serve(follower, stop, ready)
        except psycopg.Error as error:
            raise DatabaseUnreachable(f"no certificate can be asked for: {error}") from None
    finally:
        await engine.dispose()


class NodeKeeper:
    """One node while its server runs."""

    def __init__(
        self,
        settings: KeeperSettings,
        keyring: Keyring,
        program: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._clock = clock
        self._uniform = uniform
        self._changed = asyncio.Event()
        self._cas = list(keyring.trust.cas)
        self._configuration = settings.nats_data / "nats.conf"
        self.certificate = NodeCertificate(
            settings.database_url,
            keyring,
            instance=settings.nats_node,
            hosts=settings.certificate_hosts,
            clock=clock,
            files=settings.files,
            on_change=self._changed.set,
        )
        self.server = NatsServer(
            program,
            self._configuration,
            lock=settings.nats_data / "server.lock",
            log=settings.log_path,
        )

    def prepare(self, keys: CalloutKeys) -> None:
        """Make the folder and write the server's configuration. Raises: NodeError."""
        node = self._settings.node(keys, self._keyring.trust_domain)
        try:
            self._settings.nats_data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NodeError(f"{self._settings.nats_data}: {error.strerror}") from None
        write_configuration(self._configuration, render(node))

    def trust_changed(self) -> None:
        """Have the server believe what the keyring's trust bundle says now."""
        cas = list(self._keyring.trust.cas)
        if cas != self._cas:
            self._cas = cas
            self._changed.set()

    async def serve(
        self, follower: KeyringFollower, stop: asyncio.Event, ready: Callable[[], None]
    ) -> None:
        """Run the server, ready to serve, until `stop`. Raises: NodeError when it ends itself."""
        write_cas(self._settings.files, self._cas)
        self._changed.clear()
        await self.server.start()
        ended = asyncio.create_task(self.server.wait(), name="nats-server")
        try:
            await self._become_ready(ended, stop)
            if stop.is_set():
                return
            ready()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.certificate.keep_renewed(stop), name="certificate")
                tasks.create_task(follower.run(stop), name="trust")
                tasks.create_task(self._follow_changes(stop), name="reload")
                tasks.create_task(self._watch(stop), name="watch")
                await self._until_end(ended, stop)
        finally:
            await self.server.stop(gently=self._settings.nats_cluster_listen is not None)
            ended.cancel()

    async def _become_ready(self, ended: asyncio.Task[int], stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        began, said_at = loop.time(), loop.time()
        while not stop.is_set():
            self._check_alive(ended)
            health = await self._find_health()
            if health is not None and not health.trouble:
                break
            if health is not None:
                self._check_store(health)
            if loop.time() - said_at > _SAY_EVERY_S:
                said_at = loop.time()
                trouble = health.trouble if health is not None else "it does not answer yet"
                waited_s = round(loop.time() - began)
                _log.warning("nats_server_awaited", trouble=trouble, waited_s=waited_s)
            await _pause(stop, _ASK_EVERY_S)
        else:
            return
        took_ms = round((loop.time() - began) * 1000)
        _log.info("nats_server_ready", node=health.name, pid=self.server.pid, took_ms=took_ms)
        self._check_disk(health)

    async def _until_end(self, ended: asyncio.Task[int], stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stop.is_set():
            self._check_alive(ended)

    def _check_alive(self, ended: asyncio.Task[int]) -> None:
        if ended.done():
            raise self.server.obituary(ended.result())

    async def _follow_changes(self, stop: asyncio.Event) -> None:
        """Reload after each change of certificate or CAs; what fails is tried again."""
        in_cluster = self._settings.nats_cluster_listen is not None
        spread_s = self._settings.nats_reload_spread.total_seconds() if in_cluster else 0.0
        while not stop.is_set():
            if not await _is_set_first(self._changed, stop):
                return
            await _pause(stop, self._uniform(0.0, spread_s))
            while not stop.is_set() and not await self._may_reload():
                await _pause(stop, _RETRY_S)
            if stop.is_set():
                return
            self._changed.clear()
            try:
                write_cas(self._settings.files, self._cas)
                await self._reload(stop)
            except NodeError as error:
                _log.error("nats_server_not_reloaded", error=error.message)
                self._changed.set()
                await _pause(stop, self._uniform(_RETRY_S / 2, _RETRY_S))

    async def _may_reload(self) -> bool:
        """Whether agents that are put out can come back, or nobody could if we waited longer."""
        health = await self._find_health()
        if health is not None and health.responders > 0:
            return True
        shown = await self._find_shown()
        if shown is None or shown.not_valid_after_utc - self._clock() < _RELOAD_BEFORE_END:
            return True
        _log.warning(
            "nats_reload_postponed",
            message="a reload ends all sessions of agents, and no broker front is there to admit"
            " them again",
            not_after=shown.not_valid_after_utc.isoformat(),
        )
        return False

    async def _reload(self, stop: asyncio.Event) -> None:
        """Reload, and see that the new certificate is shown. Raises: NodeError."""
        self.server.reload()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _RELOADED_WITHIN_S
        wanted = self.certificate.certificate
        while not stop.is_set():
            shown = await self._find_shown()
            if shown is not None and shown == wanted:
                _log.info("nats_server_reloaded", serial=f"{wanted.serial_number:x}")
                return
            if loop.time() > give_up_at:
                raise NodeError(
                    f"it does not show the new certificate: {self.server.errors()[-1:]}"
                )
            await _pause(stop, _ASK_EVERY_S)

    async def _watch(self, stop: asyncio.Event) -> None:
        """Say when the server is unwell, or what it stores comes near its limit."""
        unwell = False
        while not stop.is_set():
            await _pause(stop, _WATCH_EVERY_S)
            health = await self._find_health()
            trouble = "it does not answer" if health is None else health.trouble
            if trouble and not stop.is_set():
                _log.error("nats_server_unwell", trouble=trouble)
            elif unwell:
                _log.info("nats_server_well_again")
            unwell = bool(trouble)
            if health is not None:
                self._check_disk(health)

    def _check_store(self, health: Health) -> None:
        """Alone, a server without a stream that it had loses messages: better not to run."""
        damage = self.server.damage()
        if damage and self._settings.nats_replicas == 1:
            raise NodeStoreDamaged(f"{health.trouble}: {damage[-1]}"[:500])

    def _check_disk(self, health: Health) -> None:
        free = shutil.disk_usage(self._settings.nats_data).free
        facts = {
            "stored_bytes": health.stored_bytes,
            "limit_bytes": health.stored_limit_bytes,
            "free_bytes": free,
        }
        if health.stored_bytes > _NEARLY_FULL * health.stored_limit_bytes:
            _log.error("nats_store_nearly_full", **facts)
        elif free < (health.stored_limit_bytes - health.stored_bytes):
            _log.warning("nats_disk_smaller_than_limit", **facts)

    async def _find_health(self) -> Health | None:
        try:
            return await ask(f"tls://{_reach(self._settings.nats_listen)}", self._client_context())
        except NodeSilent:
            return None

    async def _find_shown(self) -> x509.Certificate | None:
        host, port = split_address(_reach(self._settings.mqtt))
        try:
            return await find_certificate(host, port, self._client_context())
        except NodeSilent:
            return None

    def _client_context(self) -> ssl.SSLContext:
        return self.certificate.client_context(self._keyring.trust.cas)


def _reach(listen: str) -> str:
    """Where this machine reaches an address that is listened on."""
    host, port = split_address(listen)
    if host in ("0.0.0.0", "", "::"):  # noqa: S104  compared, not listened on
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def _is_set_first(event: asyncio.Event, stop: asyncio.Event) -> bool:
    waits = [asyncio.create_task(event.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return event.is_set() and not stop.is_set()
