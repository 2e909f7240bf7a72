"""The hub's process: what reads from agents, what sends to them, what runs in the background."""

import asyncio
import secrets
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import psycopg
import sqlalchemy as sa
import structlog

from hub.enrollments import DeviceEnrollments
from hub.errors import EngineMissing
from hub.ingest import Ingest
from hub.loops import Identity, Store, make_loops
from hub.monitoring import serving_metrics
from hub.mqtt_uplink import MqttUplink
from hub.settings import HubSettings
from hub.uplink import UplinkSource
from hub.work import Work
from tensorguard.services.evidence.private_fields import ensure_privacy_key
from tensorguard.services.keys.kek_providers import KekProviders, KekSettings
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker, check_schema, create_engine, session_maker

log = structlog.get_logger()
_LAST_WORDS_S = 5.0


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


async def run(settings: HubSettings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`, then drain: what has arrived is committed and acked before the end.

    Raises: StoreError, PlatformNotInitialised, VaultError, BadSink.
    """
    async with AsyncExitStack() as closing:
        store = await _open_store(settings, closing)
        identity = Identity(store.keyring)
        source = make_source(settings, store.sessions, identity.context())
        enrollments = DeviceEnrollments(
            store.sessions, store.keyring, settings.mqtt_address, settings.device_url
        )
        work = Work(
            store.sessions, store.keyring, store.kek, utc_now, enrollments, lambda: source.share
        )
        ingest = Ingest(
            source,
            work,
            batch_messages=settings.batch_messages,
            flush_after_s=settings.flush_after.total_seconds(),
        )
        loops = await make_loops(settings, store, identity, source, work, utc_now)
        metrics = serving_metrics(settings.hub_metrics)
        async with metrics, source, asyncio.TaskGroup() as tasks:
            ending = asyncio.Event()
            running = [tasks.create_task(loop(ending), name=name) for name, loop in loops.items()]
            await _first_connection(source, stop)
            ready()
            log.info("hub_ready", engine=settings.broker_engine, loops=len(running))
            await ingest.run(stop)
            ending.set()
            await _tell_the_rest(work)
    log.info("hub_stopped")


async def _open_store(settings: HubSettings, closing: AsyncExitStack) -> Store:
    """Connect to the database and open every key."""
    engine = create_engine(settings.database_url, service="hub", pool_size=10)
    closing.push_async_callback(engine.dispose)
    await check_schema(engine)
    sessions, kek_settings = session_maker(engine), KekSettings()
    async with sessions.begin() as session:
        opener = kek_settings.opener(settings.data_dir)
        kek = await KekProviders.load(session, opener, expected=kek_settings.kek)
        closing.push_async_callback(kek.close)
        keyring = await Keyring.load(session, kek)
        await ensure_privacy_key(session, kek, now=utc_now())
    return Store(sessions, kek, keyring)


async def _tell_the_rest(work: Work) -> None:
    try:
        async with asyncio.timeout(_LAST_WORDS_S):
            await work.tell_tallies(ending=True)
    except (sa.exc.SQLAlchemyError, psycopg.Error, TimeoutError) as error:
        log.warning("tallies_not_told", reason=str(getattr(error, "orig", error)))


def make_source(settings: HubSettings, sessions: SessionMaker, tls: ssl.SSLContext) -> UplinkSource:
    """Return where this hub's uplinks come from: the only place that knows the broker engine."""
    if settings.broker_engine == "nats":
        try:  # here, so that a hub of embedded fronts does without the library
            from hub.nats.source import JetStreamUplink
            from hub.nats.stream import StreamSettings
        except ModuleNotFoundError as error:
            raise EngineMissing(f"TG_BROKER_ENGINE=nats needs {error.name}") from None
        return JetStreamUplink(
            urls=settings.nats_urls,
            tls=tls,
            sessions=sessions,
            stream=StreamSettings(
                partitions=settings.nats_partitions,
                replicas=settings.nats_replicas,
                max_bytes=settings.nats_stream_bytes,
                max_age=settings.nats_stream_age,
            ),
            intake_limit=settings.intake_limit,
            downlink_limit=settings.downlink_limit,
        )
    host, _, port = settings.mqtt.rpartition(":")
    return MqttUplink(
        host=host.strip("[]"),
        port=int(port),
        client_id=f"hub-{secrets.token_hex(4)}",
        tls=tls,
        clock=utc_now,
        intake_limit=settings.intake_limit,
        downlink_limit=settings.downlink_limit,
    )


async def _first_connection(source: UplinkSource, stop: asyncio.Event) -> None:
    """Wait for the broker: with none there is nothing to be ready for."""
    waits = [asyncio.create_task(source.connected.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
