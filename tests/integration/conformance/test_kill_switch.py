"""From the row in `revocations` to the closed connection, on a real database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from broker import lease as lease_module
from broker.denyset import FORGOTTEN_AFTER, DenySet, Revocation
from broker.lease import CHANNEL, Lease
from tensorguard.pki.identity import serial_text
from tests.integration.broker.certificates import AgentCredentials, Platform
from tests.integration.broker.wire import connect_packet
from tests.integration.conformance.conftest import AnySite, OpenSite
from tests.integration.sites import FRONT_ID
from tests.patience import PATIENCE_S
from tests.postgres import Database

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(fresh_database: Database) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        fresh_database.superuser_url, autocommit=True
    ) as opened:
        yield opened


async def revoke(
    connection: Connection,
    *,
    agent_id: UUID | None = None,
    serial: str | None = None,
    not_after: datetime | None = None,
) -> None:
    await connection.execute(
        "INSERT INTO revocations (agent_id, serial, reason, revoked_at, revoked_by, not_after)"
        " VALUES (%s, %s, 'test', now(), 'test', %s)",
        (agent_id, serial, not_after),
    )


async def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()


@asynccontextmanager
async def followed(
    open_site: OpenSite, database: Database, **limits: object
) -> AsyncIterator[tuple[AnySite, DenySet]]:
    """A front whose deny set follows the database."""
    denied, stop = DenySet(), asyncio.Event()
    following = Lease(database.app_url, FRONT_ID, denied)
    await following.load()
    async with open_site(denied=denied, **limits) as site:
        task = asyncio.create_task(
            following.run(stop, address="127.0.0.1:8883", apply=site.front.apply)
        )
        try:
            yield site, denied
        finally:
            stop.set()
            async with await psycopg.AsyncConnection.connect(
                database.superuser_url, autocommit=True
            ) as waking:
                await waking.execute(f"NOTIFY {CHANNEL}")  # its next look may be an hour away
            await task


async def test_a_revoked_agent_is_out_at_once_and_cannot_return(
    open_site: OpenSite,
    platform: Platform,
    fresh_database: Database,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_module, "POLL_EVERY", timedelta(hours=1))  # only the notice helps
    agent, other = platform.agent(), platform.agent()
    async with followed(open_site, fresh_database) as (site, _):
        wire, witness = await site.agent(agent), await site.agent(other)
        await leased(site, connection)
        await revoke(connection, agent_id=agent.agent_id)
        assert await wire.hear() is None
        again = await site.open(agent)
        assert await again.connect(agent.client_id) == 5
        assert await witness.ping()


async def test_without_notify_polling_finds_the_revocation(
    open_site: OpenSite,
    platform: Platform,
    fresh_database: Database,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_module, "CHANNEL", "a_channel_that_nobody_notifies")
    agent = platform.agent()
    async with followed(open_site, fresh_database) as (site, _):
        wire = await site.agent(agent)
        await revoke(connection, agent_id=agent.agent_id)
        assert await wire.hear() is None


async def leased(site: AnySite, connection: Connection) -> None:
    """Wait for the lease's row."""
    async with asyncio.timeout(PATIENCE_S):
        query = "SELECT 1 FROM broker_fronts WHERE address <> ''"
        while not await rows(connection, query):  # noqa: ASYNC110  a table
            await asyncio.sleep(0.02)


async def test_the_receipt_says_how_many_sessions_were_ended(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    present, absent = platform.agent(), platform.agent()
    async with followed(open_site, fresh_database) as (site, denied):
        wire = await site.agent(present)
        await revoke(connection, agent_id=absent.agent_id)
        await revoke(connection, agent_id=present.agent_id)
        assert await wire.hear() is None
        await site.until(lambda: denied.applied_seq == 2, "both are applied")
        query = (
            "SELECT seq, front_id, disconnected, denied_at <= disconnected_at"
            " FROM revocation_receipts ORDER BY seq"
        )
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await rows(connection, query)) < 2:  # noqa: ASYNC110  a table
                await asyncio.sleep(0.02)
        assert found == [(1, FRONT_ID, 0, None), (2, FRONT_ID, 1, True)]


