"""Moves of a deployment over the API: previews that hold, reasons, exports, a second person."""

import csv
import io

from tests.integration.api.clients import Api
from tests.integration.api.people import second_person
from tests.integration.deployments.builders import Platform

STAGED = {"stages": [{"percent": 20, "gate": {"soak_s": 0, "min_reported": 1}}, {"percent": 100}]}


async def test_what_is_previewed_is_what_starts(platform: Platform, api: Api) -> None:
    fleet = await platform.add_fleet("f")
    for _ in range(10):
        await platform.add_agent(fleet)
    release = await platform.release()
    plan = {"release_id": str(release.id), "fleets": [fleet], "strategy": STAGED}
    preview = (await api.admin.post("/api/v1/deployments/preview", json=plan)).json()
    assert preview["stages"] == [2, 8]
    body = plan | {"draw": preview["draw"]}
    made = (await api.admin.post("/api/v1/deployments", json=body)).json()
    page = (await api.admin.get(f"/api/v1/deployments/{made['id']}/agents")).json()
    canary = sorted(one["agent_id"] for one in page["items"] if one["stage"] == 0)
    assert canary == sorted(preview["planned"][0]["sample"])
    unwanted = await api.admin.post("/api/v1/deployments", json=plan | {"start": False})
    url = f"/api/v1/deployments/{unwanted.json()['id']}"
    discarded = (await api.admin.post(f"{url}/abort", json={"reason": "a typing error"})).json()
    assert (discarded["state"], discarded["stages"]) == ("aborted", [])
    forged = await api.admin.post("/api/v1/deployments", json=plan | {"draw": "00" * 48})
    assert forged.status_code == 422


async def test_a_gate_is_shown_in_numbers_and_moves_say_why_not(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("f")
    for _ in range(5):
        await platform.add_agent(fleet)
    release = await platform.release()
    plan = {"release_id": str(release.id), "fleets": [fleet], "strategy": STAGED}
    made = (await api.admin.post("/api/v1/deployments", json=plan)).json()
    url = f"/api/v1/deployments/{made['id']}"
    assert made["gate"]["verdict"] == "waiting"
    assert made["gate"]["max_failure"] == 0.05
    assert made["waits_for"] == "1 agents have not been told yet"
    actions = {one["name"]: one["why_not"] for one in made["actions"]}
    assert actions["pause"] is None
    assert actions["resume"] == "a deployment that is running is not paused"
    advanced = await api.admin.post(f"{url}/advance", json={"reason": "in a hurry"})
    assert advanced.json()["stage"] == 1
    back = (await api.admin.post(f"{url}/rollback", json={"reason": "too slow"})).json()
    assert (back["state"], back["state_reason"]) == ("rolling_back", "too slow")
    nothing = await api.admin.post(f"{url}/rollback", json={})
    assert nothing.status_code == 422  # no reason


async def test_an_export_has_every_agent_with_its_reason_and_no_formula(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(3)]
    started = await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    await platform.report(started, agents[0], "downloading", "failed", reason="=cmd()")
    answer = await api.admin.get(f"/api/v1/deployments/{started.id}/export")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 3
    (failed,) = [row for row in rows if row["state"] == "failed"]
    assert failed["reason"] == "'=cmd()"


async def test_a_fleet_may_demand_a_second_person(platform: Platform, api: Api) -> None:
    fleet = await platform.add_fleet("f")
    await platform.add_agent(fleet)
    required = await api.admin.post(f"/api/v1/fleets/{fleet}/require-approval")
    assert required.json()["deployments_need_approval"] is True
    release = await platform.release()
    plan = {"release_id": str(release.id), "fleets": [fleet]}
    made = (await api.admin.post("/api/v1/deployments", json=plan)).json()
    assert made["state"] == "awaiting_approval"
    deciding = await second_person(api)
    approved = await deciding.post(f"/api/v1/approvals/{made['approval_id']}/approve")
    assert approved.json()["state"] == "approved", approved.text
    shown = (await api.admin.get(f"/api/v1/deployments/{made['id']}")).json()
    assert shown["state"] == "running"
    waived = await api.admin.post(f"/api/v1/fleets/{fleet}/waive-approval")
    assert waived.status_code == 202


async def test_commands_are_queued_and_listed(platform: Platform, api: Api) -> None:
    agent = await platform.add_agent(await platform.add_fleet("f"))
    url = f"/api/v1/agents/{agent}/commands"
    made = await api.admin.post(url, json={"kind": "diagnostics"})
    assert (made.status_code, made.json()["state"]) == (201, "queued")
    assert (await api.admin.post(url, json={"kind": "format-disk"})).status_code == 422
    (listed,) = (await api.admin.get(url)).json()["items"]
    assert listed == made.json()
    platform.clock.advance(hours=2)
    (late,) = (await api.admin.get(url)).json()["items"]
    assert late["state"] == "expired"
    assert await platform.events("command") == ["command.issued"]
