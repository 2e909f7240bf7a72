"""The kill switch over HTTP: many agents, and a whole fleet, only with a second person."""

import asyncio
from uuid import uuid4

import httpx
import pytest

from tensorguard.protocol import codec
from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api
from tests.integration.api.devices import ENROLL, JSON, enroll, join_string
from tests.integration.api.people import new_person, second_person
from tests.integration.api.test_agents import running_front
from tests.integration.enrollment.builders import Device
from tests.patience import PATIENCE_S

AGENTS = "/api/v1/agents"
APPROVALS = "/api/v1/approvals"
FLEETS = "/api/v1/fleets"
REASON = {"reason": "breach"}


async def status_of(api: Api, agent_id: str) -> str:
    return str((await api.admin.get(f"{AGENTS}/{agent_id}")).json()["status"])


async def test_the_eleventh_revocation_of_a_fleet_takes_a_second_person(api: Api) -> None:
    fleet = await api.new_fleet()
    agents = [await enroll(api, fleet) for _ in range(12)]
    requester, decider = await new_person(api, Role.COMPLIANCE), await second_person(api)
    for agent_id in agents[:10]:
        answer = await requester.post(f"{AGENTS}/{agent_id}/revoke", **REASON)
        assert (answer.status_code, answer.json()["agent_id"]) == (200, agent_id)
    answer = await requester.post(f"{AGENTS}/{agents[10]}/revoke", **REASON)
    asked = answer.json()
    assert (answer.status_code, asked["kind"], asked["state"]) == (202, "agent.revoke", "pending")
    assert asked["request"] == {"agent_id": agents[10], "reason": "breach"}
    assert (asked["fleet"], asked["yours"], asked["may_decide"]) == (fleet, True, False)
    assert await status_of(api, agents[10]) == "active"
    again = await requester.post(f"{AGENTS}/{agents[10]}/revoke", **REASON)
    assert again.json()["id"] == asked["id"]
    # What is revoked already is answered with its receipt.
    before = await requester.post(f"{AGENTS}/{agents[0]}/revoke", **REASON)
    assert (before.status_code, before.json()["agent_id"]) == (200, agents[0])
    done = await decider.post(f"{APPROVALS}/{asked['id']}/approve")
    assert (done.status_code, done.json()["state"]) == (200, "approved")
    assert done.json()["result"]["agent_id"] == agents[10]
    assert await status_of(api, agents[10]) == "revoked"
    (event,) = await api.events("agent.revoked", subject=agents[10], actor=requester.id)
    assert event["approved_by"] == decider.id
    assert (await decider.post(f"{AGENTS}/{agents[11]}/revoke", **REASON)).status_code == 200


async def test_an_api_key_is_counted_as_well_and_may_ask(api: Api) -> None:
    fleet = await api.new_fleet()
    agents = [await enroll(api, fleet) for _ in range(11)]
    key = await api.as_role(Role.COMPLIANCE)
    answers = await asyncio.gather(
        *(key.post(f"{AGENTS}/{agent_id}/revoke", json=REASON) for agent_id in agents)
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [202]


async def test_a_fleet_is_revoked_by_two_persons_and_its_receipt_says_how_fast(api: Api) -> None:
    fleet, other = await api.new_fleet(), await api.new_fleet()
    agents = [await enroll(api, fleet) for _ in range(5)]
    bystander = await enroll(api, other)
    join = await join_string(api, fleet, max_uses=9)
    requester, decider = await second_person(api, Role.COMPLIANCE), await second_person(api)
    answer = await requester.post(f"{FLEETS}/{fleet}/revoke", **REASON)
    assert (answer.status_code, answer.json()["kind"]) == (202, "fleet.revoke")
    assert [await status_of(api, one) for one in agents] == ["active"] * 5
    async with running_front(api) as front:
        done = await decider.post(f"{APPROVALS}/{answer.json()['id']}/approve")
        assert (done.json()["state"], done.json()["result"]["agents"]) == ("approved", 5)
        url = f"{FLEETS}/{fleet}/revocations"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                (receipt,) = (await api.admin.get(url)).json()["items"]
                if front not in receipt["waiting_for"]:
                    break
                await asyncio.sleep(0.02)
    assert (receipt["agents"], receipt["disconnected"]) == (5, 5)
    assert (receipt["revoked_by"], receipt["approved_by"]) == (requester.id, decider.id)
    assert receipt["took_ms"] >= 0
    assert (await api.admin.get(f"{url}/{receipt['id']}")).json()["agents"] == 5
    assert [await status_of(api, one) for one in agents] == ["revoked"] * 5
    assert await status_of(api, bystander) == "active"
    request = Device().request(join)
    late = await api.device.post(ENROLL, content=codec.encode(request), headers=JSON)
    assert (late.status_code, late.json()["code"]) == (403, "enrollment-token-revoked")


async def test_without_a_code_of_the_second_factor_nobody_asks_for_a_fleet(api: Api) -> None:
    fleet = await api.new_fleet()
    url = f"{FLEETS}/{fleet}/revoke"
    key = await api.admin.post(url, json=REASON)
    assert (key.status_code, key.json()["code"]) == (403, "person-required")
    person = await new_person(api)
    bare = await person.post(url, **REASON)
    assert (bare.status_code, bare.json()["code"]) == (403, "second-factor-missing")
    unknown = await (await second_person(api)).post(f"{FLEETS}/no-such-fleet/revoke", **REASON)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "fleet-not-found")


