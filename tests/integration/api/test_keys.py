"""`/keys`: who may see and change KEKs, and what takes a second person."""

import base64
import os
from typing import Any

from api.approvals.actions import executors_of
from api.context import ApiContext
from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Role
from tensorguard.services.people.approval import ApprovalKind, Deciders
from tensorguard.vault.opening import FLEET_KEKS_FOLDER
from tensorguard.vault.provider import ImportParameters
from tensorguard.vault.wrapping import wrap_material
from tests.integration.api.clients import Api

KEYS = "/api/v1/keys"


async def platform_key(api: Api) -> dict[str, Any]:
    items = (await api.admin.get(KEYS)).json()["items"]
    [found] = [one for one in items if one["fleet"] is None and one["state"] == "active"]
    assert isinstance(found, dict)
    return found


async def add_local(api: Api) -> dict[str, Any]:
    fleet = await api.new_fleet()
    made = await api.admin.post(KEYS, json={"fleet": fleet, "reference": "local"})
    assert made.status_code == 201, made.text
    found = made.json()
    assert found["fleet"] == fleet
    assert isinstance(found, dict)
    return found


async def test_everybody_reads_and_only_admins_change(api: Api) -> None:
    key = await platform_key(api)
    for role in (Role.VIEWER, Role.MLOPS, Role.COMPLIANCE):
        client = await api.as_role(role)
        assert (await client.get(f"{KEYS}/{key['id']}")).status_code == 200
        for path, body in (
            (f"{KEYS}/{key['id']}/rotate", None),
            (f"{KEYS}/{key['id']}/rewrap", {}),
            (f"{KEYS}/{key['id']}/import-parameters", None),
            (f"{KEYS}/{key['id']}/versions/1/disable", None),
            (f"{KEYS}/{key['id']}/versions/1/destroy", {"reason": "old"}),
            (f"{KEYS}/migrate", {"reference": "local"}),
            (KEYS, {"fleet": "f", "reference": "local"}),
        ):
            assert (await client.post(path, json=body)).status_code == 403, path
    assert (await api.nobody.get(KEYS)).status_code == 401


async def test_a_key_names_no_host_of_ones_choice(api: Api) -> None:
    fleet = await api.new_fleet()
    for reference in (
        "azure:https://169.254.169.254/keys/a",
        "azure:https://168.63.129.16/keys/a",
        "azure:https://localhost:8200/keys/a",
        "azure:https://vault.azure.net/keys/a",
        "azure:https://evilvault.azure.net/keys/a",
        "azure:https://a.vault.azure.net.evil.example/keys/a",
        "azure:https://a.vault.azure.net@169.254.169.254/keys/a",
        "azure:http://a.vault.azure.net/keys/a",
        "azure:https://169.254.169.254/latest?.vault.azure.net/keys/a",
        "aws:arn:aws:kms:evil.example/:123456789012:key/a",
        "aws:arn:aws:kms:169.254.169.254#:123456789012:key/a",
        "gcp:http://169.254.169.254/computeMetadata",
    ):
        for path, body in ((KEYS, {"fleet": fleet}), (f"{KEYS}/migrate", {})):
            answer = await api.admin.post(path, json={**body, "reference": reference})
            assert (answer.status_code, answer.json()["code"]) == (422, "bad-key-reference"), path


async def test_a_rotated_key_says_what_is_left_to_rewrap(api: Api) -> None:
    key = await add_local(api)
    assert (key["key_state"], key["key_version"], key["trouble_code"]) == ("enabled", "1", None)
    rotated = (await api.admin.post(f"{KEYS}/{key['id']}/rotate")).json()
    assert rotated["key_version"] == "2"
    assert [(one["version"], one["is_current"]) for one in rotated["versions"]] == [
        ("1", False),
        ("2", True),
    ]
    job = await api.admin.post(f"{KEYS}/{key['id']}/rewrap", json={"per_second": 5})
    assert job.status_code == 202
    assert (job.json()["state"], job.json()["left"]) == ("running", 0)
    again = (await api.admin.post(f"{KEYS}/{key['id']}/rewrap", json={})).json()
    assert again["id"] == job.json()["id"]
    shown = (await api.admin.get(f"{KEYS}/{key['id']}")).json()
    assert shown["job"]["id"] == again["id"]


async def test_a_key_says_what_it_is_used_for(api: Api) -> None:
    platform, own = await platform_key(api), await add_local(api)
    uses = {one["purpose"]: one["secrets"] for one in platform["uses"]}
    assert uses["ca-key"] == uses["recipient-key"] == 1
    assert sum(uses.values()) == platform["secrets"]
    assert (own["uses"], own["secrets"], own["taken_away"]) == ([], 0, False)


