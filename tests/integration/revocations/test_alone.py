"""How many agents one person revokes alone, however they go about it."""

import asyncio
from datetime import timedelta

import pytest

from tensorguard.services.people.access import Caller
from tests.integration.approvals.builders import MACHINE, Office
from tests.integration.revocations.builders import NOW, Site

LATER = NOW + timedelta(minutes=10)


async def _alone(site: Site, fleet: str, by: Caller, tries: int) -> int:
    """How many of so many agents are revoked without a second person."""
    agents = await site.agents(fleet, tries)
    return sum([await site.revoke_alone(one, fleet, by) for one in agents])


@pytest.mark.parametrize(("size", "alone"), [(0, 10), (150, 10), (285, 15), (385, 20)])
async def test_ten_or_five_percent_is_what_one_person_may(
    site: Site, office: Office, size: int, alone: int
) -> None:
    fleet = await site.fleet(size)
    assert await _alone(site, fleet, await office.person(), 25) == alone


async def test_many_at_the_same_time_are_not_more(site: Site, office: Office) -> None:
    fleet, person = await site.fleet(20), await office.person()
    keys = [await office.key(person) for _ in range(3)]
    agents = await site.agents(fleet, 40)
    answers = await asyncio.gather(
        *(
            site.revoke_alone(agent, fleet, [person, *keys][number % 4])
            for number, agent in enumerate(agents)
        )
    )
    assert sum(answers) == 10


async def test_a_persons_keys_and_new_accounts_are_the_person(site: Site, office: Office) -> None:
    fleet, person = await site.fleet(20), await office.person()
    key = await office.key(person)
    of_the_key = await office.key(key)
    account = await office.person(created_by=person.actor.id, created_at=NOW)
    assert await _alone(site, fleet, of_the_key, 4) == 4
    assert await _alone(site, fleet, person, 3) == 3
    assert await _alone(site, fleet, account, 5) == 3
    for one in (person, key, of_the_key, account):
        assert await _alone(site, fleet, one, 1) == 0
    assert await _alone(site, fleet, await office.person(), 3) == 3, "another person"
    assert await _alone(site, fleet, await office.key(MACHINE), 3) == 3, "a key of the machine's"


async def test_it_is_counted_by_fleet_and_within_ten_minutes(site: Site, office: Office) -> None:
    one, two, person = await site.fleet(), await site.fleet(), await office.person()
    assert await _alone(site, one, person, 11) == 10
    assert await _alone(site, two, person, 11) == 10
    (agent,) = await site.agents(one, 1)
    assert not await site.revoke_alone(agent, one, person, now=LATER - timedelta(seconds=1))
    assert await site.revoke_alone(agent, one, person, now=LATER)


async def test_whoever_works_on_the_platforms_machine_has_no_limit(site: Site) -> None:
    fleet = await site.fleet()
    assert await _alone(site, fleet, Caller(MACHINE, "admin"), 15) == 15  # type: ignore[arg-type] # no role matters here
