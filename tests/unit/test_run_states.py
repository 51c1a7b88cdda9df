"""Every step between the nine states, by everybody, allowed or not."""

from itertools import product

import pytest

from assistants.domain.run_states import TRANSITIONS, Actor, RunState, check_transition, may_follow

ALLOWED = {
    ("queued", "in_progress", "claimer"),
    ("queued", "cancelled", "canceller"),
    ("queued", "expired", "expirer"),
    ("in_progress", "in_progress", "claimer"),
    ("in_progress", "requires_action", "executor"),
    ("in_progress", "completed", "executor"),
    ("in_progress", "incomplete", "executor"),
    ("in_progress", "failed", "executor"),
    ("in_progress", "expired", "executor"),
    ("in_progress", "cancelling", "canceller"),
    ("requires_action", "queued", "submitter"),
    ("requires_action", "cancelled", "canceller"),
    ("requires_action", "expired", "expirer"),
    ("cancelling", "cancelling", "claimer"),
    ("cancelling", "cancelled", "executor"),
}


def test_the_table_allows_just_these() -> None:
    allowed = {
        (old.value, new.value, by.value)
        for old, new, by in product(RunState, RunState, Actor)
        if may_follow(old, new, by)
    }
    assert allowed == ALLOWED


@pytest.mark.parametrize("old", RunState)
def test_a_step_that_is_not_in_the_table_is_a_bug(old: RunState) -> None:
    for new, by in product(RunState, Actor):
        if (old.value, new.value, by.value) in ALLOWED:
            check_transition(old, new, by)
        else:
            with pytest.raises(AssertionError, match=f"from {old} to {new} by its {by}"):
                check_transition(old, new, by)


def test_every_state_is_in_the_table_and_can_end() -> None:
    assert set(TRANSITIONS) == set(RunState)

    def ends(state: RunState, seen: frozenset[RunState]) -> bool:
        return state.final or any(
            ends(new, seen | {state}) for new in TRANSITIONS[state].keys() - seen - {state}
        )

    assert all(ends(state, frozenset()) for state in RunState)


def test_five_states_are_final() -> None:
    assert {state.value for state in RunState if state.final} == {
        "cancelled",
        "failed",
        "completed",
        "incomplete",
        "expired",
    }
