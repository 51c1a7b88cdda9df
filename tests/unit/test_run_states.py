"""Every step between the nine states, allowed or not."""

from itertools import product

import pytest

from assistants.domain.run_states import TRANSITIONS, RunState, check_transition

ALLOWED = {
    ("queued", "in_progress"),
    ("queued", "cancelled"),
    ("queued", "expired"),
    ("queued", "failed"),
    ("in_progress", "in_progress"),
    ("in_progress", "requires_action"),
    ("in_progress", "cancelling"),
    ("in_progress", "failed"),
    ("in_progress", "completed"),
    ("in_progress", "incomplete"),
    ("in_progress", "expired"),
    ("requires_action", "queued"),
    ("requires_action", "cancelled"),
    ("requires_action", "expired"),
    ("cancelling", "cancelled"),
}


@pytest.mark.parametrize(("old", "new"), list(product(RunState, RunState)))
def test_the_table_allows_just_these(old: RunState, new: RunState) -> None:
    if (old.value, new.value) in ALLOWED:
        check_transition(old, new)
    else:
        with pytest.raises(AssertionError, match=f"from {old} to {new}"):
            check_transition(old, new)


def test_every_state_is_in_the_table_and_can_end() -> None:
    assert set(TRANSITIONS) == set(RunState)

    def ends(state: RunState, seen: frozenset[RunState]) -> bool:
        return state.final or any(ends(new, seen | {state}) for new in TRANSITIONS[state] - seen - {state})

    assert all(ends(state, frozenset()) for state in RunState)


def test_five_states_are_final() -> None:
    assert {state.value for state in RunState if state.final} == {
        "cancelled",
        "failed",
        "completed",
        "incomplete",
        "expired",
    }
