"""`/trust`: what agents believe, and a bundle that only a second person publishes."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.approvals.actions import executors_of
from api.context import ApiContext
from tensorguard.pki.errors import BundleNotNext
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Role
from tensorguard.services.people.approval import ApprovalKind, Deciders
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust import draft_next
from tests.integration.api.clients import Api
from tests.integration.api.devices import enroll

TRUST = "/api/v1/trust"


async def signed_bundle(context: ApiContext, *, signatures: int = 1) -> dict[str, Any]:
    async with context.sessions() as session:
        draft = await draft_next(session, now=datetime.now(UTC))
    for signer in load_root_directory(context.settings.data_dir)[:signatures]:
        draft = draft.sign(signer)
    envelope: dict[str, Any] = json.loads(draft.envelope)
    return envelope


async def test_trust_tells_the_bundle_the_cas_and_who_believes_what(api: Api) -> None:
    before = (await api.admin.get(TRUST)).json()
    await enroll(api, await api.new_fleet())
    viewer = await api.as_role(Role.VIEWER)
    found = (await viewer.get(TRUST)).json()
    assert found["version"] >= 1
    assert (found["root_threshold"], len(found["roots"])) == (1, 2)
    [ca] = found["cas"]
    assert ca["state"] == "issuing"
    assert ca["spki_sha256"] == api.context.keyring.ca.spki_sha256
    assert ca["agents"] == before["cas"][0]["agents"] + 1
    agents = {one["version"]: one["agents"] for one in found["agents_by_version"]}
    earlier = {one["version"]: one["agents"] for one in before["agents_by_version"]}
    assert agents[None] == earlier.get(None, 0) + 1, "it has not said yet what it believes"
    assert (await api.nobody.get(TRUST)).status_code == 401


async def test_a_signed_bundle_waits_for_a_second_person(api: Api, context: ApiContext) -> None:
    envelope = await signed_bundle(context)
    before = (await api.admin.get(TRUST)).json()["version"]
    asked = await api.admin.post(f"{TRUST}/bundles", json={"envelope": envelope})
    assert asked.status_code == 202, asked.text
    approval = asked.json()
    assert (approval["kind"], approval["state"]) == ("trust-bundle.publish", "pending")
    assert approval["request"]["version"] == before + 1
    assert any("keeps the threshold" in line for line in approval["request"]["changes"])
    assert approval["request"]["envelope"] == envelope
    assert not approval["may_decide"]
    assert (await api.admin.get(TRUST)).json()["version"] == before
    mlops = await api.as_role(Role.MLOPS)
    denied = await mlops.post(f"{TRUST}/bundles", json={"envelope": envelope})
    assert denied.status_code == 403


async def test_a_bundle_that_nobody_could_publish_is_not_even_asked_for(
    api: Api, context: ApiContext
) -> None:
    unsigned = await signed_bundle(context, signatures=0)
    refused = await api.admin.post(f"{TRUST}/bundles", json={"envelope": unsigned})
    assert refused.status_code == 422
    assert refused.json()["code"] == "bundle-below-threshold"
    spoilt = await signed_bundle(context) | {"payload": "e30="}
    refused = await api.admin.post(f"{TRUST}/bundles", json={"envelope": spoilt})
    assert refused.status_code == 422
    assert refused.json()["code"] == "bad-envelope"


async def test_what_a_second_person_approves_is_published_once(
    api: Api, context: ApiContext
) -> None:
    request = {"envelope": await signed_bundle(context)}
    before = (await api.admin.get(TRUST)).json()["version"]
    publish = executors_of(context)[ApprovalKind.PUBLISH_TRUST]
    deciders = Deciders(Actor("user", "one"), Actor("user", "two"))
    now = datetime.now(UTC)
    async with context.sessions.begin() as session:
        assert await publish(session, request, deciders, now) == {"version": before + 1}
    assert (await api.admin.get(TRUST)).json()["version"] == before + 1
    served = await api.device.get(f"/device/v1/trust/{before + 1}")
    assert served.json() == request["envelope"]
    async with context.sessions() as session:
        with pytest.raises(BundleNotNext):
            await publish(session, request, deciders, now)
