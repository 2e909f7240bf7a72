"""The broker front's process: its certificate, its deny set, and the engine that was chosen."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Final

import psycopg

from broker.certificate import FrontCertificate
from broker.embedded.enrollment import serving_enrollment
from broker.engine import Engine, Standing, utc_now
from broker.lease import Lease
from broker.monitoring import serving_metrics
from broker.settings import BrokerSettings, split_address
from broker.trust import Trust
from tensorguard.services.keys.following import KeyringFollower
from tensorguard.services.keys.keyring import BROKER_SECRETS, Keyring
from tensorguard.store.engine import check_schema, create_engine, session_maker
from tensorguard.store.errors import DatabaseUnreachable

# Each has `build`; imported only when chosen, for each needs an extra of its own.
_ENGINES: Final = {"embedded": "broker.embedded.serve", "nats": "broker.nats.serve"}


async def run(settings: BrokerSettings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`, then give the lease back.

    Serves once a hub or an api has certified the front, and waits for that as long as it takes.
    Raises: StoreError, PlatformNotInitialised, FrontError.
    """
    engine = create_engine(settings.database_url, service="broker", pool_size=2)
    sessions = session_maker(engine)
    try:
        await check_schema(engine)
        async with sessions() as session:
            keyring = await Keyring.load(session, None, only=BROKER_SECRETS)
        certificate = FrontCertificate(
            settings.database_url,
            keyring,
            instance=settings.broker_front_id,
            hosts=settings.certificate_hosts,
            clock=utc_now,
        )
        try:
            if not await certificate.obtain(stop):
                return
        except psycopg.Error as error:
            raise DatabaseUnreachable(f"no certificate can be asked for: {error}") from None
        trust = Trust(keyring, certificate)
        follower = KeyringFollower(
            keyring, None, sessions, settings.database_url, [trust.changed, certificate.hasten]
        )
        standing = Standing(settings=settings, trust=trust)
        await _serve(standing, certificate, follower, stop, ready)
    finally:
        await engine.dispose()


async def _serve(
    standing: Standing,
    certificate: FrontCertificate,
    follower: KeyringFollower,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    settings, denied, trust = standing.settings, standing.denied, standing.trust
    chosen: Engine = import_module(_ENGINES[settings.broker_engine]).build(standing)
    front = chosen.front
    lease = Lease(settings.database_url, settings.broker_front_id, denied)
    try:
        await lease.load()
    except (psycopg.Error, TimeoutError) as error:
        raise DatabaseUnreachable(f"revocations cannot be read: {error}") from None
    async with AsyncExitStack() as stack:
        if settings.broker_metrics is not None:
            address = split_address(settings.broker_metrics)
            healthy = lambda: not denied.is_stale()  # noqa: E731  read once, right here
            await stack.enter_async_context(serving_metrics(address, standing.registry, healthy))
        await front.start()
        stack.push_async_callback(front.shutdown)
        if settings.broker_enroll is not None:
            enrolling = serving_enrollment(
                split_address(settings.broker_enroll),
                chosen.router,
                front_id=settings.broker_front_id,
                trust_domain=trust.trust_domain,
                registry=standing.registry,
                clock=standing.clock,
                database_url=settings.database_url,
                certificate=certificate,
                platform_cas=lambda: trust.cas,
            )
            await stack.enter_async_context(enrolling)
        async with asyncio.TaskGroup() as tasks:
            where = f"{front.address[0]}:{front.address[1]}"
            tasks.create_task(lease.run(stop, address=where, apply=front.apply), name="lease")
            tasks.create_task(certificate.keep_renewed(stop), name="certificate")
            tasks.create_task(follower.run(stop), name="trust")
            ready()
            await stop.wait()
            # Before the lease goes: while connections live, the row says who answers for them.
            await front.shutdown()