async def test_a_superseded_serial_ends_the_old_certificates_session(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    old = platform.agent()
    renewed = platform.agent(agent_id=old.agent_id)
    async with followed(open_site, fresh_database) as (site, _):
        wire = await site.agent(old)
        await revoke(connection, serial=serial_text(old.certificate.serial_number))
        assert await wire.hear() is None
        await site.agent(renewed)


async def test_what_was_revoked_before_the_start_is_denied_from_the_first_connect(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    agent = platform.agent()
    await revoke(connection, agent_id=agent.agent_id)
    async with followed(open_site, fresh_database) as (site, _):
        wire = await site.open(agent)
        assert await wire.connect(agent.client_id) == 5
    assert await rows(connection, "SELECT * FROM revocation_receipts") == []


async def test_the_lease_is_renewed_carries_applied_seq_and_is_given_back(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    query = "SELECT id, address, applied_seq, lease_until > now() FROM broker_fronts"
    async with followed(open_site, fresh_database) as (site, denied):
        await leased(site, connection)
        assert await rows(connection, query) == [(FRONT_ID, "127.0.0.1:8883", 0, True)]
        ((first,),) = await rows(connection, "SELECT lease_until FROM broker_fronts")
        await revoke(connection, agent_id=platform.agent().agent_id)
        await site.until(lambda: denied.applied_seq == 1, "it is applied")
        async with asyncio.timeout(PATIENCE_S):
            row = (FRONT_ID, "127.0.0.1:8883", 1, True)
            while await rows(connection, query) != [row]:  # noqa: ASYNC110  a table
                await asyncio.sleep(0.02)
        ((later,),) = await rows(connection, "SELECT lease_until FROM broker_fronts")
        assert later > first
        assert later - datetime.now(UTC) < timedelta(seconds=5)
    assert await rows(connection, query) == []


async def test_a_front_owes_a_receipt_before_it_has_read_what_is_revoked(
    fresh_database: Database, platform: Platform, connection: Connection
) -> None:
    denied = DenySet()
    following = Lease(fresh_database.app_url, FRONT_ID, denied)
    async with connection.transaction():
        await connection.execute("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE")
        loading = asyncio.create_task(following.load())
        async with asyncio.timeout(PATIENCE_S):
            query = "SELECT applied_seq, lease_until <= clock_timestamp() FROM broker_fronts"
            while (found := await rows(connection, query)) != [(0, True)]:  # noqa: ASYNC110  a table
                await asyncio.sleep(0.02)
        assert not loading.done(), found
    await loading


async def test_a_receipt_that_could_not_be_written_is_written_after_the_connection_is_back(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    agent = platform.agent()
    async with followed(open_site, fresh_database) as (site, _):
        wire = await site.agent(agent)
        await leased(site, connection)
        async with await psycopg.AsyncConnection.connect(fresh_database.superuser_url) as blocking:
            await blocking.execute("LOCK TABLE revocation_receipts IN ACCESS EXCLUSIVE MODE")
            await revoke(connection, agent_id=agent.agent_id)
            assert await wire.hear() is None
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'tg_app'"
            )
            await blocking.rollback()
        async with asyncio.timeout(PATIENCE_S):
            query = "SELECT front_id, disconnected FROM revocation_receipts"
            while not (found := await rows(connection, query)):  # noqa: ASYNC110  a table
                await asyncio.sleep(0.02)
        assert found == [(FRONT_ID, 1)]


async def test_the_revocations_of_a_transaction_wake_a_front_once(
    fresh_database: Database, connection: Connection
) -> None:
    await connection.execute("LISTEN tg_revocations")
    await connection.execute(
        "INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)"
        " SELECT gen_random_uuid(), 'test', now(), 'test' FROM generate_series(1, 500)"
    )
    heard = [notify async for notify in connection.notifies(timeout=0.3)]
    assert len(heard) == 1


async def test_a_lost_database_connection_is_made_again_and_nothing_is_missed(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    agent = platform.agent()
    async with followed(open_site, fresh_database) as (site, denied):
        wire = await site.agent(agent)
        await leased(site, connection)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await revoke(connection, agent_id=agent.agent_id)
        assert await wire.hear() is None
        assert denied.applied_seq == 1


async def test_a_front_forgets_certificates_that_ended_and_agents_never(
    fresh_database: Database, connection: Connection
) -> None:
    now, agent_id = datetime.now(UTC), uuid4()
    denied, stop, applied = DenySet(), asyncio.Event(), asyncio.Event()

    async def apply(revocations: Sequence[Revocation]) -> list[int]:
        for revocation in revocations:
            denied.add(revocation)
        if denied.applied_seq == 4:
            applied.set()
        return [0] * len(revocations)

    await revoke(connection, serial="loaded", not_after=now)
    following = Lease(fresh_database.app_url, FRONT_ID, denied, clock=lambda: now)
    await following.load()
    task = asyncio.create_task(following.run(stop, address="x", apply=apply))
    await revoke(connection, serial="followed", not_after=now)
    await revoke(connection, serial="unknown")
    await revoke(connection, agent_id=agent_id)
    serials = ("loaded", "followed", "unknown")
    async with asyncio.timeout(PATIENCE_S):
        await applied.wait()
        assert all(denied.denies_session(None, serial) for serial in serials)
        now += FORGOTTEN_AFTER + timedelta(seconds=1)
        while denied.denies_session(None, "loaded"):  # noqa: ASYNC110  a set
            await asyncio.sleep(0.02)
    stop.set()
    await connection.execute(f"NOTIFY {CHANNEL}")
    await task
    assert [denied.denies_session(None, serial) for serial in serials] == [False, False, True]
    assert denied.denies_session(agent_id, "any")
    # Whose sessions have ended is asked of agents alone.
    assert await rows(connection, "SELECT seq FROM revocation_receipts") == [(4,)]


async def test_an_unreachable_database_makes_the_front_stale(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    now = 0.0
    denied = DenySet(monotonic=lambda: now)
    stop = asyncio.Event()
    following = Lease(fresh_database.app_url, FRONT_ID, denied)
    await following.load()
    async with open_site(denied=denied) as site:
        task = asyncio.create_task(following.run(stop, address="x", apply=site.front.apply))
        wire = await site.agent(platform.agent())
        await leased(site, connection)
        # A lock that is not given is as good as a server that does not answer.
        async with connection.transaction():
            await connection.execute("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE")
            now = 5.1
            newcomer = platform.agent()
            late = await site.open(newcomer)
            assert await late.connect(newcomer.client_id) == site.refused(3)
            assert await wire.ping()
        await site.until(lambda: not denied.is_stale(), "the front caught up")
        stop.set()
        await task


async def test_no_race_between_connecting_and_revoking_lets_an_agent_stay(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    agents = [platform.agent() for _ in range(30)]
    async with followed(open_site, fresh_database) as (site, denied):

        async def connect(agent: AgentCredentials, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            wire = await site.open(agent)
            await wire.say(connect_packet(agent.client_id))
            with contextlib.suppress(ConnectionError):
                await wire.hear(PATIENCE_S)  # its answer, or the end before there was one

        connecting = [
            asyncio.create_task(connect(agent, number * 0.003))
            for number, agent in enumerate(agents)
        ]
        for agent in agents:
            await revoke(connection, agent_id=agent.agent_id)
        await asyncio.gather(*connecting)
        await site.until(lambda: denied.applied_seq == 30, "all are applied")
        await site.until(lambda: site.agents == 0, "nobody stays")


@pytest.mark.deep
async def test_of_two_hundred_revocations_each_is_disconnected_and_refused(
    open_site: OpenSite, platform: Platform, fresh_database: Database, connection: Connection
) -> None:
    agents = [platform.agent() for _ in range(300)]
    limits = {"refusal_burst": 1000, "storm_refusal_burst": 1000}  # all from one address
    async with followed(open_site, fresh_database, **limits) as (site, _):
        wires = [await site.agent(agent) for agent in agents]
        loop = asyncio.get_running_loop()
        took_s = []
        for agent, wire in list(zip(agents, wires, strict=True))[:200]:
            before = loop.time()
            await revoke(connection, agent_id=agent.agent_id)
            assert await wire.hear() is None
            again = await site.open(agent)
            assert await again.connect(agent.client_id) == 5
            took_s.append(loop.time() - before)
        assert site.agents == 100
        median_s, p99_s = sorted(took_s)[100], sorted(took_s)[197]
        print(f"from revoked to refused: median {median_s:.3f} s, p99 {p99_s:.3f} s")
