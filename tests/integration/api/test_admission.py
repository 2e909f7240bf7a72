"""Admission over the API: decisions about devices that wait, limits, and who asks."""

import asyncio
import dataclasses
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from api.attempts import Budget
from api.context import ApiContext
from api.enrollments import Enrollments
from tensorguard.protocol import codec
from tensorguard.services.people.access import Role
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.api.devices import ENROLL, JSON, enroll, join_string
from tests.integration.enrollment.builders import Device

AGENTS = "/api/v1/agents"


async def _join(api: Api, request: bytes, **headers: str) -> httpx.Response:
    return await api.device.post(ENROLL, content=request, headers=JSON | headers)


async def _waiting(api: Api, count: int = 1) -> list[str]:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, approval="manual", max_uses=count)
    return [await enroll(api, fleet, join=join) for _ in range(count)]


async def test_an_approved_device_becomes_active_when_it_asks_again(api: Api) -> None:
    join = await join_string(api, await api.new_fleet(), approval="manual")
    request = codec.encode(Device().request(join))
    agent_id = (await _join(api, request)).json()["agent_id"]

    approved = await api.admin.post(f"{AGENTS}/{agent_id}/approve", json={})

    assert approved.status_code == 200, approved.text
    assert (approved.json()["status"], approved.json()["enrolled_at"]) == ("active", None)
    answer = await _join(api, request)
    assert (answer.status_code, answer.json()["agent_id"]) == (201, agent_id)
    shown = (await api.admin.get(f"{AGENTS}/{agent_id}")).json()
    assert shown["enrolled_at"] is not None
    assert len(shown["certificates"]) == 1
    for type_ in ("agent.pending", "agent.approved", "agent.enrolled"):
        assert len(await api.events(type_, subject=agent_id)) == 1


async def test_a_rejected_device_is_told_why_and_may_come_back_once_released(api: Api) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, approval="manual", max_uses=2)
    request = codec.encode(Device().request(join))
    agent_id = (await _join(api, request)).json()["agent_id"]
    rejected = await api.admin.post(f"{AGENTS}/{agent_id}/reject", json={"reason": "unknown box"})
    assert (rejected.json()["status"], rejected.json()["status_reason"]) == (
        "rejected",
        "unknown box",
    )
    refused = await _join(api, request)
    assert (refused.status_code, refused.json()["code"]) == (403, "enrollment-rejected")
    assert "unknown box" in refused.json()["detail"]

    released = await api.admin.post(f"{AGENTS}/{agent_id}/release", json={"reason": "found it"})

    assert released.json()["released_at"] is not None
    again = await _join(api, request)
    assert again.status_code == 202
    assert again.json()["agent_id"] != agent_id