async def test_the_fleet_kill_is_nobodys_alone(api: Api) -> None:
    fleet, requester = await api.new_fleet(), await second_person(api)
    agent_id = await enroll(api, fleet)
    asked = (await requester.post(f"{FLEETS}/{fleet}/revoke", **REASON)).json()
    own = await requester.post(f"{APPROVALS}/{asked['id']}/approve")
    assert (own.status_code, own.json()["code"]) == (403, "not-a-second-person")
    key = await api.admin.post(f"{APPROVALS}/{asked['id']}/approve")
    assert key.status_code == 403
    assert await status_of(api, agent_id) == "active"
    assert (await api.admin.get(f"{FLEETS}/{fleet}/revocations")).json()["items"] == []


async def test_a_revocation_of_another_fleet_is_not_found(api: Api) -> None:
    fleet = await api.new_fleet()
    for url in (f"{FLEETS}/{fleet}/revocations/{uuid4()}", f"{FLEETS}/no-such-fleet/revocations"):
        assert (await api.admin.get(url)).status_code == 404


async def test_who_joins_while_the_fleet_is_revoked_is_revoked_or_refused(api: Api) -> None:
    fleet = await api.new_fleet()
    join = await join_string(api, fleet, max_uses=100)
    requester, decider = await second_person(api), await second_person(api)
    asked = (await requester.post(f"{FLEETS}/{fleet}/revoke", **REASON)).json()

    async def joins(delay_s: float) -> httpx.Response:
        await asyncio.sleep(delay_s)
        body = codec.encode(Device().request(join))
        return await api.device.post(ENROLL, content=body, headers=JSON)

    answers, done = await asyncio.gather(
        asyncio.gather(*(joins(number * 0.01) for number in range(30))),
        decider.post(f"{APPROVALS}/{asked['id']}/approve"),
    )
    assert done.json()["state"] == "approved"
    assert {answer.status_code for answer in answers} <= {201, 403}
    listed = (await api.admin.get(AGENTS, params={"fleet": fleet, "limit": 500})).json()["items"]
    assert {agent["status"] for agent in listed} <= {"revoked"}
    assert len(listed) == sum(answer.status_code == 201 for answer in answers)


@pytest.mark.parametrize("same", ["certificate key", "encryption key"])
async def test_a_revoked_agents_keys_enrol_nobody(api: Api, same: str) -> None:
    fleet, device = await api.new_fleet(), Device()

    async def joins(device: Device) -> httpx.Response:
        body = codec.encode(device.request(await join_string(api, fleet)))
        return await api.device.post(ENROLL, content=body, headers=JSON)

    agent_id = (await joins(device)).json()["agent_id"]
    await api.admin.post(f"{AGENTS}/{agent_id}/revoke", json=REASON)
    kept = (
        {"key": device.key}
        if same == "certificate key"
        else {"encryption_key": device.encryption_key}
    )
    again = await joins(Device(**kept))
    assert (again.status_code, again.json()["code"]) == (409, "key-already-enrolled")
    assert (await joins(Device())).status_code == 201, "another device of the fleet may join"
