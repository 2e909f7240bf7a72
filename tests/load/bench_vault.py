"""Grants a second with a warm DEK, what one grant costs where, and calls to the KMS for them.

python tests/load/bench_vault.py [grants]

Key release as the hub calls it, in batches, on an embedded PostgreSQL with fsync on; the platform's
KEK is at a fake of AWS KMS behind the real SDK. `a core` is by the CPU time of this process, which
is what a hub spends; the database server's share is apart. Every part is timed by itself in the
same run, in CPU time as well, so that the parts and the whole can be compared.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import sqlalchemy as sa
import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tensorguard.pki.keys import kid_of
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import Grant, KeyRequest
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM
from tensorguard.services.evidence.events import GrantIssued
from tensorguard.services.keys import key_release
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.key_release import KeyRelease
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store import tables
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.ids import new_id
from tensorguard.store.migrate import upgrade
from tensorguard.store.package_files import PackageFiles
from tensorguard.store.packages import Release
from tensorguard.tgsp.grants import seal_grant
from tensorguard.vault.opening import Opener
from tensorguard.vault.reference import KekReference
from tests.integration.deployments.builders import Platform
from tests.integration.keys.builders import aws_provider
from tests.integration.vault import fake_aws

BATCH = 500  # what the hub commits at a time at most
AGENTS = 2_000
FLEET = "hospital-a"


def utc_now() -> datetime:
    """The system clock."""
    return datetime.now(UTC)


class _Now:
    """The clock that the builders want: one that has a `now`."""

    @property
    def now(self) -> datetime:
        return utc_now()

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Stage:
    """A platform with agents that have been assigned a package."""

    platform: Platform
    release: Release
    agents: list[UUID]


def main(grants: int = 10_000) -> dict[str, float]:
    """Print and give the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="bench-vault-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        with fake_aws.running_kms() as kms:
            figures = uvloop.run(_measure(server, folder, kms, grants))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    for name, figure in figures.items():
        print(f"{name:34} {figure:10.1f}")
    return figures


async def _measure(
    server: EmbeddedPostgres, folder: Path, kms: fake_aws.FakeKms, grants: int
) -> dict[str, float]:
    engine = create_engine(server.app_url, service="bench", pool_size=4)
    try:
        stage = await _prepare(session_maker(engine), folder, kms)
        release = KeyRelease(stage.platform.keyring, stage.platform.kek)
        await _batch(stage, release, 0)  # what is done once: connections, plans, the DEK
        kms.faults.ops.clear()
        figures = await _whole(stage, release, server, grants)
        figures["kms_calls_per_10000_grants"] = kms.faults.calls * 10_000 / grants
        return figures | await _parts(stage)
    finally:
        await engine.dispose()