async def test_many_are_decided_in_one_request(api: Api) -> None:
    ids = await _waiting(api, 3)
    await api.admin.post(f"{AGENTS}/{ids[0]}/approve", json={})
    stranger = str(uuid4())
    body = {"ids": [*ids, stranger], "decision": "reject", "reason": "wrong order"}
    answer = await api.admin.post(f"{AGENTS}/decide", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["decided"] == ids[1:]
    assert [(one["id"], one["code"]) for one in answer.json()["failed"]] == [
        (ids[0], "agent-not-pending"),
        (stranger, "agent-not-found"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"ids": [], "decision": "approve"},
        {"ids": [str(uuid4()) for _ in range(501)], "decision": "approve"},
        {"ids": [str(uuid4())], "decision": "reject"},
        {"ids": [str(uuid4())], "decision": "approve", "reason": "none is asked for"},
        {"ids": [str(uuid4())], "decision": "maybe"},
    ],
)
async def test_a_decision_of_another_form_is_refused(api: Api, body: dict[str, Any]) -> None:
    answer = await api.admin.post(f"{AGENTS}/decide", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")


async def test_what_cannot_be_decided_any_more_says_so(api: Api) -> None:
    (agent_id,) = await _waiting(api)
    early = await api.admin.post(f"{AGENTS}/{agent_id}/release", json={"reason": "too early"})
    assert (early.status_code, early.json()["code"]) == (409, "agent-not-releasable")
    await api.admin.post(f"{AGENTS}/{agent_id}/approve", json={})
    twice = await api.admin.post(f"{AGENTS}/{agent_id}/approve", json={})
    assert (twice.status_code, twice.json()["code"]) == (409, "agent-not-pending")
    nobody = await api.admin.post(f"{AGENTS}/{uuid4()}/approve", json={})
    assert nobody.status_code == 404


async def test_only_an_admin_decides_who_joins(api: Api) -> None:
    (agent_id,) = await _waiting(api)
    for role in (Role.VIEWER, Role.MLOPS, Role.COMPLIANCE):
        client = await api.as_role(role)
        for path, body in (
            (f"{agent_id}/approve", {}),
            (f"{agent_id}/reject", {"reason": "x"}),
            (f"{agent_id}/release", {"reason": "x"}),
            ("decide", {"ids": [agent_id], "decision": "approve"}),
        ):
            answer = await client.post(f"{AGENTS}/{path}", json=body)
            assert answer.status_code == 403, (role, path)
    assert (await api.admin.get(f"{AGENTS}/{agent_id}")).json()["status"] == "pending"


async def test_an_agent_whose_token_was_revoked_says_so_to_whoever_decides(api: Api) -> None:
    (agent_id,) = await _waiting(api)
    shown = (await api.admin.get(f"{AGENTS}/{agent_id}")).json()
    assert shown["token_revoked_at"] is None
    tokens = f"/api/v1/fleets/{shown['fleet']}/enrollment-tokens"
    await api.admin.delete(f"{tokens}/{shown['token_id']}")
    shown = (await api.admin.get(f"{AGENTS}/{agent_id}")).json()
    assert shown["token_revoked_at"] is not None
    assert shown["status"] == "pending"


async def test_a_decision_is_told_to_whoever_watches(api: Api) -> None:
    (agent_id,) = await _waiting(api)
    hints = sa.select(sa.func.count()).where(tables.stream_events.c.subject_id == agent_id)
    async with api.context.sessions() as session:
        before = await session.scalar(hints)
    await api.admin.post(f"{AGENTS}/{agent_id}/approve", json={})
    async with api.context.sessions() as session:
        assert await session.scalar(hints) == (before or 0) + 1


# Limits


async def test_more_devices_than_may_wait_are_told_to_come_back_and_lose_nothing(
    context: ApiContext,
) -> None:
    enrollments = Enrollments(
        context.settings.database_url.get_secret_value(),
        context.keyring,
        context.settings.mqtt_address,
        context.clock,
        most_waiting=4,
    )
    async with Api(dataclasses.replace(context, enrollments=enrollments)) as api:
        fleet = await api.new_fleet()
        join = await join_string(api, fleet, max_uses=20)
        requests = [codec.encode(Device().request(join)) for _ in range(9)]
        waiting = [asyncio.create_task(_join(api, request)) for request in requests]
        while sum(one.done() for one in waiting) < 5:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
        refused = [one.result() for one in waiting if one.done()]
        assert {(one.status_code, one.json()["code"]) for one in refused} == {(503, "overloaded")}
        assert all(int(one.headers["Retry-After"]) > 0 for one in refused)
        async with enrollments.serving():
            answers = [await one for one in waiting]
            assert sorted(one.status_code for one in answers) == [201] * 4 + [503] * 5
            late = [await _join(api, request) for request in requests]
            assert {one.status_code for one in late} == {201}
            assert len({one.json()["agent_id"] for one in late}) == 9
        ended = await _join(api, requests[0])
        assert (ended.status_code, ended.json()["code"]) == (503, "overloaded")


async def test_a_network_that_asks_too_often_is_slowed_down_even_where_it_may(
    context: ApiContext,
) -> None:
    budget = Budget("enrollments", burst=3, per_second=0.001)
    async with Api(dataclasses.replace(context, enrollment_rate=budget)) as api:
        join = await join_string(api, await api.new_fleet())
        request = codec.encode(Device().request(join))
        statuses = [(await _join(api, request)).status_code for _ in range(5)]
        assert statuses == [201, 201, 201, 429, 429]


# Where a request comes from: the socket of these tests is 127.0.0.1


@pytest.mark.parametrize(
    ("settings", "forwarded", "status"),
    [
        ({}, None, 403),
        ({}, "203.0.113.9", 403),
        ({"behind_proxy": True, "trusted_proxies": "10.0.0.1"}, "203.0.113.9", 403),
        ({"behind_proxy": True}, "203.0.113.9", 201),
        ({"behind_proxy": True}, None, 403),
        ({"behind_proxy": True}, "203.0.113.9, 198.51.100.1", 403),
        ({"behind_proxy": True}, "198.51.100.1, 203.0.113.9", 201),
        ({"behind_proxy": True}, "198.51.100.1, 203.0.113.9, 127.0.0.1", 201),
        ({"behind_proxy": True}, "::ffff:203.0.113.9", 201),
        ({"behind_proxy": True}, "203.0.113.9, nonsense", 403),
        (
            {"behind_proxy": True, "trusted_proxies": "127.0.0.0/8, 10.0.0.0/8"},
            "203.0.113.9, 10.1.2.3",
            201,
        ),
    ],
)
async def test_a_token_for_a_network_believes_only_trusted_proxies(
    context: ApiContext, settings: dict[str, Any], forwarded: str | None, status: int
) -> None:
    changed = context.settings.model_copy(update=settings)
    async with Api(dataclasses.replace(context, settings=changed)) as api:
        join = await join_string(api, await api.new_fleet(), cidr="203.0.113.0/24")
        headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        answer = await _join(api, codec.encode(Device().request(join)), **headers)
        assert answer.status_code == status, answer.text
