"""A new CA in the place of the old one: nobody is lost, whenever the command dies."""

from pathlib import Path
from typing import Any

import pytest

from agent.core.belief import Belief
from agent.core.turn import Turn
from tensorguard.cli.rotation import Plan, Rotator
from tensorguard.cli.telling import Teller
from tests.integration.trust.site import Site, kill_after

WITHIN_S = 2


def plan(site: Site, **changes: object) -> Plan:
    known = {
        "within_s": WITHIN_S,
        "leave": frozenset(),
        "patience_s": 40.0,
        "settle_s": 0.5,
        "again": False,
        "draft": None,
        "root_keys": site.root_keys,
        "data_dir": site.data_dir,
    }
    return Plan(**(known | changes))  # type: ignore[arg-type]  # the test names real ones


async def rotate(site: Site, **changes: object) -> None:
    teller = Teller(as_json=True, bars=None)
    await Rotator(site.database.app_url, plan(site, **changes), teller).run()


async def states(site: Site) -> list[str]:
    """The CAs' states, the oldest first."""
    return [
        state
        for (state,) in await site.rows("SELECT state FROM ca_certificates ORDER BY not_before")
    ]


_LONGEST_GAP = """
    SELECT max(EXTRACT(epoch FROM gap))::float FROM (
        SELECT received_at - lag(received_at) OVER agent AS gap FROM heartbeats
        WINDOW agent AS (PARTITION BY agent_id ORDER BY received_at)) AS gaps
"""


async def test_thirty_agents_move_to_a_new_ca_and_none_is_lost(site: Site, tmp_path: Path) -> None:
    async with site.running(), site.agents(30, tmp_path / "agents") as simulation:
        await rotate(site)
        assert await states(site) == ["retired", "issuing"]
        await site.online(30)
        assert {agent.core.trust.version for agent in simulation.agents} <= {2, 3}
        (agents,) = (await site.rows("SELECT count(*) FROM agents WHERE status = 'active'"))[0]
        assert agents == 30
        [(gap_s,)] = await site.rows(_LONGEST_GAP)
        assert gap_s < 5.0
        # Everybody uses a certificate of the new CA, and nobody was refused on the way.
        [(of_old,)] = await site.rows(
            "SELECT count(*) FROM agents a WHERE NOT EXISTS (SELECT FROM certificates c"
            " JOIN ca_certificates ca ON ca.subject_key_id = c.authority_key_id"
            " AND ca.state = 'issuing'"
            " WHERE c.agent_id = a.id AND c.first_connected_at IS NOT NULL)"
        )
        assert of_old == 0
        assert simulation.agents[0]._world.statistics.refused == 0


class Crash(Exception):
    pass


class Crashing(Teller):
    """Ends the command right after it has said that a step is done."""

    def __init__(self, after: str) -> None:
        super().__init__(as_json=True, bars=None)
        self._after = after

    def _write(self, step: str, text: str, facts: dict[str, Any]) -> None:
        if step == self._after:
            raise Crash(step)


async def test_a_rotation_that_ended_after_any_step_is_taken_up(site: Site, tmp_path: Path) -> None:
    async with site.running(), site.agents(2, tmp_path / "agents"):
        for step in ("made", "published", "aware", "issuing", "moving"):
            with pytest.raises(Crash, match=step):
                await Rotator(site.database.app_url, plan(site), Crashing(step)).run()
        await rotate(site)
        assert await states(site) == ["retired", "issuing"], "one rotation, not six"
        with pytest.raises(Crash, match="done"):  # once more: there is nothing to do
            await Rotator(site.database.app_url, plan(site), Crashing("done")).run()
        assert await states(site) == ["retired", "issuing"]
        await site.online(2)


@pytest.mark.deep
async def test_a_rotation_killed_at_each_step_is_taken_up(site: Site, tmp_path: Path) -> None:
    options = ("--within", "2s", "--settle", "500ms", "--give-up-after", "40s", "--json")
    async with site.running(), site.agents(4, tmp_path / "agents"):
        for step in ("made", "published", "aware", "issuing", "moving"):
            process = await site.command("trust", "rotate-ca", *options)
            assert (await kill_after(process, step))[-1] == step
        done = await site.run("trust", "rotate-ca", *options[:-1])
        assert done["step"] == "done"
        assert await states(site) == ["retired", "issuing"], "one rotation, not six"
        await site.online(4)
        again = await site.run("trust", "rotate-ca", *options[:-1])
        assert again["ca"] == done["ca"], "killed after its last step it would not rotate again"
        assert await states(site) == ["retired", "issuing"]


async def test_no_ca_is_retired_while_an_agent_that_is_away_holds_its_certificate(
    site: Site, tmp_path: Path
) -> None:
    async with site.running():
        async with site.agents(2, tmp_path / "away"):
            pass
        await site.until("SELECT count(*) = 2 FROM agent_status WHERE presence = 'offline'")
        options = ("trust", "rotate-ca", "--within", "2s", "--settle", "500ms")
        refused = await site.run(*options, expect=1)
        assert refused["code"] == "ca-in-use"
        ids = [str(one) for (one,) in await site.rows("SELECT id FROM agents ORDER BY id")]
        assert all(one in refused["message"] for one in ids)
        assert await states(site) == ["trusted", "issuing"]
        one_left = await site.run(*options, "--leave", ids[0], expect=1)
        assert ids[0] not in one_left["message"]
        done = await site.run(*options, "--leave", ids[0], "--leave", ids[1])
        assert done["step"] == "done"
        assert await states(site) == ["retired", "issuing"]
        [(entry,)] = await site.rows("SELECT entry FROM ledger_events WHERE type = 'ca.retired'")
        assert all(one in bytes(entry).decode() for one in ids)


class Deaf(Belief):
    """As a device that does not know the message, and asks once an hour."""

    def told(self, turn: Turn, payload: bytes) -> None:
        return


async def test_a_ca_does_not_issue_before_every_online_agent_knows_it(
    site: Site, tmp_path: Path
) -> None:
    async with site.running(), site.agents(2, tmp_path / "agents") as simulation:
        deaf = simulation.agents[0]
        deaf.core._belief = Deaf(deaf.core.trust)
        for _ in range(20):  # the other one learns of it in its own time
            refused = await site.run(
                *("trust", "rotate-ca", "--within", "2s", "--settle", "500ms"),
                *("--give-up-after", "3s"),
                expect=1,
            )
            assert refused["code"] == "agents-unaware"
            assert str(deaf.home.agent_id) in refused["message"]
            if str(simulation.agents[1].home.agent_id) not in refused["message"]:
                break
        else:
            raise AssertionError("who knows the CA is called unaware")
        assert await states(site) == ["issuing", "trusted"]
