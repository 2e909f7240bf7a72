"""The api's process: both listeners on one loop, until told to stop."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connection import GuardedProtocol
from api.context import ApiContext, open_context
from api.device.app import create_device_app
from api.settings import ApiSettings, ListenAddress
from tensorguard.pki.identity import ServiceIdentity
from tensorguard.services.certificates.certificates import ServiceCertificate
from tensorguard.services.certificates.certifier import Certifier
from tensorguard.services.keys.following import KeyringFollower

log = structlog.get_logger()

GRACE_S = 10


class CannotListen(Exception):
    """An address is taken, or this user may not listen on it."""

    code = "cannot-listen"
    hint = "Stop what listens there, or set TG_HTTP or TG_DEVICE to another address."

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class Listening:
    """Where the two listeners answer; the ports are the real ones where 0 was asked for."""

    people: ListenAddress
    device: ListenAddress


class _Server(uvicorn.Server):
    """Leaves signals alone, which belong to the process, and tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()


async def run(settings: ApiSettings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`, then let what is under way finish within ten seconds.

    Raises: StoreError, PlatformNotInitialised, VaultError, CannotListen.
    """
    async with open_context(settings) as context, serving(context) as listening:
        log.info("api_ready", people=_text(listening.people), device=_text(listening.device))
        ready()
        await stop.wait()
    log.info("api_stopped")


@asynccontextmanager
async def serving(context: ApiContext) -> AsyncIterator[Listening]:
    """Listen for people and for devices while the block runs. Raises: CannotListen."""
    settings = context.settings
    certificate = ServiceCertificate(
        context.keyring.ca,
        ServiceIdentity(context.keyring.trust_domain, "api"),
        hosts=settings.public_names,
        clock=context.clock,
    )
    people_tls, device_tls = _people_tls(settings), certificate.server_context()
    people = _Server(_config(create_app(settings, context=context), settings, people_tls))
    device = _Server(_config(create_device_app(settings, context=context), settings, device_tls))
    database_url = settings.database_url.get_secret_value()
    follower = KeyringFollower(
        context.keyring,
        context.kek,
        context.sessions,
        database_url,
        [lambda: certificate.use(context.keyring.ca)],
    )
    certifier = Certifier(
        context.sessions,
        context.keyring,
        database_url,
        settings.hosts_of_fronts,
        context.clock,
    )
    stop = asyncio.Event()
    with _bound(settings.http) as people_socket, _bound(settings.device) as device_socket:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(certificate.keep_renewed(stop), name="certificate")
            tasks.create_task(follower.run(stop), name="keyring")
            tasks.create_task(certifier.run(stop), name="certifier")
            tasks.create_task(people.serve([people_socket]), name="people")
            tasks.create_task(device.serve([device_socket]), name="device")
            try:
                await people.listening.wait()
                await device.listening.wait()
                yield Listening(_address_of(people_socket), _address_of(device_socket))
            finally:
                stop.set()
                await context.feed.close()  # streams have no end of their own to wait for
                people.should_exit = device.should_exit = True


def _config(app: FastAPI, settings: ApiSettings, tls: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would log query strings
        server_header=False,
        proxy_headers=settings.behind_proxy and tls is None,
        forwarded_allow_ips=settings.trusted_proxies,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32 * 1024,
        ssl_context_factory=None if tls is None else (lambda _config, _default: tls),
    )


def _people_tls(settings: ApiSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"TG_TLS_CERT or TG_TLS_KEY cannot be used: {error}") from None
    return context


def _bound(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server(tuple(address), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise CannotListen(f"cannot listen on {_text(address)}: {reason}") from None


def _address_of(listener: socket.socket) -> ListenAddress:
    host, port = listener.getsockname()[:2]
    return ListenAddress(host, port)


def _text(address: ListenAddress) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else "{}:{}".format(*address)
