"""Live events on a real socket, heard by curl."""

import asyncio
import contextlib
import dataclasses
import json
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import httpx
import psutil
import pytest
import sqlalchemy as sa

from api.context import ApiContext
from api.events import feed, response
from api.serve import Listening, serving
from api.settings import ListenAddress
from tensorguard.services import hints
from tensorguard.services.hints import Hint, HintKind, forget_hints, tell
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api, new_slug
from tests.patience import PATIENCE_S


@dataclass
class Heard:
    kind: str
    data: dict[str, Any]
    id: str


@dataclass
class Curl:
    """`curl -N` on the event stream; remembers what it heard, and the id to resume from."""

    url: str
    headers: list[str]
    heard: list[Heard] = field(default_factory=list)
    last_id: str = ""
    status: int | None = None

    async def __aenter__(self) -> Self:
        resume = ["-H", f"Last-Event-ID: {self.last_id}"] if self.last_id else []
        named = [part for header in self.headers for part in ("-H", header)]
        self._process = await asyncio.create_subprocess_exec(
            "curl", "-sNi", "--noproxy", "*", *named, *resume, self.url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())
        await self.until(lambda: self.last_id != "" or self._reading.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        event: dict[str, str] = {}
        async for raw in self._process.stdout:
            line = raw.decode().rstrip("\r\n")
            if line.startswith("HTTP/"):
                self.status = int(line.split()[1])
            name, _, value = line.partition(": ")
            if name in ("event", "data", "id"):
                event[name] = value
            if line == "" and event:
                self.last_id = event.get("id", self.last_id)
                if "data" in event:
                    data = json.loads(event["data"])
                    self.heard.append(Heard(event["event"], data, self.last_id))
                event = {}
                async with self._changed:
                    self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(condition)

    async def hears(self, kind: str, id: str | None) -> None:
        await self.until(lambda: (kind, id) in self.said())

    async def ends(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._reading

    def said(self) -> list[tuple[str, str | None]]:
        return [(one.kind, one.data["id"]) for one in self.heard]


Follow = Callable[..., Curl]


def _on_free_ports(context: ApiContext) -> ApiContext:
    free = context.settings.model_copy(update={"device": ListenAddress("127.0.0.1", 0)})
    return dataclasses.replace(context, settings=free)


@pytest.fixture
async def listening(context: ApiContext) -> AsyncIterator[Listening]:
    async with serving(_on_free_ports(context)) as listening:
        yield listening


@pytest.fixture
def follow(listening: Listening) -> Follow:
    def make(key: str = "", *headers: str, **query: str) -> Curl:
        url = f"http://127.0.0.1:{listening.people.port}/api/v1/events?{httpx.QueryParams(query)}"
        return Curl(url, [*headers, *([f"Authorization: Bearer {key}"] if key else [])])

    return make


async def _tell(context: ApiContext, *told: Hint) -> None:
    async with context.sessions.begin() as session:
        await tell(session, told, now=context.clock())


async def _eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def _peers() -> set[tuple[str, int]]:
    """Whoever this process has a connection to."""
    return {tuple(one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr}


def _agents(count: int) -> list[Hint]:
    return [Hint(HintKind.AGENT, secrets.token_hex(8), "hospital-a") for _ in range(count)]


async def test_a_change_over_the_api_is_heard_and_only_as_ids(api: Api, follow: Follow) -> None:
    async with follow(await api.new_key(Role.VIEWER)) as curl:
        slug = await api.new_fleet("<img src=x>")
        await curl.hears("fleet", slug)
        await curl.hears("overview", None)
    assert curl.status == 200
    [one] = [heard for heard in curl.heard if heard.kind == "fleet"]
    assert one.data == {"kind": "fleet", "id": slug, "fleet": slug}


async def test_what_commits_late_is_heard_though_later_changes_were_heard_before(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    early, late, later = _agents(3)
    key = await api.new_key(Role.VIEWER)
    async with context.sessions() as session:
        await tell(session, [late], now=context.clock())
        async with follow(key) as curl:
            await _tell(context, early)
            await curl.hears("agent", early.id)
        async with curl:  # cut off, and back where it was
            await _tell(context, later)
            await curl.hears("agent", later.id)
            assert ("agent", late.id) not in curl.said()
            await session.commit()
            await curl.hears("agent", late.id)
    assert curl.said().count(("agent", late.id)) == 1


async def test_a_listener_that_was_cut_off_meanwhile_hears_what_committed_late(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    late, later = _agents(2)
    curl = follow(await api.new_key(Role.VIEWER))
    async with context.sessions() as session:
        await tell(session, [late], now=context.clock())
        async with curl:
            await _tell(context, later)
            await curl.hears("agent", later.id)
        await session.commit()
    async with curl:
        await curl.hears("agent", late.id)


async def test_nothing_is_lost_by_resuming_nor_heard_twice_without(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    key, chance = await api.new_key(Role.VIEWER), random.Random(7)
    wanted = _agents(200)
    done = asyncio.Event()

    async def write(own: list[Hint]) -> None:
        for one in own:
            async with context.sessions.begin() as session:
                await tell(session, [one], now=context.clock())
                await session.execute(
                    sa.text("SELECT pg_sleep(:s)"), {"s": chance.uniform(0, 0.05)}
                )

    async def write_all() -> None:
        await asyncio.gather(*(write(wanted[start::2]) for start in range(2)))
        done.set()

    ids = {("agent", one.id) for one in wanted}
    flaky = follow(key, kinds="agent")
    async with follow(key, kinds="agent") as steady, asyncio.TaskGroup() as tasks:
        async with flaky:
            tasks.create_task(write_all())
        while not done.is_set():
            async with flaky:
                seen = len(flaky.heard) + chance.randrange(1, 12)
                with contextlib.suppress(TimeoutError):
                    await flaky.until(lambda seen=seen: len(flaky.heard) >= seen, within_s=1)
        async with flaky:
            await flaky.until(lambda: ids <= set(flaky.said()))
        await steady.until(lambda: ids <= set(steady.said()))
    assert sorted(steady.said()) == sorted(ids)
    positions = [int(one.id) for one in steady.heard]
    assert positions == sorted(positions)


async def test_a_position_that_is_no_longer_kept_is_answered_by_reset(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    first, second = _agents(2)
    curl = follow(await api.new_key(Role.VIEWER))
    async with curl:
        await _tell(context, first)
        await curl.hears("agent", first.id)
    await _tell(context, second)
    kept = curl.last_id
    async with curl:
        await curl.hears("agent", second.id)
    assert ("reset", None) not in curl.said()
    await _tell(context, *_agents(1))
    async with context.sessions.begin() as session:
        later = context.clock() + hints.KEPT_FOR + timedelta(seconds=1)
        assert await forget_hints(session, now=later) > 0
    for position in (kept, "0", "9" * 18, "nonsense"):
        curl.last_id = position
        async with curl:
            await curl.hears("reset", None)
            third = _agents(1)[0]
            await _tell(context, third)
            await curl.hears("agent", third.id)
        curl.heard.clear()


async def test_too_many_changes_at_once_are_one_reset(
    api: Api, context: ApiContext, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_AT_ONCE", 10)
    async with follow(await api.new_key(Role.VIEWER)) as curl:
        await _tell(context, *_agents(11))
        await curl.hears("reset", None)
        after = _agents(1)[0]
        await _tell(context, after)
        await curl.hears("agent", after.id)
        assert len(curl.heard) == 2


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_hears_of_the_ledger_only_if_it_may_read_it(
    api: Api, context: ApiContext, follow: Follow, role: Role
) -> None:
    size, end = secrets.token_hex(4), _agents(1)[0]
    curl = follow(await api.new_key(role))
    async with curl:
        before = curl.last_id
        await _tell(context, Hint(HintKind.LEDGER, size))
        await _tell(context, end)
        await curl.hears("agent", end.id)
    may = role in (Role.COMPLIANCE, Role.ADMIN)
    assert (("ledger", size) in curl.said()) is may
    curl.heard.clear()
    curl.last_id = before
    async with curl:  # nor in what is told again
        await curl.hears("agent", end.id)
    assert (("ledger", size) in curl.said()) is may


async def test_nobody_follows_without_proof(follow: Follow) -> None:
    for headers in ([], ["Authorization: Bearer tg_x"], ["Cookie: tg=x"]):
        async with follow("", *headers) as curl:
            await curl.ends()
        assert curl.status == 401


async def test_kinds_and_fleet_narrow_what_is_heard(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    here, there = new_slug(), new_slug()
    key = await api.new_key(Role.ADMIN)
    wanted = [
        Hint(HintKind.AGENT, "of-here", here),
        Hint(HintKind.AGENT, "of-there", there),
        Hint(HintKind.DEPLOYMENT, "of-several", None),
        Hint(HintKind.RELEASE, "unasked", None),
    ]
    async with follow(key, kinds="agent,deployment", fleet=here) as curl:
        await _tell(context, *wanted)
        await curl.hears("deployment", "of-several")
        assert sorted(curl.said()) == [("agent", "of-here"), ("deployment", "of-several")]
    async with follow(key, kinds="agent,secrets") as curl:
        await curl.ends()
    assert curl.status == 422


async def test_a_stream_ends_when_its_listener_signs_out(
    api: Api, context: ApiContext, follow: Follow, admin_password: str
) -> None:
    credentials = {"email": "admin@tensorguard.local", "password": admin_password}
    signed_in = await api.nobody.post("/api/v1/session", json=credentials)
    cookie = {"Cookie": f"tg={signed_in.cookies['tg']}"}
    async with follow("", f"Cookie: {cookie['Cookie']}") as curl:
        await _tell(context, one := _agents(1)[0])
        await curl.hears("agent", one.id)
        api.nobody.cookies.clear()
        assert (await api.nobody.delete("/api/v1/session", headers=cookie)).status_code == 204
        await curl.ends()
    api.nobody.cookies.clear()
    assert context.feed.listeners == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET revoked_at = now() WHERE id = :id",
        "UPDATE api_keys SET expires_at = now() WHERE id = :id",
        "UPDATE api_keys SET role = 'mlops' WHERE id = :id",
    ],
)
async def test_a_stream_ends_when_its_key_is_revoked_expires_or_changes_role(
    api: Api, context: ApiContext, follow: Follow, change: str
) -> None:
    key, other = await api.new_key(Role.VIEWER), await api.new_key(Role.VIEWER)
    async with follow(key) as curl, follow(other) as staying:
        async with context.sessions.begin() as session:
            await session.execute(sa.text(change), {"id": key.split("_")[1]})
        await curl.ends()
        await _tell(context, one := _agents(1)[0])
        await staying.hears("agent", one.id)


async def test_a_stream_ends_when_its_session_expires_is_idle_or_its_user_disabled(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    changes = (
        "UPDATE sessions SET expires_at = now() WHERE user_id = :id",
        "UPDATE sessions SET last_seen_at = now() - interval '31 minutes' WHERE user_id = :id",
        "UPDATE users SET disabled_at = now() WHERE id = :id",
    )
    for change in changes:
        user = {
            "email": f"{secrets.token_hex(6)}@x.org", "name": "x", "role": "viewer",
            "password": "correct horse battery",
        }  # fmt: skip
        made = await api.admin.post("/api/v1/users", json=user)
        assert made.status_code == 201, made.text
        signed_in = await api.nobody.post(
            "/api/v1/session", json={name: user[name] for name in ("email", "password")}
        )
        api.nobody.cookies.clear()
        async with follow("", f"Cookie: tg={signed_in.cookies['tg']}") as curl:
            async with context.sessions.begin() as session:
                await session.execute(sa.text(change), {"id": made.json()["id"]})
            await curl.ends()


async def test_a_listener_that_takes_nothing_is_cut_off_and_disturbs_nobody(
    api: Api, context: ApiContext, listening: Listening, follow: Follow
) -> None:
    key = await api.new_key(Role.VIEWER)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", listening.people.port))
        slow.sendall(
            b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
            % key.encode()
        )
        async with follow(await api.new_key(Role.VIEWER)) as curl:
            await _eventually(lambda: context.feed.listeners == 2)
            told = 0
            async with asyncio.timeout(PATIENCE_S):
                while context.feed.listeners == 2:
                    batch = [
                        Hint(HintKind.AGENT, secrets.token_hex(1000), secrets.token_hex(4))
                        for _ in range(500)
                    ]
                    await _tell(context, *batch)
                    told += len(batch)
                    await curl.until(lambda: len(curl.heard) >= told)  # noqa: B023 - awaited here
            await _tell(context, one := _agents(1)[0])
            await curl.hears("agent", one.id)
        # Gone, although what was written for it was never taken.
        await _eventually(lambda: slow.getsockname() not in _peers())


async def test_streams_are_capped_for_each_caller_and_in_total(
    api: Api, context: ApiContext, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_STREAMS", 3)
    monkeypatch.setattr(feed, "MAX_STREAMS_PER_CALLER", 2)
    key, other = await api.new_key(Role.VIEWER), await api.new_key(Role.VIEWER)
    async with follow(key), follow(key):
        async with follow(key) as third:
            await third.ends()
        async with follow(other), follow(other) as fourth:
            await fourth.ends()
    assert (third.status, fourth.status) == (429, 429)
    await _eventually(lambda: context.feed.listeners == 0)
    async with follow(key) as again:
        assert again.status == 200


async def test_a_quiet_stream_is_kept_alive_and_its_position_with_it(
    api: Api, context: ApiContext, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "KEEP_ALIVE_S", 0.05)
    async with follow(await api.new_key(Role.VIEWER), kinds="release") as curl:
        first = curl.last_id
        await _tell(context, *_agents(1))
        await curl.until(lambda: int(curl.last_id) > int(first))
        assert curl.heard == []


async def test_open_streams_do_not_hold_up_the_end(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    async with serving(_on_free_ports(context)) as own, asyncio.timeout(6):
        curl = follow(await api.new_key(Role.VIEWER))
        curl.url = f"http://127.0.0.1:{own.people.port}/api/v1/events"
        await curl.__aenter__()
    await curl.ends()
    await curl.__aexit__()


async def test_the_database_is_asked_only_while_somebody_listens(
    api: Api, context: ApiContext, follow: Follow
) -> None:
    async with follow(await api.new_key(Role.VIEWER)):
        assert context.feed.listeners == 1
    await _eventually(lambda: "events-feed" not in {one.get_name() for one in asyncio.all_tasks()})


async def test_more_of_a_kind_than_anybody_reads_are_told_as_any_of_them(
    context: ApiContext,
) -> None:
    many = [Hint(HintKind.AGENT, str(n), "a") for n in range(hints.MAX_NAMED + 1)]
    few = [Hint(HintKind.AGENT, "x", "b"), Hint(HintKind.OVERVIEW)]
    assert hints.gathered([*many, *few]) == [Hint(HintKind.AGENT, None, "a"), *few]


async def test_there_are_never_more_hints_than_are_kept_and_never_none(
    context: ApiContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "MAX_KEPT", 5)
    for one in _agents(8):
        await _tell(context, one)
    count = sa.select(sa.func.count()).select_from(tables.stream_events)
    async with context.sessions.begin() as session:
        await forget_hints(session, now=context.clock())
        assert (await session.execute(count)).scalar() == 6
        await forget_hints(session, now=context.clock() + timedelta(days=1))
        assert (await session.execute(count)).scalar() == 1


async def test_those_who_join_while_the_others_are_checked_stay(
    api: Api, context: ApiContext, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, joined = feed.find_standing, asyncio.Event()
    newcomer = follow(await api.new_key(Role.VIEWER))

    async def slowly(*arguments: Any, **named: Any) -> Any:
        standing = await real(*arguments, **named)
        joined.set()
        await _eventually(lambda: context.feed.listeners == 2)
        monkeypatch.setattr(feed, "find_standing", real)
        return standing

    async with follow(await api.new_key(Role.VIEWER)):
        monkeypatch.setattr(feed, "find_standing", slowly)
        await joined.wait()
        async with newcomer:
            await _tell(context, one := _agents(1)[0])
            await newcomer.hears("agent", one.id)
