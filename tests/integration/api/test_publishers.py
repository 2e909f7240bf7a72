"""Publishers over HTTP: rotation and change by two persons, and the bundle that agents learn by."""

import json
from datetime import datetime, timedelta
from typing import Any

import httpx
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.context import utc_now
from tensorguard.pki.draft import Draft
from tensorguard.services.people.access import Role
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tests.integration.api.clients import Api
from tests.integration.api.people import Person, second_person

PUBLISHERS = "/api/v1/publishers"
TRUST = "/api/v1/trust"


def in_days(days: float) -> str:
    return (utc_now() + timedelta(days=days)).isoformat()


def new_publisher(**changes: Any) -> dict[str, Any]:
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return {
        "name": "acme",
        "public_pem": pem,
        "names": ["acme-*"],
        "not_after": in_days(30),
    } | changes


async def both(asking: Person, deciding: Person, url: str, **body: Any) -> dict[str, Any]:
    """Have one person ask and another approve; what came of it."""
    asked = await asking.post(url, **body)
    assert asked.status_code == 202, asked.text
    decided = await deciding.post(f"/api/v1/approvals/{asked.json()['id']}/approve")
    answer: dict[str, Any] = decided.json()
    assert answer["state"] == "approved", answer
    return answer


async def publish(api: Api, asking: Person, deciding: Person) -> int:
    """Draft, sign where the root keys are, publish; return the bundle's version."""
    drafted = await asking.client.get(f"{TRUST}/draft")
    assert "trust-bundle-" in drafted.headers["content-disposition"]
    root, *_ = load_root_directory(api.context.settings.data_dir)
    signed = Draft.parse(drafted.content).sign(root)
    done = await both(asking, deciding, f"{TRUST}/bundles", envelope=json.loads(signed.envelope))
    return int(done["result"]["version"])


async def find(api: Api, kid: str) -> dict[str, Any]:
    answer = await api.admin.get(f"{PUBLISHERS}/{kid}")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


async def add_agents(api: Api, fleet: str, *versions: int | None) -> list[str]:
    """Active agents that have said which trust bundle they have, or nothing."""
    ids = [new_id() for _ in versions]
    now = utc_now()
    async with api.context.sessions.begin() as session:
        for agent_id, version in zip(ids, versions, strict=True):
            await session.execute(
                sa.insert(tables.agents).values(
                    id=agent_id,
                    fleet=fleet,
                    name=f"agent-{agent_id}",
                    tags={},
                    facts={},
                    status="active",
                    enrolled_by="token",
                    enrolled_spki_sha256=agent_id.bytes,
                    encryption_key=agent_id.bytes * 2,
                    created_at=now,
                )
            )
            await session.execute(
                sa.insert(tables.agent_state).values(agent_id=agent_id, trust_version=version)
            )
    return [str(agent_id) for agent_id in ids]


async def test_a_publisher_is_rotated_and_agents_learn_of_both_by_a_signed_bundle(
    api: Api,
) -> None:
    asking, deciding = await second_person(api), await second_person(api)
    done = await both(asking, deciding, PUBLISHERS, **new_publisher())
    old = await find(api, done["result"]["kid"])
    assert (old["state"], old["awaits_bundle"], old["told_in"]) == ("valid", True, None)
    awaited = (await api.admin.get(TRUST)).json()["awaited"]
    assert any(f"ADDS publisher {old['kid']}" in line for line in awaited)
    first = await publish(api, asking, deciding)
    assert (await api.admin.get(TRUST)).json()["awaited"] == []

    succession = {"kid": old["kid"], "predecessor_ends": in_days(10)}
    refused = await asking.post(
        PUBLISHERS, **new_publisher(not_before=in_days(11), succeeds=succession)
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "publisher-invalid")
    body = new_publisher(
        name="acme 2", not_before=in_days(1), not_after=in_days(900), succeeds=succession
    )
    done = await both(asking, deciding, PUBLISHERS, **body)
    assert done["request"]["succeeds"]["kid"] == old["kid"]
    new, old = await find(api, done["result"]["kid"]), await find(api, old["kid"])
    assert (new["state"], new["succeeds"], new["names"]) == ("upcoming", old["kid"], ["acme-*"])
    assert (old["state"], old["succeeded_by"], old["told_in"]) == ("valid", new["kid"], None)
    ends = datetime.fromisoformat(old["not_after"]) - utc_now()
    assert timedelta(days=9) < ends < timedelta(days=11)

    second = await publish(api, asking, deciding)
    assert second == first + 1
    for one in (old, new):
        assert (await find(api, one["kid"]))["told_in"] == second