async def _whole(
    stage: Stage, release: KeyRelease, server: EmbeddedPostgres, grants: int
) -> dict[str, float]:
    before = _server_cpu_s()
    cpu, began = time.process_time(), time.perf_counter()
    granted = 0
    for number in range(1, grants // BATCH + 1):
        granted += await _batch(stage, release, number)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert granted == grants // BATCH * BATCH, f"{granted} of {grants} were granted"
    return {
        "grants_per_s": granted / took,
        "grants_per_s_a_core": granted / cpu,
        "us_a_grant": took / granted * 1e6,
        "us_cpu_a_grant": cpu / granted * 1e6,
        "us_cpu_a_grant_in_postgres": (_server_cpu_s() - before) / granted * 1e6,
    }


async def _batch(stage: Stage, release: KeyRelease, number: int) -> int:
    """Answer one batch as the hub does; return how many grants it gave."""
    start = number * BATCH % len(stage.agents)
    requests = [(agent_id, _request(stage)) for agent_id in stage.agents[start : start + BATCH]]
    now = utc_now()
    await release.prepare(stage.platform.sessions, requests, now=now)
    async with stage.platform.sessions.begin() as session:
        answers = await release.answer(session, requests, now=now)
    return sum(b'"payload"' in one for _, one in answers)


async def _parts(stage: Stage) -> dict[str, float]:
    """Time what a grant is made of, each part by itself."""
    platform, digest = stage.platform, stage.release.package_digest
    signer = platform.keyring.signer("grant")
    public = X25519PrivateKey.generate().public_key()
    now, dek, agent_id = utc_now(), bytes(32), stage.agents[0]
    raw = public.public_bytes_raw()
    exp = int(now.timestamp()) + 600
    sealed = seal_grant(dek, recipient=public, manifest_digest=digest, exp=exp)
    grant = Grant(
        trust_domain="example.org",
        issued_at=now,
        expires_at=now + timedelta(minutes=10),
        agent_id=agent_id,
        request_id=new_id(),
        package_digest=digest.hex(),
        kid=kid_of(raw),
        exp=exp,
        sealed=sealed,
    )
    figures = {
        "us_hpke_seal": _time(
            lambda: seal_grant(
                dek,
                recipient=X25519PublicKey.from_public_bytes(raw),
                manifest_digest=digest,
                exp=exp,
            )
        ),
        "us_encode_and_sign": _time(lambda: envelope.sign(grant, [signer])),
    }
    requests = [(one, _request(stage)) for one in stage.agents[:BATCH]]
    events = [
        GrantIssued(
            by=SYSTEM,
            fleet=FLEET,
            agent_id=one,
            request_id=request.request_id,
            package_digest=digest,
            kid=grant.kid or "",
            expires_at=grant.expires_at,
        )
        for one, request in requests
    ]
    figures["us_sql_read_and_lock"] = await _time_batch(
        stage, lambda session: key_release._read(session, key_release._FACTS, requests)
    )
    figures["us_sql_known_answers"] = await _time_batch(
        stage, lambda session: key_release._read(session, key_release._KNOWN, requests)
    )
    figures["us_ledger_events"] = await _time_batch(
        stage, lambda session: ledger.record_many(session, events, now=now)
    )
    return figures


async def _time_batch(stage: Stage, work: Callable[[Any], Any], times: int = 5) -> float:
    """Return the CPU time of one batch here for each of its requests, in µs, commit included."""
    began = time.process_time()
    for _ in range(times):
        async with stage.platform.sessions.begin() as session:
            await work(session)
    return (time.process_time() - began) / times / BATCH * 1e6


def _time(work: Callable[[], object], times: int = 1000) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def _request(stage: Stage) -> KeyRequest:
    return KeyRequest(
        request_id=new_id(),
        package_digest=stage.release.package_digest.hex(),
        deployment_id=new_id(),
    )


async def _prepare(sessions: Any, folder: Path, kms: fake_aws.FakeKms) -> Stage:
    opener = Opener(folder, instead={"aws": lambda key_id: aws_provider(kms, key_id)})
    kek = opener.open_first(KekReference.parse(f"aws:{kms.create().arn}"))
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=folder / "root",
            now=utc_now(),
            hash_with=lambda password: "not-a-hash",
        )
    async with sessions() as session:
        keks = await KekProviders.load(session, opener)
        keyring = await Keyring.load(session, keks)
    files = PackageFiles(folder / "packages")
    await files.prepare()
    publisher = Ed25519PrivateKey.generate()
    platform = Platform(sessions, keyring, keks, files, folder, _Now(), publisher)  # type: ignore[arg-type]  # another clock and KEK than the tests have
    await platform.register_publisher(publisher)
    await platform.add_fleet(FLEET)
    release = await platform.release()
    first = await platform.add_agent(FLEET)
    await platform.start(release, FLEET)
    await platform.controller().step()
    return Stage(platform, release, [first, *await _copy(sessions, first, AGENTS - 1)])


async def _copy(sessions: Any, first: UUID, count: int) -> list[UUID]:
    """Make agents that have been assigned what the first one has, with keys of their own."""
    made = [new_id() for _ in range(count)]
    keys = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in made]
    async with sessions.begin() as session:
        agent, document = tables.agents, tables.agent_desired
        row = dict(
            (await session.execute(sa.select(agent).where(agent.c.id == first))).mappings().one()
        )
        assigned = dict(
            (await session.execute(sa.select(document).where(document.c.agent_id == first)))
            .mappings()
            .one()
        )
        await session.execute(
            sa.insert(agent),
            [
                row
                | {
                    "id": one,
                    "name": str(one),
                    "encryption_key": key,
                    "enrolled_spki_sha256": key,
                }
                for one, key in zip(made, keys, strict=True)
            ],
        )
        await session.execute(sa.insert(document), [assigned | {"agent_id": one} for one in made])
    return made


def _server_cpu_s() -> float:
    """The CPU time of the database server's processes, which are this process's descendants."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
