"""The rollout controller with many agents: from the start to all documents, and a gate's tick.

python tests/load/bench_rollouts.py [agents]

One stage of 100 % without a ramp on an embedded PostgreSQL with fsync on: from the start to every
desired document signed and handed to the outbox, with the memory that this takes. Then what a tick
costs in which agents are watched and the gate is counted, with everybody on the way and with
everybody done; and what it costs to see, every five seconds, who has joined.
"""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

import psutil
import sqlalchemy as sa
import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hub.rollouts import NEVER
from tensorguard.rollouts.presumption import Watch
from tensorguard.rollouts.strategy import parse_strategy
from tensorguard.services.deployments import moving, observing, rollout
from tensorguard.services.deployments.deployments import get_deployment
from tensorguard.services.deployments.membership import FIRST, follow_members
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.embedded.server import EmbeddedPostgres
from tensorguard.store.engine import create_engine, session_maker
from tensorguard.store.migrate import upgrade
from tensorguard.store.package_files import PackageFiles
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.deployments.builders import OPERATOR, Clock, Platform

FLEET = "hospital-a"
TICKS = 10


def main(agents: int = 100_000) -> dict[str, float]:
    """Print and give the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="bench-rollouts-"))
    folder.chmod(0o711)  # as root the server is another user, who has to pass through
    server = EmbeddedPostgres(folder / "pg", durable=True)
    try:
        asyncio.run(server.start())
        upgrade(server.owner_url)
        figures = uvloop.run(_measure(server, folder, agents))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    for name, figure in figures.items():
        print(f"{name:34} {figure:10.1f}")
    return figures


async def _measure(server: EmbeddedPostgres, folder: Path, agents: int) -> dict[str, float]:
    engine = create_engine(server.app_url, service="bench", pool_size=4)
    try:
        platform = await _prepare(session_maker(engine), folder)
        await platform.add_fleet(FLEET)
        async with platform.sessions.begin() as session:
            for statement in _ADD_AGENTS:
                await session.execute(
                    statement, {"fleet": FLEET, "n": agents, "now": platform.clock.now}
                )
        release = await platform.release()
        gate = {"percent": 100, "gate": {"soak_s": 300}}
        draft = await platform.draft(release, FLEET, strategy=parse_strategy({"stages": [gate]}))
        before_mib, began = _memory_mib(), time.perf_counter()
        deployment = await platform.do(
            moving.start_deployment, draft.id, by=OPERATOR, now=platform.clock.now
        )
        started_s = time.perf_counter() - began
        await platform.controller().step()
        took_s = time.perf_counter() - began
        async with platform.sessions() as session:
            given = (await session.execute(_COUNT)).scalar_one()
        assert given == agents, f"{given} of {agents} have a document"
        grown_mib = _memory_mib() - before_mib
        on_the_way_ms = await _ticks_ms(platform, deployment.id)
        async with platform.sessions.begin() as session:
            for statement in _ALL_SUCCEED:
                await session.execute(
                    statement, {"digest": release.package_digest, "now": platform.clock.now}
                )
        done_ms = await _ticks_ms(platform, deployment.id)
        return {
            "agents": agents,
            "start_s": started_s,
            "start_to_all_documents_s": took_s,
            "documents_per_s": agents / (took_s - started_s),
            "memory_grown_mib": grown_mib,
            **_describe("on_the_way", on_the_way_ms),
            **_describe("done", done_ms),
            "members_followed_ms": await _follow_ms(platform, deployment.id),
        }
    finally:
        await engine.dispose()


async def _ticks_ms(platform: Platform, deployment_id: UUID) -> list[tuple[float, float]]:
    """Return what watching agents and evaluating the gate took in each tick."""
    after, found = FIRST, []
    for _ in range(TICKS):
        took_ms, after = await _tick_ms(platform, deployment_id, after)
        found.append(took_ms)
    return found


def _describe(when: str, ticks_ms: list[tuple[float, float]]) -> dict[str, float]:
    gates_ms, whole_ms = [gate for _, gate in ticks_ms], [sum(both) for both in ticks_ms]
    return {
        f"gate_{when}_median_ms": statistics.median(gates_ms),
        f"gate_{when}_most_ms": max(gates_ms),
        f"tick_{when}_median_ms": statistics.median(whole_ms),
        f"tick_{when}_most_ms": max(whole_ms),
    }


async def _follow_ms(platform: Platform, deployment_id: UUID) -> float:
    began = time.perf_counter()
    async with platform.sessions.begin() as session:
        deployment = await get_deployment(session, deployment_id, lock=True)
        await follow_members(session, deployment, platform.clock.now)
    return (time.perf_counter() - began) * 1000


async def _tick_ms(
    platform: Platform, deployment_id: UUID, after: UUID
) -> tuple[tuple[float, float], UUID]:
    """Watch agents and evaluate the gate, as the controller does each second."""
    watch = Watch(heard_since=platform.clock.now, clock_since=NEVER)
    began = time.perf_counter()
    async with platform.sessions.begin() as session:
        assert await rollout.lead(session)
        deployment = await get_deployment(session, deployment_id, lock=True)
        after = await observing.observe(
            session, deployment, watch=watch, now=platform.clock.now, after=after
        )
        watched = time.perf_counter()
        await rollout.decide_next(session, deployment, watch=watch, now=platform.clock.now)
    return ((watched - began) * 1000, (time.perf_counter() - watched) * 1000), after


async def _prepare(sessions: object, folder: Path) -> Platform:
    clock = Clock()
    kek = LocalKeyProvider.open_or_create(folder / KEK_FILE, clock)
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=kek,
            trust_domain="example.org",
            root_dir=folder / "root",
            now=clock.now,
            hash_with=lambda password: "not-a-hash",
        )
    async with sessions() as session:
        keyring = await Keyring.load(session, kek)
    files = PackageFiles(folder / "packages")
    await files.prepare()
    key = Ed25519PrivateKey.generate()
    platform = Platform(sessions, keyring, kek, files, folder, clock, key)
    await platform.register_publisher(key)
    return platform


def _memory_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


_COUNT = sa.text("SELECT count(*) FROM agent_desired WHERE sent_at IS NULL")
_ALL_SUCCEED = (
    sa.text("UPDATE agent_desired SET sent_at = :now WHERE CAST(:digest AS bytea) IS NOT NULL"),
    sa.text("""
        UPDATE agent_state AS state SET package_digest = :digest, received_at = :now,
            desired_epoch = document.epoch, desired_revision = document.revision
        FROM agent_desired AS document WHERE document.agent_id = state.agent_id
    """),
    sa.text("""
        UPDATE deployment_agents SET state = 'succeeded', notified_at = :now, finished_at = :now
        WHERE CAST(:digest AS bytea) IS NOT NULL
    """),
)
_ADD_AGENTS = (
    sa.text("""
        INSERT INTO agents (id, fleet, name, tags, facts, status, enrolled_by,
                            enrolled_spki_sha256, encryption_key, created_at, enrolled_at)
        SELECT id, :fleet, 'agent-' || number, '{}', '{}', 'active', 'token',
               sha256(uuid_send(id)), sha256('k' || uuid_send(id)), :now, :now
        FROM (SELECT number, gen_random_uuid() AS id
              FROM generate_series(1, CAST(:n AS integer)) AS number) AS made
    """),
    sa.text("""
        INSERT INTO agent_state (agent_id, received_at)
        SELECT id, :now FROM agents WHERE fleet = :fleet AND :n > 0
    """),
    sa.text("""
        INSERT INTO agent_status (agent_id, presence, presence_since)
        SELECT id, 'online', :now FROM agents WHERE fleet = :fleet AND :n > 0
    """),
)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