async def test_a_change_is_asked_for_as_it_is_meant_and_done_by_a_second_person(api: Api) -> None:
    asking, deciding = await second_person(api), await second_person(api)
    kid = (await both(asking, deciding, PUBLISHERS, **new_publisher()))["result"]["kid"]
    url = f"{PUBLISHERS}/{kid}/change"
    done = await both(asking, deciding, url, names=["acme-eyes"], reason="they make eyes only")
    assert done["kind"] == "publisher.change"
    assert done["request"] == {
        "kid": kid,
        "names": ["acme-eyes"],
        "reason": "they make eyes only",
    }
    assert (await find(api, kid))["names"] == ["acme-eyes"]
    [told] = await api.events("publisher.changed", subject=kid)
    assert (told["packages_before"], told["packages"]) == (["acme-*"], ["acme-eyes"])

    for wrong in (
        {"reason": "nothing"},
        {"names": [], "reason": "x"},
        {"names": ["UPPER"], "reason": "x"},
        {"not_after": "2020-01-01T00:00:00Z", "reason": "x"},
        {"names": ["ok"]},
    ):
        assert (await asking.post(url, **wrong)).status_code == 422, wrong
    missing = await asking.post(f"{PUBLISHERS}/{'0' * 64}/change", names=["a"], reason="x")
    assert (missing.status_code, missing.json()["code"]) == (404, "publisher-not-found")
    for role in (Role.MLOPS, Role.VIEWER):
        client = await api.as_role(role)
        answer = await client.post(url, json={"names": ["a"], "reason": "x"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    await both(asking, deciding, f"{PUBLISHERS}/{kid}/revoke", reason="stolen")
    late = await asking.post(url, names=["a"], reason="x")
    assert (late.status_code, late.json()["code"]) == (409, "publisher-revoked")
    assert (await find(api, kid))["revoked_reason"] == "stolen"


async def test_who_of_the_agents_has_heard_of_a_publisher(api: Api) -> None:
    asking, deciding = await second_person(api), await second_person(api)
    kid = (await both(asking, deciding, PUBLISHERS, **new_publisher()))["result"]["kid"]
    before = await find(api, kid)
    assert before["agents_told"] == 0
    version = await publish(api, asking, deciding)
    fleet = await api.new_fleet()
    knows, behind, silent = await add_agents(api, fleet, version, version - 1, None)

    found = await find(api, kid)
    assert (found["agents"] - before["agents"], found["agents_told"]) == (3, 1)
    agents = f"{PUBLISHERS}/{kid}/agents"
    listed = {one["id"]: one for one in await api.all_of(agents)}
    assert listed[knows]["told"]
    assert (listed[behind]["told"], listed[behind]["trust_version"]) == (False, version - 1)
    assert (listed[silent]["told"], listed[silent]["trust_version"]) == (False, None)
    page = (await api.admin.get(agents, params={"told": "true", "limit": 500})).json()
    assert [one["id"] for one in page["items"]] == [knows]
    page = (await api.admin.get(agents, params={"told": "false", "limit": 500})).json()
    assert {behind, silent} <= {one["id"] for one in page["items"]}
    assert knows not in {one["id"] for one in page["items"]}
    nobody: httpx.Response = await api.nobody.get(agents)
    assert nobody.status_code == 401


async def test_packages_are_listed_by_publisher(api: Api) -> None:
    answer = await api.admin.get("/api/v1/packages", params={"publisher": "ab" * 32})
    assert answer.json()["items"] == []
    wrong = await api.admin.get("/api/v1/packages", params={"publisher": "x"})
    assert wrong.status_code == 422
