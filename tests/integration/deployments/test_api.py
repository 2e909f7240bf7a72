"""Packages, releases and deployments as people and programs see them."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api
from tests.integration.api.people import second_person
from tests.integration.deployments.builders import Platform, target

AT_ONCE = {"stages": [{"percent": 100}]}
TGSP = {"Content-Type": "application/vnd.tensorguard.tgsp"}


async def upload(client: httpx.AsyncClient, path: Path, **options: Any) -> httpx.Response:
    content = await asyncio.to_thread(path.read_bytes)
    return await client.post("/api/v1/packages", content=content, **({"headers": TGSP} | options))


async def released(api: Api, path: Path) -> dict[str, Any]:
    package = (await upload(api.admin, path)).json()
    made = await api.admin.post("/api/v1/releases", json={"package_digest": package["digest"]})
    assert made.status_code == 201, made.text
    release: dict[str, Any] = made.json()
    return release


async def test_a_package_is_uploaded_once_and_shows_its_facts(platform: Platform, api: Api) -> None:
    mlops = await api.as_role(Role.MLOPS)
    path = platform.build_package(provenance={"dataset": b"\x01\x02", "epsilon": "1.5"})
    first, second = await upload(mlops, path), await upload(mlops, path)
    assert (first.status_code, second.status_code) == (201, 200)
    package = first.json()
    assert first.headers["location"] == f"/api/v1/packages/{package['digest']}"
    assert second.json() == package
    shown = (await api.admin.get(f"/api/v1/packages/{package['digest']}")).json()
    assert shown == package
    assert shown["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert shown["size_bytes"] == path.stat().st_size
    assert shown["provenance"] == {"dataset": "0102", "epsilon": "1.5"}
    assert [one["path"] for one in shown["files"]] == ["model.onnx"]
    assert shown["verification"]["publisher_kid"] == shown["publisher_kid"]
    assert shown["uploaded_by"] != "platform"
    page = (await api.admin.get("/api/v1/packages")).json()
    assert [one["digest"] for one in page["items"]] == [package["digest"]]


async def test_an_idempotency_key_on_an_upload_holds_nothing_in_memory(
    platform: Platform, api: Api
) -> None:
    headers = TGSP | {"Idempotency-Key": "same"}
    first = await upload(api.admin, platform.build_package(), headers=headers)
    second = await upload(api.admin, platform.build_package(), headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["digest"] != second.json()["digest"]


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("unknown publisher", 422, "unknown-publisher"),
        ("damaged", 422, "ciphertext-mismatch"),
        ("not a package", 422, "not-a-package"),
        ("empty", 422, "not-a-package"),
        ("bad selector", 422, "bad-selector"),
        ("taken", 409, "package-seq-taken"),
        ("too large", 413, "package-too-large"),
        ("too large and not announced", 413, "package-too-large"),
    ],
)
async def test_a_refused_package_says_why_stays_nowhere_and_is_written_down(
    platform: Platform, api: Api, how: str, status: int, code: str
) -> None:
    settings: dict[str, Any] = {}
    match how:
        case "unknown publisher":
            settings["publisher"] = Ed25519PrivateKey.generate()
        case "bad selector":
            settings["target"] = target(selector="a b")
        case "taken":
            await platform.upload(platform.build_package(seq=9))
            settings |= {"seq": 9, "version": "7.7.7"}
        case "too large" | "too large and not announced":
            settings["content"] = bytes(250_000)
    content = platform.build_package(**settings).read_bytes()
    if how == "damaged":
        content = content[:-1] + bytes([content[-1] ^ 1])
    if how in ("not a package", "empty"):
        content = b"hello" if how == "not a package" else b""
    before = set((platform.folder / "packages").rglob("*.tgsp"))

    async def chunks() -> Any:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    body = chunks() if how.endswith("announced") else content
    answer = await api.admin.post("/api/v1/packages", content=body, headers=TGSP)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert problem["hint"]
    assert set((platform.folder / "packages").rglob("*.tgsp")) == before
    assert list((platform.folder / "packages" / "incoming").iterdir()) == []
    if how != "too large":  # its head said so: nothing of it was read
        (event,) = await api.events("package.refused")
        assert event["reason"] == code


async def test_only_package_files_are_read_and_only_from_who_may(
    platform: Platform, api: Api
) -> None:
    path = platform.build_package()
    json = {"Content-Type": "application/json"}
    assert (await upload(api.admin, path, headers=json)).status_code == 415
    assert (await upload(api.nobody, path)).status_code == 401
    for role in (Role.VIEWER, Role.COMPLIANCE):
        assert (await upload(await api.as_role(role), path)).status_code == 403
    assert list((platform.folder / "packages").rglob("*.tgsp")) == []


async def test_packages_are_built_for_the_key_that_the_platform_gives(
    platform: Platform, api: Api
) -> None:
    answer = await api.admin.get("/api/v1/packages/recipient-key")
    recipient = load_pem_public_key(answer.content)
    path = platform.build_package(recipient=recipient)
    assert (await upload(api.admin, path)).status_code == 201


async def test_publishers_are_listed_and_revoked(platform: Platform, api: Api) -> None:
    (publisher,) = (await api.admin.get("/api/v1/publishers")).json()["items"]
    assert publisher["names"] == ["*"]
    url = f"/api/v1/publishers/{publisher['kid']}"
    mlops = await api.as_role(Role.MLOPS)
    assert (await mlops.post(f"{url}/revoke", json={"reason": "x"})).status_code == 403
    asked = await api.admin.post(f"{url}/revoke", json={"reason": "stolen"})
    assert asked.status_code == 202
    deciding = await second_person(api)
    approved = await deciding.post(f"/api/v1/approvals/{asked.json()['id']}/approve")
    assert approved.json()["state"] == "approved"
    assert (await api.admin.get(url)).json()["revoked_at"]
    answer = await upload(api.admin, platform.build_package())
    assert answer.json()["code"] == "unknown-publisher"
    assert (await api.admin.get(f"/api/v1/publishers/{'0' * 64}")).status_code == 404


async def test_releases_are_made_once_and_listed_newest_first(platform: Platform, api: Api) -> None:
    first = await released(api, platform.build_package())
    second = await released(api, platform.build_package())
    again = await api.admin.post(
        "/api/v1/releases", json={"package_digest": first["package_digest"]}
    )
    assert (again.status_code, again.json()["code"]) == (409, "release-exists")
    page = (await api.admin.get("/api/v1/releases", params={"limit": 1})).json()
    assert page["items"] == [second]
    rest = await api.admin.get(
        "/api/v1/releases", params={"limit": 1, "cursor": page["next_cursor"]}
    )
    assert rest.json() == {"items": [first], "next_cursor": None}
    missing = await api.admin.post("/api/v1/releases", json={"package_digest": "0" * 64})
    assert (missing.status_code, missing.json()["code"]) == (404, "package-not-found")


async def test_a_deployment_is_planned_previewed_started_and_watched(
    platform: Platform, api: Api
) -> None:
    fleet = await api.new_fleet()
    agents = [await platform.add_agent(fleet, tags={"gpu": "true"}) for _ in range(3)]
    await platform.add_agent(fleet)
    release = await released(api, platform.build_package())
    plan = {
        "release_id": release["id"],
        "fleets": [fleet],
        "selector": "gpu=true",
        "strategy": AT_ONCE,
    }
    preview = (await api.admin.post("/api/v1/deployments/preview", json=plan)).json()
    assert preview["stages"] == [3]
    assert [(group["state"], group["agents"]) for group in preview["groups"]] == [("pending", 3)]

    made = await api.admin.post("/api/v1/deployments", json=plan | {"start": False})
    assert made.status_code == 201, made.text
    draft = made.json()
    url = f"/api/v1/deployments/{draft['id']}"
    assert (draft["state"], draft["counts"]) == ("draft", {})
    assert (await api.admin.get(f"{url}/preview")).json()["stages"] == [3]
    started = (await api.admin.post(f"{url}/start")).json()
    assert (started["state"], started["counts"]) == ("running", {"pending": 3})
    assert started["release"]["package_digest"] == release["package_digest"]
    assert [(stage["percent"], stage["agents"]) for stage in started["stages"]] == [(100, 3)]

    listed = (await api.admin.get("/api/v1/deployments", params={"fleet": fleet})).json()["items"]
    assert [(one["id"], one["counts"]) for one in listed] == [(draft["id"], {"pending": 3})]
    page = (await api.admin.get(f"{url}/agents", params={"limit": 2})).json()
    rest = await api.admin.get(f"{url}/agents", params={"cursor": page["next_cursor"]})
    found = [one["agent_id"] for one in page["items"] + rest.json()["items"]]
    assert found == sorted(str(agent) for agent in agents)
    none = await api.admin.get(f"{url}/agents", params={"state": "failed"})
    assert none.json()["items"] == []

    paused = (await api.admin.post(f"{url}/pause", json={"reason": "lunch"})).json()
    assert (paused["state"], paused["state_reason"]) == ("paused", "lunch")
    assert (await api.admin.post(f"{url}/resume", json={})).json()["state"] == "running"
    aborted = await api.admin.post(f"{url}/abort", json={"reason": "bad"})
    assert aborted.json()["state"] == "aborted"
    again = await api.admin.post(f"{url}/resume", json={})
    assert (again.status_code, again.json()["code"]) == (409, "illegal-move")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"selector": "gpu=="}, 409, "no-eligible-agents"),
        ({"selector": "gpu in us"}, 422, "bad-selector"),
        ({"fleets": ["nowhere"]}, 404, "fleet-not-found"),
        ({"fleets": []}, 422, "validation-failed"),
        ({"release_id": "0199a000-0000-7000-8000-000000000000"}, 404, "release-not-found"),
        ({"strategy": {"stages": [{"percent": 10}]}}, 422, "bad-strategy"),
        ({"percent": 10}, 422, "validation-failed"),
    ],
)
async def test_a_plan_that_cannot_be_is_refused_and_leaves_nothing(
    platform: Platform, api: Api, change: dict[str, Any], status: int, code: str
) -> None:
    fleet = await api.new_fleet()
    await platform.add_agent(fleet)
    release = await released(api, platform.build_package())
    plan = {"release_id": release["id"], "fleets": [fleet]} | change
    answer = await api.admin.post("/api/v1/deployments", json=plan)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert (await api.admin.get("/api/v1/deployments")).json()["items"] == []


async def test_who_may_only_look_starts_and_stops_nothing(platform: Platform, api: Api) -> None:
    fleet = await api.new_fleet()
    await platform.add_agent(fleet)
    release = await released(api, platform.build_package())
    viewer = await api.as_role(Role.VIEWER)
    plan = {"release_id": release["id"], "fleets": [fleet]}
    assert (await viewer.post("/api/v1/deployments", json=plan)).status_code == 403
    made = (await api.admin.post("/api/v1/deployments", json=plan)).json()
    url = f"/api/v1/deployments/{made['id']}"
    for move in ("start", "pause", "resume", "abort"):
        assert (await viewer.post(f"{url}/{move}", json={"reason": "x"})).status_code == 403
    assert (await viewer.get(url)).json()["state"] == "running"


async def test_failures_are_counted_by_their_reason_over_all_agents(
    platform: Platform, api: Api
) -> None:
    fleet = await platform.add_fleet("hospital-a")
    agents = [await platform.add_agent(fleet) for _ in range(6)]
    started = await platform.start(await platform.release(), fleet)
    await platform.controller().step()
    for place, agent_id in enumerate(agents[:5]):
        reason = "no-space" if place < 3 else "digest-mismatch"
        await platform.report(started, agent_id, "downloading", "failed", reason=reason)
    viewer = await api.as_role(Role.VIEWER)
    answer = await viewer.get(f"/api/v1/deployments/{started.id}/failures")
    assert answer.json() == {
        "groups": [
            {"state": "failed", "reason": "no-space", "agents": 3},
            {"state": "failed", "reason": "digest-mismatch", "agents": 2},
        ],
        "others": 0,
    }
    nowhere = await viewer.get(f"/api/v1/deployments/{agents[0]}/failures")
    assert nowhere.status_code == 404
