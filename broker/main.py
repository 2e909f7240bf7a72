"""The broker front's process: its certificate, its deny set, its listener."""

import asyncio
import logging
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import psycopg
import structlog

from broker.certificate import FrontCertificate
from broker.denyset import DenySet
from broker.embedded.enrollment import LIMITS as ENROLLMENT
from broker.embedded.enrollment import serving_enrollment
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.lease import Lease
from broker.monitoring import serving_metrics
from broker.settings import BrokerSettings, split_address
from tensorguard.services.following import KeyringFollower
from tensorguard.services.keyring import BROKER_SECRETS, Keyring
from tensorguard.store.engine import check_schema, create_engine, session_maker
from tensorguard.store.errors import DatabaseUnreachable

_log = structlog.get_logger()
_REFUSAL_BURST_S: Final = 10
# Sockets of the database, logs, the metrics listener, the loop itself; devices that enrol.
_OTHER_DESCRIPTORS: Final = 100 + ENROLLMENT.connections + ENROLLMENT.pending + ENROLLMENT.held


async def run(settings: BrokerSettings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`, then end every connection and give the lease back.

    Listens once a hub or an api has certified the front, and waits for that as long as it takes.
    Raises: StoreError, PlatformNotInitialised, CertificateRefused, ListenFailed.
    """
    # Its warnings are about what clients did, which the front counts and reports itself.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
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
            clock=lambda: datetime.now(UTC),
        )
        try:
            if not await certificate.obtain(stop):
                return
        except psycopg.Error as error:
            raise DatabaseUnreachable(f"no certificate can be asked for: {error}") from None
        trust = _Trust(keyring, certificate)
        follower = KeyringFollower(
            keyring, None, sessions, settings.database_url, [trust.changed, certificate.hasten]
        )
        await _serve(settings, certificate, trust, follower, stop, ready)
    finally:
        await engine.dispose()


class _Trust:
    """The platform CAs that are believed now, and the TLS context that asks for them."""

    def __init__(self, keyring: Keyring, certificate: FrontCertificate) -> None:
        self._keyring = keyring
        self._certificate = certificate
        self.trust_domain = keyring.trust_domain
        self.cas = list(keyring.trust.cas)
        self.context = certificate.server_context(self.cas)

    def changed(self) -> None:
        """Believe what the keyring's trust bundle says now."""
        cas = list(self._keyring.trust.cas)
        if cas != self.cas:
            self.cas, self.context = cas, self._certificate.server_context(cas)
            _log.info("trusted_cas_changed", count=len(cas))


async def _serve(
    settings: BrokerSettings,
    certificate: FrontCertificate,
    trust: _Trust,
    follower: KeyringFollower,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    host, port = settings.address
    denied, metrics = DenySet(), FrontMetrics()
    setup = FrontSetup(
        front_id=settings.broker_front_id,
        host=host,
        port=port,
        trust_domain=trust.trust_domain,
        tls=lambda: trust.context,
        cas=lambda: trust.cas,
        denied=denied,
        limits=_fitting(_limits_of(settings)),
        metrics=metrics,
        clock=lambda: datetime.now(UTC),
    )
    front = Front(setup)
    lease = Lease(settings.database_url, settings.broker_front_id, denied)
    try:
        await lease.load()
    except (psycopg.Error, TimeoutError) as error:
        raise DatabaseUnreachable(f"revocations cannot be read: {error}") from None
    async with AsyncExitStack() as stack:
        if settings.broker_metrics is not None:
            address = split_address(settings.broker_metrics)
            healthy = lambda: not denied.is_stale()  # noqa: E731  read once, right here
            await stack.enter_async_context(serving_metrics(address, metrics.registry, healthy))
        await front.start()
        stack.push_async_callback(front.shutdown)
        if settings.broker_enroll is not None:
            enrolling = serving_enrollment(
                split_address(settings.broker_enroll),
                setup,
                front,
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


def _fitting(limits: Limits) -> Limits:
    """Raise the limit of open files as far as allowed, and hold no more connections than fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _beside(limits)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        soft = max(soft, allowed)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    fitting = max(1, soft - _beside(limits))
    _log.warning(
        "fewer_connections_fit", wanted=limits.connections, connections=fitting, files=soft
    )
    return replace(limits, connections=fitting)


def _limits_of(settings: BrokerSettings) -> Limits:
    per_s = settings.broker_refusals_per_s
    return Limits(
        connections=settings.broker_connections,
        refusals_per_s=per_s,
        refusal_burst=round(_REFUSAL_BURST_S * per_s),
    )


def _beside(limits: Limits) -> int:
    return limits.pending + limits.held + _OTHER_DESCRIPTORS
