"""Orders of the list of agents: the same on every page, whatever a value is missing."""

import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.context import utc_now
from tensorguard.store import tables
from tests.integration.api.clients import Api
from tests.integration.api.devices import enroll, join_string

AGENTS = "/api/v1/agents"
# Not one of them is exactly representable as REAL, and two are equal.
LOADS = {"a": 12.3, "b": 99.9, "c": 12.3, "d": None, "e": 0.1}


async def _names(api: Api, **params: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        query = {"limit": 1, **params} | ({"cursor": cursor} if cursor else {})
        page = await api.admin.get(AGENTS, params=query)
        assert page.status_code == 200, page.text
        found += [agent["name"] for agent in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return found


@pytest.fixture
async def fleet(api: Api) -> str:
    """A fleet of agents with these loads, and trust scores that fall in the order of names."""
    fleet = await api.new_fleet()
    now = utc_now()
    for place, (name, load) in enumerate(LOADS.items()):
        agent = UUID(await enroll(api, fleet, name=name))
        status = tables.agent_status
        async with api.context.sessions.begin() as session:
            await session.execute(
                sa.update(status)
                .where(status.c.agent_id == agent)
                .values(trust_score=100 - 25 * place)
            )
            if load is not None:
                values = {"cpu_percent": load, "received_at": now, "boot_count": 1, "seq": 1}
                state = tables.agent_state
                await session.execute(sa.delete(state).where(state.c.agent_id == agent))
                await session.execute(sa.insert(state).values(agent_id=agent, **values))
    return fleet


async def test_each_order_shows_everyone_once_and_turned_round_the_other_way(
    api: Api, fleet: str
) -> None:
    for order in ("name", "created", "heartbeat", "trust", "cpu", "memory", "disk"):
        forward = await _names(api, fleet=fleet, sort=order)
        assert sorted(forward) == list(LOADS), order
        assert await _names(api, fleet=fleet, sort=f"-{order}") == forward[::-1], order
    assert await _names(api, fleet=fleet, sort="cpu") == ["d", "e", "a", "c", "b"]
    assert await _names(api, fleet=fleet, sort="trust") == list("edcba")


async def test_trust_bands_have_an_end_on_both_sides(api: Api, fleet: str) -> None:
    assert await _names(api, fleet=fleet, trust_at_least=75) == ["a", "b"]
    assert await _names(api, fleet=fleet, trust_at_least=25, trust_below=75) == ["c", "d"]


async def test_a_selector_finds_agents_by_their_tags(api: Api) -> None:
    fleet = await api.new_fleet()
    for name, tags in (("with", {"gpu": "true", "region": "eu"}), ("without", {"region": "us"})):
        await enroll(api, fleet, name=name, join=await join_string(api, fleet, tags=tags))
    assert await _names(api, fleet=fleet, selector="gpu=true") == ["with"]
    assert await _names(api, fleet=fleet, selector="!gpu,region in (us,eu)") == ["without"]
    refused = await api.admin.get(AGENTS, params={"selector": "gpu=(", "fleet": fleet})
    assert refused.status_code == 422
    assert refused.json()["code"] == "bad-selector"


async def test_a_cursor_of_another_order_is_refused(api: Api, fleet: str) -> None:
    page = await api.admin.get(AGENTS, params={"fleet": fleet, "limit": 1, "sort": "name"})
    cursor = page.json()["next_cursor"]
    for order in ("-name", "cpu", "heartbeat"):
        refused = await api.admin.get(AGENTS, params={"cursor": cursor, "sort": order})
        assert refused.status_code == 422, order
        assert refused.json()["code"] == "bad-cursor"


async def _certify(api: Api, agent: UUID, *, ends_in: timedelta, **changes: Any) -> None:
    """Give the agent another certificate, which it has not connected with unless told so."""
    now = utc_now()
    known = {
        "serial": secrets.token_hex(16),
        "agent_id": agent,
        "spki_sha256": bytes(32),
        "certificate": "",
        "not_before": now,
        "not_after": now + ends_in,
        "issued_at": now,
        "authority_key_id": bytes(20),
    }
    async with api.context.sessions.begin() as session:
        await session.execute(sa.insert(tables.certificates).values(known | changes))


async def test_agents_are_ordered_and_filtered_by_the_end_of_the_certificate_they_use(
    api: Api,
) -> None:
    fleet, now = await api.new_fleet(), utc_now()
    ids = {name: UUID(await enroll(api, fleet, name=name)) for name in "abcd"}
    await _certify(api, ids["a"], ends_in=timedelta(days=30), first_connected_at=now)
    await _certify(api, ids["b"], ends_in=timedelta(hours=1), first_connected_at=now)
    await _certify(api, ids["c"], ends_in=timedelta(days=60))  # never used: the first one counts
    join = await join_string(api, fleet, approval="manual")
    await enroll(api, fleet, name="waits", join=join)
    certificates = tables.certificates
    async with api.context.sessions.begin() as session:
        await session.execute(
            sa.update(certificates)
            .where(certificates.c.agent_id == ids["c"], certificates.c.certificate != "")
            .values(first_connected_at=now)
        )
        await session.execute(
            sa.update(certificates)
            .where(certificates.c.agent_id == ids["d"])
            .values(not_after=now + timedelta(days=9))
        )
    assert await _names(api, fleet=fleet, sort="expiry") == ["waits", "b", "c", "d", "a"]
    assert await _names(api, fleet=fleet, sort="-expiry") == ["a", "d", "c", "b", "waits"]
    soon = (now + timedelta(days=8)).isoformat()
    assert await _names(api, fleet=fleet, certificate_expires_before=soon) == ["b", "c"]
    assert await _names(api, fleet=fleet, enrolled_by="mtls") == []
    assert len(await _names(api, fleet=fleet, enrolled_by="token")) == 5
    page = await api.admin.get(AGENTS, params={"fleet": fleet, "q": "waits"})
    [waits] = page.json()["items"]
    assert (waits["certificate_not_after"], waits["move_to"], waits["enrolled_by"]) == (
        None,
        None,
        "token",
    )
    detail = (await api.admin.get(f"{AGENTS}/{ids['a']}")).json()
    assert detail["certificate_not_after"] == detail["certificates"][0]["not_after"]
    bad = await api.admin.get(AGENTS, params={"certificate_expires_before": "tomorrow"})
    assert bad.status_code == 422
