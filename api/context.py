"""What the requests of one process share: made once at the start, handed to both listeners."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from argon2 import PasswordHasher
from fastapi import FastAPI

from api.attempts import Attempts, Budget
from api.compliance.sunburst import Sunbursts
from api.downloads import Downloads
from api.enrollments import Enrollments
from api.errors import Overloaded
from api.events.feed import Feed
from api.passwords import Passwords
from api.settings import ApiSettings
from api.tally import Tally
from api.turns import Turns
from tensorguard.services.certificates.crl import CrlCache
from tensorguard.services.deployments.receiving import Receiver
from tensorguard.services.deployments.uploads import UploadLimits
from tensorguard.services.deployments.verifying import UploadVerifier
from tensorguard.services.enrollment.enrollment_failures import EnrollmentFailures
from tensorguard.services.keys.kek_providers import KekProviders, KekSettings
from tensorguard.services.keys.keyring import API_SECRETS, Keyring
from tensorguard.services.people.passwords import HASHER
from tensorguard.services.sinks.sink_clients import Outside
from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.store.bucket import parse_store_url
from tensorguard.store.engine import (
    SessionMaker,
    check_schema,
    create_engine,
    session_maker,
    store_error,
)
from tensorguard.store.package_bucket import PackageBucket
from tensorguard.store.package_files import PackageFiles
from tensorguard.store.package_store import PackageStore, PackageStoreUnavailable

log = structlog.get_logger()

Clock = Callable[[], datetime]
_FLUSH_EVERY_S = 10.0
PACKAGES_FOLDER = "packages"
_REPORTS_AT_A_TIME = 2
_REPORTS_WAITING = 8
_EXPORTS_AT_A_TIME = 2
_TESTS_AT_A_TIME = 2
_TESTS_WAITING = 8
"""Each holds a connection to the database, of which there are few, and some megabytes."""


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class ApiContext:
    """The process's settings, database, keys, clock and counters."""

    settings: ApiSettings
    sessions: SessionMaker
    kek: KekProviders
    keyring: Keyring
    clock: Clock
    denials: Tally
    passwords: Passwords
    package_store: PackageStore
    receiver: Receiver
    verifier: UploadVerifier
    downloads: Downloads
    feed: Feed
    enrollments: Enrollments
    outside: Outside
    sunbursts: Sunbursts
    attempts: Attempts = field(default_factory=Attempts)
    enrollment_failures: EnrollmentFailures = field(default_factory=EnrollmentFailures)
    enrollment_budget: Budget = field(
        default_factory=lambda: Budget("failed enrollments", burst=300, per_second=5)
    )
    enrollment_rate: Budget = field(
        default_factory=lambda: Budget("enrollments", burst=3000, per_second=300)
    )
    crl: CrlCache = field(default_factory=CrlCache)
    reports: Turns = field(
        default_factory=lambda: Turns(
            _REPORTS_AT_A_TIME, most_waiting=_REPORTS_WAITING, full=_too_many_reports
        )
    )
    exports: Turns = field(default_factory=lambda: Turns(_EXPORTS_AT_A_TIME))
    """A turn is for a chunk, not for a download."""
    sink_tests: Turns = field(
        default_factory=lambda: Turns(
            _TESTS_AT_A_TIME, most_waiting=_TESTS_WAITING, full=_too_many_tests
        )
    )


def _too_many_tests() -> Overloaded:
    return Overloaded("as many sinks are tried out as can be at a time", retry_after_s=30)


def _too_many_reports() -> Overloaded:
    return Overloaded("as many reports are made as can be at a time", retry_after_s=15)


@asynccontextmanager
async def open_context(
    settings: ApiSettings, *, clock: Clock = utc_now, hasher: PasswordHasher = HASHER
) -> AsyncIterator[ApiContext]:
    """Connect to the database, open the keys that the api needs; close everything at the end.

    Raises: StoreError, PlatformNotInitialised, VaultError, BadSink.
    """
    guard = AddressGuard(parse_networks(settings.sink_networks))
    engine = create_engine(
        settings.database_url.get_secret_value(),
        service="api",
        pool_size=settings.database_connections,
    )
    try:
        await check_schema(engine)
        sessions = session_maker(engine)
        kek_settings = KekSettings()
        async with sessions() as session:
            opener = kek_settings.opener(settings.data_dir)
            kek = await KekProviders.load(session, opener, expected=kek_settings.kek)
            keyring = await Keyring.load(session, kek, only=API_SECRETS)
        package_store = await _open_package_store(settings)
        verifier = UploadVerifier(sessions, package_store, keyring, kek, clock)
        receiver = Receiver(
            sessions,
            package_store,
            clock,
            limit_bytes=settings.package_limit_bytes,
            limits=UploadLimits(settings.uploads_per_user, settings.uploads_in_all),
            changed=verifier.wake,
        )
        context = ApiContext(
            settings=settings,
            sessions=sessions,
            kek=kek,
            keyring=keyring,
            clock=clock,
            denials=Tally(sessions, clock),
            passwords=Passwords(hasher),
            package_store=package_store,
            receiver=receiver,
            verifier=verifier,
            downloads=Downloads(settings.downloads_per_fleet),
            feed=Feed(sessions, clock, idle=settings.session_idle),
            sunbursts=Sunbursts(sessions, clock),
            enrollments=Enrollments(
                settings.database_url.get_secret_value(), keyring, settings.mqtt_address, clock
            ),
            outside=Outside(
                guard=guard, data_dir=settings.data_dir, trust_domain=keyring.trust_domain
            ),
        )
        stop = asyncio.Event()
        flushing = asyncio.create_task(_flush_counters(context, stop), name="counters")
        verifying = asyncio.create_task(verifier.run(stop), name="uploads")
        counting = asyncio.create_task(context.sunbursts.run(stop), name="sunbursts")
        try:
            async with context.enrollments.serving():
                yield context
        finally:
            stop.set()
            await context.feed.close()
            await flushing
            await verifying
            await counting
            await package_store.close()
            await kek.close()
    finally:
        await engine.dispose()


async def _open_package_store(settings: ApiSettings) -> PackageStore:
    """Open the store that the settings name. One that does not answer now may do so later.

    Raises: BadStoreUrl, MissingLibrary.
    """
    store: PackageStore = PackageFiles(settings.data_dir / PACKAGES_FOLDER)
    if settings.package_store is not None:
        store = PackageBucket(parse_store_url(settings.package_store))
    try:
        await store.prepare()
    except PackageStoreUnavailable as error:
        log.error("package_store_not_ready", reason=error.message)
    return store


async def _flush_counters(context: ApiContext, stop: asyncio.Event) -> None:
    """Write what was only counted, every few seconds, and what is left at the end."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(_FLUSH_EVERY_S):
                await stop.wait()
        except TimeoutError:
            await _flush(context, all_of_them=False)
    await _flush(context, all_of_them=True)


async def _flush(context: ApiContext, *, all_of_them: bool) -> None:
    try:
        await context.denials.flush(all_of_them=all_of_them)
        async with context.sessions() as session:
            written = await context.enrollment_failures.flush(session, now=context.clock())
            await session.commit()
            context.enrollment_failures.forget(written)
    except Exception as error:
        # They stay counted, and the next flush tries again.
        log.error("counters_not_written", reason=str(store_error(error) or type(error).__name__))


def context_of(app: FastAPI) -> ApiContext:
    """Return the context that the application's lifespan has set."""
    context = app.state.context
    assert isinstance(context, ApiContext)
    return context
