"""The whole platform on this machine: which services, with which settings, on which database."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tensorguard.cli.first_start import (
    ensure_platform,
    find_initial_password,
    forget_initial_password,
)
from tensorguard.cli.supervisor.addresses import (
    Addresses,
    Wishes,
    choose_addresses,
    load_addresses,
    store_addresses,
)
from tensorguard.cli.supervisor.broker import (
    Engine,
    GivenNode,
    engine_settings,
    find_given_node,
    node_service,
    settle_engine,
)
from tensorguard.cli.supervisor.child import ChildSpec, ProcessChild, python_service
from tensorguard.cli.supervisor.database import (
    DatabaseUrls,
    PostgresChild,
    find_given_urls,
    service_environment,
)
from tensorguard.cli.supervisor.given_node import asking
from tensorguard.cli.supervisor.output import Output
from tensorguard.cli.supervisor.place import DataDirectoryLock, create_data_directory
from tensorguard.cli.supervisor.supervisor import Supervisor
from tensorguard.cli.supervisor.upkeep import keep_maintained
from tensorguard.store.migrate import upgrade

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class UpRequest:
    """What `tensorguard up` was asked for."""

    data_directory: Path
    wishes: Wishes
    trust_domain: str
    engine: Engine | None = None
    """None leaves it to what is stored."""
    service_settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings for the services, as environment variables."""


@dataclass(frozen=True)
class Ready:
    """Where the platform can be reached, once all of it can."""

    addresses: Addresses
    data_directory: Path
    admin_password: str | None = field(repr=False)
    """Only until it has been announced once."""


def platform_services(environment: Mapping[str, str]) -> list[ChildSpec]:
    """The services in the reverse of the order in which they stop."""
    services = [python_service(name, environment) for name in ("broker", "hub", "api")]
    return [*node_service(environment), *services]


async def run_platform(
    request: UpRequest,
    *,
    output: Output,
    announce: Callable[[Ready], None],
    services: Callable[[Mapping[str, str]], Sequence[ChildSpec]] = platform_services,
    guest: Callable[[Ready], Awaitable[None]] | None = None,
) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP, then stop in order; a second signal hastens.

    guest: awaited once all is ready, cancelled before anything stops; if it fails, all stops.

    Raises: UpError, EmbeddedPostgresError, StoreError, ServiceError, VaultError; nothing is left
    running then.
    """
    supervisor = Supervisor(output)
    stopped = _cancel_at_signals(supervisor)
    directory = create_data_directory(request.data_directory)
    lock = DataDirectoryLock(directory)
    lifeline, end_of_lifeline = os.pipe()  # the write end closes when this process ends, however
    try:
        await lock.wait_for_leftovers(lambda: output.say("waiting_for_services_of_an_earlier_run"))
        given = find_given_node(os.environ)
        engine = settle_engine(directory, request.engine, given, output)
        addresses = _settle_addresses(directory, _of_ours(request.wishes, engine, given), output)
        async with supervisor:
            urls = await _start_database(directory, supervisor, output)
            await asyncio.to_thread(upgrade, urls.owner)
            await ensure_platform(urls.app, directory, trust_domain=request.trust_domain)
            settings = _service_settings(request, directory, addresses)
            settings |= engine_settings(engine, given, directory, addresses)
            inherit = (lifeline, lock.children)
            specs = services(service_environment(urls, settings))
            children = [ProcessChild(spec, output=output, inherit=inherit) for spec in specs]
            async with asking(given, urls.app, directory, output):
                await supervisor.start(*children)
            ready = Ready(addresses, directory, find_initial_password(directory))
            announce(ready)
            forget_initial_password(directory)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep_maintained(urls.owner, output), name="maintenance")
                if guest is not None:
                    await guest(ready)
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise
    finally:
        os.close(lifeline)
        os.close(end_of_lifeline)
        lock.close()


def _of_ours(wishes: Wishes, engine: Engine, given: GivenNode | None) -> Wishes:
    """The same, with where no child of ours will listen."""
    if engine == "embedded":
        return wishes
    return replace(wishes, not_ours=frozenset({"nats", "mqtt"} if given else ()))


def _cancel_at_signals(supervisor: Supervisor) -> asyncio.Event:
    """Cancel the current task at the first signal (which the event then tells), hasten after."""
    task = asyncio.current_task()
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set() or task is None:
            supervisor.hasten()
        else:
            stopped.set()
            task.cancel()

    for number in _STOP_SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # as nohup asks
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stopped


def _settle_addresses(directory: Path, wishes: Wishes, output: Output) -> Addresses:
    path = directory / "addresses.json"
    stored = load_addresses(path)
    addresses, notes = choose_addresses(stored, wishes)
    for note in notes:
        output.say("port_chosen", level="warning", reason=note)
    if addresses != stored:
        store_addresses(path, addresses)
    return addresses


async def _start_database(directory: Path, supervisor: Supervisor, output: Output) -> DatabaseUrls:
    given = find_given_urls(os.environ)
    if given is not None:
        output.say("database_given")
        return given
    postgres = PostgresChild(directory / "postgres", output=output)
    await supervisor.start(postgres)
    return postgres.urls


def _service_settings(request: UpRequest, directory: Path, addresses: Addresses) -> dict[str, str]:
    return {
        "TG_DATA_DIR": str(directory),
        "TG_TRUST_DOMAIN": request.trust_domain,
        "TG_PUBLIC_HOST": addresses.public_host,
        "TG_HTTP": addresses.http,
        "TG_DEVICE": addresses.device,
        "TG_MQTT": addresses.mqtt,
        "TG_BROKER_ENROLL": addresses.enroll_mqtt,
        **request.service_settings,
    }
