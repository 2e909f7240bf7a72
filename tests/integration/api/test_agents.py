"""Agents: lists and filters, telemetry, timeline, and the kill switch."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from api.context import utc_now
from broker.denyset import DenySet, Revocation
from broker.lease import Lease
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api, new_slug
from tests.integration.api.devices import enroll, join_string
from tests.patience import PATIENCE_S

AGENTS = "/api/v1/agents"


async def _execute(api: Api, statement: sa.Executable) -> None:
    async with api.context.sessions.begin() as session:
        await session.execute(statement)


async def _ids(api: Api, **params: Any) -> list[str]:
    """Every id on every page."""
    found: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2, **params} | ({"cursor": cursor} if cursor else {})
        page = await api.admin.get(AGENTS, params=query)
        assert page.status_code == 200, page.text
        found += [agent["id"] for agent in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return found


async def test_pages_show_every_agent_once_while_others_join(api: Api) -> None:
    fleet = await api.new_fleet()
    names = ["b", "a", "a", "Z", "ä", "🏥"]
    ids = {await enroll(api, fleet, name=name) for name in names}
    first = (await api.admin.get(AGENTS, params={"fleet": fleet, "limit": 2})).json()
    assert [agent["name"] for agent in first["items"]] == ["Z", "a"]
    await enroll(api, fleet, name="A before everything that was shown")
    late = await enroll(api, fleet, name="c")
    rest = []
    cursor = first["next_cursor"]
    while cursor:
        page = (
            await api.admin.get(AGENTS, params={"fleet": fleet, "limit": 2, "cursor": cursor})
        ).json()
        rest += page["items"]
        cursor = page["next_cursor"]
    shown = [agent["id"] for agent in first["items"] + rest]
    assert len(shown) == len(set(shown))
    assert set(shown) == ids | {late}


async def test_filters_find_exactly_what_they_say(api: Api) -> None:
    fleet = await api.new_fleet()
    online, weak, other = [await enroll(api, fleet, name=f"ward-{n}_{fleet}") for n in "abc"]
    status = tables.agent_status
    await _execute(
        api, sa.update(status).where(status.c.agent_id == UUID(online)).values(presence="online")
    )
    await _execute(
        api, sa.update(status).where(status.c.agent_id == UUID(weak)).values(trust_score=49)
    )
    assert await _ids(api, fleet=fleet, presence="online") == [online]
    assert await _ids(api, fleet=fleet, presence="never") == [weak, other]
    assert await _ids(api, fleet=fleet, trust_below=50) == [weak]
    assert await _ids(api, fleet=fleet, trust_below=49) == []
    assert await _ids(api, q=f"WARD-A_{fleet}") == [online]
    assert await _ids(api, q=other[:25]) == [other]
    assert await _ids(api, fleet=fleet, q="%") == []
    assert await _ids(api, fleet=fleet, q="ward_a") == []
    assert await _ids(api, fleet=fleet, status="revoked") == []
    assert await _ids(api, fleet=new_slug()) == []


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "\u202egnp.exe", "🏥" * 200, "'--", "a" * 200]
)
async def test_a_hostile_name_comes_back_as_json_and_as_it_was(api: Api, name: str) -> None:
    agent_id = await enroll(api, await api.new_fleet(), name=name)
    answer = await api.admin.get(f"{AGENTS}/{agent_id}")
    assert answer.json()["name"] == name
    assert answer.headers["content-type"] == "application/json"
    found = await api.admin.get(AGENTS, params={"q": name, "limit": 500})
    assert agent_id in {agent["id"] for agent in found.json()["items"]}


async def test_an_agent_shows_what_its_token_gave_it(api: Api) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, tags={"gpu": "true", "region": "us-east"})
    agent_id = await enroll(api, fleet, join=join)
    answer = await api.admin.get(f"{AGENTS}/{agent_id}")
    agent = answer.json()
    assert (agent["fleet"], agent["status"], agent["presence"]) == (fleet, "active", "never")
    assert agent["tags"] == {"gpu": "true", "region": "us-east"}
    assert len(agent["certificates"]) == 1
    assert agent["last_heartbeat_at"] is None
    assert answer.headers["etag"] == '"1"'
    missing = await api.admin.get(f"{AGENTS}/{uuid4()}")
    assert (missing.status_code, missing.json()["code"]) == (404, "agent-not-found")
    assert (await api.admin.get(f"{AGENTS}/not-an-id")).status_code == 422


async def test_telemetry_is_averaged_over_as_many_points_as_were_asked_for(api: Api) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    until = utc_now()
    since = until - timedelta(minutes=10)
    beats = [
        {
            "agent_id": UUID(agent_id),
            "received_at": since + timedelta(seconds=second),
            "sent_at": since + timedelta(seconds=second),
            "boot_count": 0,
            "seq": second,
            "status": "ok",
            "cpu_percent": second % 100,
            "memory_percent": 40,
            "disk_percent": 50,
            "temperature_c": None,
        }
        for second in range(600)
    ]
    await _execute(api, sa.insert(tables.heartbeats).values(beats))
    url = f"{AGENTS}/{agent_id}/telemetry"
    params: dict[str, str | int] = {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "points": 6,
    }
    answer = (await api.admin.get(url, params=params)).json()
    assert answer["step_s"] == 100
    assert [point["heartbeats"] for point in answer["points"]] == [100] * 6
    assert answer["points"][0]["cpu_percent"] == pytest.approx(49.5)
    assert answer["points"][0]["cpu_percent_max"] == 99
    for points in (7, 599, 1000):
        answer = (await api.admin.get(url, params=params | {"points": points})).json()
        assert len(answer["points"]) <= points
        assert sum(point["heartbeats"] for point in answer["points"]) == 600
    by_default = (await api.admin.get(url)).json()
    assert sum(point["heartbeats"] for point in by_default["points"]) == 600
    assert by_default["resolution"] == "raw"
    for days, resolution, bucket_s in ((1, "1m", 60), (7, "1h", 3600), (365, "1d", 86400)):
        params["since"] = (until - timedelta(days=days)).isoformat()
        answer = (await api.admin.get(url, params=params | {"points": 50})).json()
        assert answer["resolution"] == resolution
        assert len(answer["points"]) <= 50
        assert sum(point["heartbeats"] for point in answer["points"]) == 600
        assert max(point["cpu_percent_max"] for point in answer["points"]) == 99
        assert answer["step_s"] % bucket_s == 0
        start = datetime.fromisoformat(answer["since"])
        assert start.timestamp() % bucket_s == 0
        assert start <= datetime.fromisoformat(str(params["since"]))
        assert datetime.fromisoformat(answer["until"]) >= until


@pytest.mark.parametrize(
    "params",
    [
        {"since": "2026-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"},
        {"since": "2023-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
        {"since": "2026-01-01T00:00:00"},
        {"until": "0001-01-01T00:00:00Z"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"points": 0},
        {"points": 1001},
    ],
)
async def test_a_range_that_makes_no_sense_is_refused(api: Api, params: dict[str, str]) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    answer = await api.admin.get(f"{AGENTS}/{agent_id}/telemetry", params=params)
    assert answer.status_code == 422, answer.text


async def test_the_timeline_tells_what_happened_the_newest_first(api: Api) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json={"reason": "stolen <b>"})
    url = f"{AGENTS}/{agent_id}/timeline"
    first = (await api.admin.get(url, params={"limit": 1})).json()
    second = (await api.admin.get(url, params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [item["type"] for item in first["items"] + second["items"]] == [
        "agent.revoked",
        "agent.enrolled",
    ]
    assert first["items"][0]["details"]["reason"] == "stolen <b>"
    assert second["next_cursor"] is None


@asynccontextmanager
async def running_front(api: Api) -> AsyncIterator[str]:
    """The lease of a real broker front that has one connection of every agent."""
    front = f"front-{secrets.token_hex(4)}"
    denied, stop = DenySet(), asyncio.Event()

    async def apply(revocations: Sequence[Revocation]) -> list[int]:
        for revocation in revocations:
            denied.add(revocation)
        return [1] * len(revocations)

    lease = Lease(api.context.settings.database_url.get_secret_value(), front, denied)
    await lease.load()
    running = asyncio.create_task(lease.run(stop, address="127.0.0.1:8883", apply=apply))
    table = tables.broker_fronts
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with api.context.sessions() as session:
                follows = sa.select(table).where(table.c.id == front, table.c.address != "")
                if (await session.execute(follows)).first():
                    break
            await asyncio.sleep(0.02)
    try:
        yield front
    finally:
        stop.set()
        await running


async def test_a_revoked_agent_is_denied_by_the_front_and_the_receipt_says_how_fast(
    api: Api,
) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    compliance = await api.as_role(Role.COMPLIANCE)
    async with running_front(api) as front:
        answer = await compliance.post(
            f"{AGENTS}/{agent_id}/revoke", json={"reason": "tampered with"}
        )
    receipt = answer.json()
    assert answer.status_code == 200
    assert (receipt["state"], receipt["waiting_for"]) == ("complete", [])
    ours = next(one for one in receipt["fronts"] if one["front"] == front)
    assert ours["disconnected"] == 1
    assert ours["took_ms"] >= 0
    agent = (await api.admin.get(f"{AGENTS}/{agent_id}")).json()
    assert (agent["status"], agent["status_reason"]) == ("revoked", "tampered with")
    (event,) = await api.events("agent.revoked", subject=agent_id)
    assert (event["reason"], event["seq"]) == ("tampered with", receipt["seq"])


async def test_a_front_that_does_not_answer_is_named_in_a_partial_receipt(api: Api) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    front = f"front-{secrets.token_hex(4)}"
    now = utc_now()
    await _execute(
        api,
        sa.insert(tables.broker_fronts).values(
            id=front, address="x", started_at=now, lease_until=now, applied_seq=0
        ),
    )
    answer = await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json={"reason": "stolen"})
    assert answer.json()["state"] == "partial"
    assert front in answer.json()["waiting_for"]
    assert front in answer.json()["not_answering"]
    table = tables.broker_fronts
    await _execute(api, sa.delete(table).where(table.c.id == front))
    later = (await api.admin.get(f"{AGENTS}/{agent_id}/revocation")).json()
    assert front not in later["waiting_for"]


async def test_revoking_twice_changes_nothing_and_answers_the_same(api: Api) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    url = f"{AGENTS}/{agent_id}/revoke"
    answers = await asyncio.gather(
        *(api.admin.post(url, json={"reason": reason}) for reason in ("first", "second", "third"))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["seq"] for answer in answers}) == 1
    assert len({answer.json()["reason"] for answer in answers}) == 1
    assert len(await api.events("agent.revoked", subject=agent_id)) == 1


async def test_a_revoked_device_cannot_come_back_by_its_join_string(api: Api) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, max_uses=10)
    agent_id = await enroll(api, fleet, join=join)
    await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json={"reason": "stolen"})
    again = await enroll(api, fleet, join=join)
    assert (await api.admin.get(f"{AGENTS}/{again}")).json()["status"] == "pending"


@pytest.mark.parametrize("reason", ["", "a" * 501, "nul\u0000"])
async def test_a_revocation_needs_a_reason_that_can_be_kept(api: Api, reason: str) -> None:
    agent_id = await enroll(api, await api.new_fleet())
    answer = await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json={"reason": reason})
    assert answer.status_code == 422
    assert (await api.admin.get(f"{AGENTS}/{agent_id}")).json()["status"] == "active"
    assert (await api.admin.get(f"{AGENTS}/{agent_id}/revocation")).status_code == 404


async def test_the_overview_counts_what_there_is(api: Api) -> None:
    before = (await api.admin.get("/api/v1/overview")).json()
    agent_id = await enroll(api, await api.new_fleet())
    await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json={"reason": "stolen"})
    await enroll(api, await api.new_fleet())
    after = (await api.admin.get("/api/v1/overview")).json()
    assert after["fleets"] == before["fleets"] + 2
    for status in ("active", "revoked"):
        was = before["agents"]["by_status"].get(status, 0)
        assert after["agents"]["by_status"][status] == was + 1
    assert sum(after["agents"]["by_presence"].values()) == after["agents"]["by_status"]["active"]
    assert sum(after["agents"]["by_trust"].values()) == after["agents"]["by_status"]["active"]
