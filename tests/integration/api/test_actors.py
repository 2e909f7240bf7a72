"""Whose the ids are that answers hold: a user's or an API key's, and for whom they have names."""

from uuid import uuid4

import pytest

from tensorguard.services.people.access import Role
from tests.integration.api.clients import Api
from tests.integration.api.people import new_person

ACTORS = "/api/v1/actors"


@pytest.mark.parametrize("role", Role)
async def test_everyone_sees_what_acted_and_readers_of_the_ledger_see_its_name(
    api: Api, role: Role
) -> None:
    fleet = await api.new_fleet()
    made = await api.admin.post(f"/api/v1/fleets/{fleet}/enrollment-tokens", json={"ttl_s": 60})
    assert made.status_code == 201, made.text
    tokens = (await api.admin.get(f"/api/v1/fleets/{fleet}/enrollment-tokens")).json()["items"]
    key, person = tokens[0]["created_by"], await new_person(api)
    client = await api.as_role(role)
    found = await client.get(ACTORS, params={"id": [person.id, str(uuid4()), key, person.id]})
    is_told = role in (Role.COMPLIANCE, Role.ADMIN)
    assert found.json() == [
        {"id": person.id, "kind": "user", "name": person.email if is_told else None},
        {"id": key, "kind": "api-key", "name": "test" if is_told else None},
    ]


@pytest.mark.parametrize("ids", [[], ["command-line"], [str(uuid4())] * 101], ids=len)
async def test_ids_are_some_but_not_many(api: Api, ids: list[str]) -> None:
    answer = await api.admin.get(ACTORS, params={"id": ids})
    assert answer.status_code == 422
