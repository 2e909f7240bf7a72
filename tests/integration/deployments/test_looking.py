"""What people look at before they move a deployment: names in previews, reasons, the way back."""

from tests.integration.api.clients import Api
from tests.integration.deployments.builders import Platform


async def test_a_preview_says_what_the_agents_of_its_samples_are_called(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("f")
    ids = {str(await platform.add_agent(fleet)) for _ in range(3)}
    plan = {"release_id": str((await platform.release()).id), "fleets": [fleet]}
    preview = (await api.admin.post("/api/v1/deployments/preview", json=plan)).json()
    listed = (await api.admin.get("/api/v1/agents", params={"fleet": fleet})).json()["items"]
    assert preview["names"] == {one["id"]: one["name"] for one in listed}
    assert preview["names"].keys() == ids


async def test_agents_are_narrowed_by_state_stage_and_reason_and_deployments_by_release(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(4)]
    first = await platform.release(seq=1)
    started = await platform.start(first, fleet)
    await platform.controller().step()
    for agent, reason in zip(agents, ["disk is full", "disk is full", "no memory"], strict=False):
        await platform.report(started, agent, "downloading", "failed", reason=reason)
    await platform.report(started, agents[3], "downloading", "failed")
    url = f"/api/v1/deployments/{started.id}/agents"

    async def found(**query: str | int) -> set[str]:
        page = (await api.admin.get(url, params=query)).json()
        return {one["agent_id"] for one in page["items"]}

    full = {str(agents[0]), str(agents[1])}
    assert await found(reason="disk is full") == full
    assert await found(state="failed", reason="") == {str(agents[3])}
    assert await found(state="failed", stage=0, limit=10) == {str(agent) for agent in agents}
    assert await found(rollback="waiting") == set()
    assert await found(stage=1) == set()
    other = await platform.start(await platform.release(seq=2), fleet)
    listed = await api.admin.get("/api/v1/deployments", params={"release": str(first.id)})
    assert [one["id"] for one in listed.json()["items"]] == [str(started.id)] != [str(other.id)]


async def test_a_rollback_says_beforehand_who_goes_back_to_what(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("f")
    agents = [await platform.add_agent(fleet) for _ in range(3)]
    old, new = await platform.release(seq=1), await platform.release(seq=2)
    first = await platform.start(old, fleet)
    await platform.controller().step()
    for agent in agents[:2]:
        await platform.report(first, agent, "downloading", "succeeded")
        await platform.heartbeat(agent, runs=old.package_digest)
    second = await platform.start(new, fleet)
    url = f"/api/v1/deployments/{second.id}/previous"
    assert (await api.admin.get(url)).json() == {"items": []}  # nobody was told yet
    await platform.controller().step()
    digest = old.package_digest.hex()
    assert (await api.admin.get(url)).json()["items"] == [
        {"package_digest": digest, "name": old.name, "version": old.version, "agents": 2},
        {"package_digest": None, "name": None, "version": None, "agents": 1},
    ]
