"""The state machines: which moves are legal, and that a success needs the heartbeat's word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.rollouts.errors import IllegalMove
from tensorguard.rollouts.states import (
    AgentState,
    DeploymentState,
    check_agent_move,
    check_deployment_move,
    is_agent_move,
    next_agent_state,
)

A, D = AgentState, DeploymentState
FINAL = [A.REJECTED, A.FAILED, A.SUPERSEDED, A.ALREADY_INSTALLED, A.EXCLUDED]


@pytest.mark.parametrize(
    ("now", "to"),
    [
        (D.DRAFT, D.RUNNING),
        (D.DRAFT, D.ABORTED),
        (D.RUNNING, D.PAUSED),
        (D.PAUSED, D.RUNNING),
        (D.RUNNING, D.COMPLETED),
        (D.PAUSED, D.ABORTED),
        (D.COMPLETED, D.ROLLING_BACK),
        (D.ROLLING_BACK, D.ROLLED_BACK),
    ],
)
def test_a_deployment_moves_so(now: DeploymentState, to: DeploymentState) -> None:
    check_deployment_move(now, to)


@pytest.mark.parametrize(
    ("now", "to"),
    [
        (D.DRAFT, D.COMPLETED),
        (D.COMPLETED, D.RUNNING),
        (D.ABORTED, D.RUNNING),
        (D.ABORTED, D.ROLLING_BACK),
        (D.PAUSED, D.COMPLETED),
        (D.RUNNING, D.RUNNING),
    ],
)
def test_a_deployment_never_moves_so_and_the_hint_says_what_it_can_do(
    now: DeploymentState, to: DeploymentState
) -> None:
    with pytest.raises(IllegalMove) as caught:
        check_deployment_move(now, to)
    assert caught.value.code == "illegal-move"
    assert caught.value.hint


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("to", list(A))
def test_what_is_final_stays(final: AgentState, to: AgentState) -> None:
    assert not is_agent_move(final, to)
    with pytest.raises(IllegalMove):
        check_agent_move(final, to)


def test_an_agent_that_says_it_succeeded_is_activating_until_a_heartbeat_names_the_digest() -> None:
    assert next_agent_state(A.VERIFYING, A.SUCCEEDED, runs_it=False) is A.ACTIVATING
    assert next_agent_state(A.ACTIVATING, A.SUCCEEDED, runs_it=False) is A.ACTIVATING
    assert next_agent_state(A.ACTIVATING, A.SUCCEEDED, runs_it=True) is A.SUCCEEDED


def test_an_agent_that_was_given_up_and_reports_again_is_believed() -> None:
    assert next_agent_state(A.LOST, A.DOWNLOADING, runs_it=False) is A.DOWNLOADING
    assert next_agent_state(A.TIMED_OUT, A.SUCCEEDED, runs_it=True) is A.SUCCEEDED


def test_a_success_only_turns_into_a_failure() -> None:
    assert next_agent_state(A.SUCCEEDED, A.DOWNLOADING, runs_it=True) is A.SUCCEEDED
    assert next_agent_state(A.SUCCEEDED, A.FAILED, runs_it=False) is A.FAILED


@given(st.sampled_from(A), st.lists(st.sampled_from(A)), st.booleans())
def test_no_word_of_an_agent_makes_an_illegal_move(
    start: AgentState, words: list[AgentState], runs_it: bool
) -> None:
    state = start
    for word in words:
        following = next_agent_state(state, word, runs_it=runs_it)
        assert following is state or is_agent_move(state, following)
        state = following