async def test_a_key_that_is_looked_at_says_that_it_was_taken_away_and_that_it_is_back(
    api: Api, context: ApiContext
) -> None:
    key = await add_local(api)
    path = context.settings.data_dir / FLEET_KEKS_FOLDER / f"{key['key_id']}.json"
    hidden = path.with_suffix(".away")
    path.rename(hidden)
    taken = await api.admin.post(f"{KEYS}/{key['id']}/check")
    assert taken.status_code == 200, taken.text
    assert (taken.json()["taken_away"], taken.json()["trouble_code"]) == (True, "key-missing")
    shown = (await api.admin.get(f"{KEYS}/{key['id']}")).json()
    assert shown["trouble_since"] == taken.json()["trouble_since"] is not None
    hidden.rename(path)
    back = (await api.admin.post(f"{KEYS}/{key['id']}/check")).json()
    assert (back["taken_away"], back["trouble_code"]) == (False, None)
    await api.admin.delete(f"{KEYS}/{key['id']}")
    over = await api.admin.post(f"{KEYS}/{key['id']}/check")
    assert (over.status_code, over.json()["code"]) == (409, "kek-retired")


async def test_the_kinds_of_providers_say_what_their_keys_are_called(api: Api) -> None:
    found = (await (await api.as_role(Role.VIEWER)).get(f"{KEYS}/providers")).json()["items"]
    assert [one["name"] for one in found] == ["local", "aws", "azure", "gcp"]
    assert found[0]["installed"]
    assert [one["destroys_versions"] for one in found] == [True, False, False, True]


async def test_material_is_imported_as_it_was_wrapped_offline(api: Api) -> None:
    key = await add_local(api)
    asked = await api.admin.post(f"{KEYS}/{key['id']}/import-parameters")
    assert asked.status_code == 200, asked.text
    found = asked.json()
    wrapped = wrap_material(ImportParameters(**found), os.urandom(32))
    body = {
        "token": found["token"],
        "wrapped": base64.b64encode(wrapped).decode(),
        "expires_at": "2099-01-01T00:00:00Z",
    }
    done = await api.admin.post(f"{KEYS}/{key['id']}/import", json=body)
    assert done.status_code == 200, done.text
    assert done.json()["expires_at"].startswith("2099-01-01")
    again = await api.admin.post(f"{KEYS}/{key['id']}/import", json=body)
    assert (again.status_code, again.json()["code"]) == (422, "key-import-refused")
    past = {**body, "expires_at": "2020-01-01T00:00:00Z"}
    assert (await api.admin.post(f"{KEYS}/{key['id']}/import", json=past)).status_code == 409


async def test_a_version_in_use_is_neither_disabled_nor_destroyed(api: Api) -> None:
    key = await platform_key(api)
    for action, body in (("disable", None), ("destroy", {"reason": "old"})):
        path = f"{KEYS}/{key['id']}/versions/{key['key_version']}/{action}"
        refused = await api.admin.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "key-version-in-use")


async def test_destroying_a_version_waits_for_a_second_person(
    api: Api, context: ApiContext
) -> None:
    key = await add_local(api)
    await api.admin.post(f"{KEYS}/{key['id']}/rotate")
    asked = await api.admin.post(
        f"{KEYS}/{key['id']}/versions/1/destroy", json={"reason": "retired"}
    )
    assert asked.status_code == 202, asked.text
    approval = asked.json()
    assert (approval["kind"], approval["state"]) == ("kek.destroy-version", "pending")
    assert not approval["may_decide"]
    shown = (await api.admin.get(f"{KEYS}/{key['id']}")).json()
    assert [one["state"] for one in shown["versions"]] == ["enabled", "enabled"]

    deciders = Deciders(Actor("user", "one"), Actor("user", "two"))
    async with context.sessions.begin() as session:
        done = await executors_of(context)[ApprovalKind.DESTROY_KEY](
            session, approval["request"], deciders, context.clock()
        )
    assert done["version"] == "1"
    shown = (await api.admin.get(f"{KEYS}/{key['id']}")).json()
    assert [one["state"] for one in shown["versions"]] == ["destroyed", "enabled"]


async def test_bad_references_are_refused_with_what_would_be_good(api: Api) -> None:
    fleet = await api.new_fleet()
    for reference in (
        "vault:x",
        "aws:alias/kek",
        "azure:https://evil.example/keys/k",
        "azure:https://vault.azure.net.evil.example/keys/k",
    ):
        refused = await api.admin.post(KEYS, json={"fleet": fleet, "reference": reference})
        assert (refused.status_code, refused.json()["code"]) == (422, "bad-key-reference")
    nowhere = await api.admin.post(KEYS, json={"fleet": "nowhere", "reference": "local"})
    assert nowhere.status_code == 404


async def test_a_fleet_goes_back_under_the_platform_s_key(api: Api) -> None:
    key = await add_local(api)
    removed = await api.admin.delete(f"{KEYS}/{key['id']}")
    assert (removed.status_code, removed.json()["state"]) == (200, "retired")
    assert (await api.admin.delete(f"{KEYS}/{key['id']}")).status_code == 409
    platform = await platform_key(api)
    assert (await api.admin.delete(f"{KEYS}/{platform['id']}")).status_code == 409
