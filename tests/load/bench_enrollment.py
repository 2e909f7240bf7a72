"""Enrollments a second through the real HTTPS listener, beside what they are made of, in one run.

python tests/load/bench_enrollment.py [devices]

`tensorguard api run` on an embedded PostgreSQL with fsync on, clients in this process on the same
machine. Every device makes its own TLS connection and sends a request that was made before;
`handshakes` are connections to the same listener that ask nothing, `certificates` what the CA
signs, database and network left out, on one core.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import psutil
import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr
from uuid6 import uuid7

from api.settings import ApiSettings
from tensorguard.pki.identity import AgentIdentity
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import codec
from tensorguard.services.enrollment.tokens import TokenTerms, create_token
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.fleets.fleets import create_fleet
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.migrate import upgrade
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.api.flood import Listener, all_at_once
from tests.integration.api.process import address_of, running_api
from tests.integration.enrollment.builders import Device

FLEET = "hospital-a"
AT_ONCE = 32
HANDSHAKES = 400
CERTIFICATES = 400
WARM_UP = 64


def main(devices: int = 1000) -> dict[str, float]:
    """Print and give enrollments, TLS handshakes and certificates a second."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="bench-enrollment-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        figures = _measure(server, folder, devices)
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    for name, figure in figures.items():
        print(f"{name:34} {figure:10.1f}")
    return figures


def _measure(server: EmbeddedPostgres, folder: Path, devices: int) -> dict[str, float]:
    keyring, join = asyncio.run(_prepare(server, folder, devices + WARM_UP))
    requests = [codec.encode(Device().request(join)) for _ in range(devices + WARM_UP)]
    figures = {"certificates_per_s": _certificates_per_s(keyring)}
    settings = ApiSettings(database_url=SecretStr(server.app_url), data_dir=folder)
    log = folder / "api.log"
    with running_api(settings, log) as (process, _):
        port = int(address_of(process, log, "device").rpartition(":")[2])
        listener = Listener(port, keyring.ca.certificate_pem)
        uvloop.run(_enroll(listener, requests[:WARM_UP]))
        with _Cpu(process.pid) as handshakes:
            figures["tls_handshakes_per_s"] = uvloop.run(_handshakes_per_s(listener))
        assert server.pid is not None
        with _Cpu(process.pid) as api, _Cpu(server.pid) as database:
            took_s = uvloop.run(_enroll(listener, requests[WARM_UP:]))
    figures["enrollments_per_s"] = devices / took_s
    figures["api_cpu_ms_per_handshake"] = handshakes.used_ms / HANDSHAKES
    figures["api_cpu_ms_per_enrollment"] = api.used_ms / devices
    figures["database_cpu_ms_per_enrollment"] = database.used_ms / devices
    return figures


class _Cpu:
    """CPU time that a process and its children use while the block runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.used_ms = 0.0

    def __enter__(self) -> Self:
        self._before_s = self._now_s()
        return self

    def __exit__(self, *error: object) -> None:
        self.used_ms = (self._now_s() - self._before_s) * 1000

    def _now_s(self) -> float:
        every = [self._process, *self._process.children(recursive=True)]
        return sum(one.cpu_times().user + one.cpu_times().system for one in every)


async def _prepare(server: EmbeddedPostgres, folder: Path, uses: int) -> tuple[Keyring, str]:
    """Start a platform in the database; give its keys, and a join string for so many devices."""
    engine = create_engine(server.app_url, service="bench", pool_size=1)
    kek = LocalKeyProvider.open_or_create(folder / KEK_FILE)
    now = datetime.now(UTC)
    async with session_maker(engine).begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=folder / "root",
            now=now,
            hash_with=lambda password: "not-a-hash",
        )
        keyring = await Keyring.load(session, kek)
        await create_fleet(session, keyring, slug=FLEET, name="A", by=SYSTEM, now=now)
        terms = TokenTerms(ttl=timedelta(hours=1), max_uses=uses, tags={"site": "north"})
        token = await create_token(
            session, keyring, FLEET, terms, device_url="https://127.0.0.1:1", by=SYSTEM, now=now
        )
    await engine.dispose()
    return keyring, token.join


def _certificates_per_s(keyring: Keyring) -> float:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    began = time.perf_counter()
    for _ in range(CERTIFICATES):
        identity = AgentIdentity(keyring.trust_domain, FLEET, uuid7())
        certificate_pem(keyring.ca.issue_agent(key, identity, datetime.now(UTC)))
    return CERTIFICATES / (time.perf_counter() - began)


async def _handshakes_per_s(listener: Listener) -> float:
    began = time.perf_counter()
    await all_at_once(HANDSHAKES, AT_ONCE, lambda _: listener.shake_hands())
    return HANDSHAKES / (time.perf_counter() - began)


async def _enroll(listener: Listener, requests: list[bytes]) -> float:
    """Enrol each device; give the seconds that all of them took."""
    statuses: Counter[int] = Counter()

    async def one(number: int) -> None:
        statuses[(await listener.enroll(requests[number])).status] += 1

    began = time.perf_counter()
    await all_at_once(len(requests), AT_ONCE, one)
    took_s = time.perf_counter() - began
    assert statuses == {201: len(requests)}, statuses
    return took_s


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
