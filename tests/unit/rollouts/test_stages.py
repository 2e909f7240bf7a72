"""Stages: fair, exact and sticky."""

import hashlib
from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tensorguard.rollouts.stages import assign_stages, rank, stage_of

SALTS = st.binary(min_size=16, max_size=16)
AGENTS = st.sets(st.uuids(), max_size=60)
PERCENTS = st.sets(st.integers(1, 99), max_size=4).map(lambda found: [*sorted(found), 100])


def test_the_order_is_the_hash_of_salt_and_raw_agent_id() -> None:
    agent_id = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert rank(b"s" * 16, agent_id) == hashlib.sha256(b"s" * 16 + agent_id.bytes).digest()


@given(SALTS, AGENTS, PERCENTS)
def test_a_stage_holds_exactly_its_share_and_everybody_is_in_one(
    salt: bytes, agents: set[UUID], percents: list[int]
) -> None:
    stages = assign_stages(salt, agents, percents)
    placed = [stage_of(rank(salt, agent), stages.cutoffs) for agent in agents]
    for index, percent in enumerate(percents):
        share = sum(place <= index for place in placed)
        assert share == (percent * len(agents) + 99) // 100
        assert placed.count(index) == stages.counts[index]


@given(SALTS, AGENTS, PERCENTS, st.uuids())
def test_an_agent_that_joins_later_moves_nobody(
    salt: bytes, agents: set[UUID], percents: list[int], joiner: UUID
) -> None:
    stages = assign_stages(salt, agents, percents)
    before = {agent: stage_of(rank(salt, agent), stages.cutoffs) for agent in agents}
    stage_of(rank(salt, joiner), stages.cutoffs)  # has a place as well
    after = {agent: stage_of(rank(salt, agent), stages.cutoffs) for agent in agents | {joiner}}
    assert {agent: after[agent] for agent in before} == before


def test_a_canary_is_spread_over_the_fleet_and_falls_on_others_each_time() -> None:
    """Ids rise with the time of enrollment: whoever came first must not always go first."""
    agents = [UUID(int=number << 64) for number in range(500)]
    tenths: Counter[int] = Counter()
    canaries = set()
    for draw in range(200):
        stages = assign_stages(draw.to_bytes(16, "big"), agents, [10, 100])
        canary = [number for number, one in enumerate(agents) if stages.places[one] == 0]
        assert len(canary) == 50
        canaries.add(tuple(canary))
        tenths.update(number // 50 for number in canary)
    assert len(canaries) == 200
    assert all(850 < tenths[tenth] < 1150 for tenth in range(10)), tenths
