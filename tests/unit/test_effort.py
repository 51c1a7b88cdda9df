"""Budgets of thought: what each effort is worth, and that more of it never thinks less."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.reasoning.effort import LEAST_ANSWER_TOKENS, LEAST_THOUGHT_TOKENS, ThoughtBudget, thought_budget
from runtime.types import Effort

RISING = (Effort.NONE, Effort.MINIMAL, Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.XHIGH)
ROOMS = st.integers(min_value=-10, max_value=40_000)


def tokens(budget: ThoughtBudget | None) -> int:
    return budget.most_tokens if budget else 0


@pytest.mark.parametrize(
    ("effort", "most_tokens"),
    [
        (Effort.MINIMAL, 128),
        (Effort.LOW, 256),
        (Effort.MEDIUM, 768),
        (Effort.HIGH, 2_048),
        (Effort.XHIGH, 8_192),
    ],
)
def test_with_room_enough_an_effort_is_its_own_budget(effort: Effort, most_tokens: int) -> None:
    assert tokens(thought_budget(effort, room_tokens=16_384)) == most_tokens


@pytest.mark.parametrize("effort", [None, Effort.NONE])
@given(room=ROOMS)
def test_without_effort_there_is_no_thought(effort: Effort | None, room: int) -> None:
    assert thought_budget(effort, room_tokens=room) is None


@pytest.mark.parametrize("effort", RISING[1:])
def test_a_thought_is_long_enough_or_none(effort: Effort) -> None:
    least = LEAST_THOUGHT_TOKENS + LEAST_ANSWER_TOKENS
    assert thought_budget(effort, room_tokens=least - 1) is None
    assert tokens(thought_budget(effort, room_tokens=least)) == LEAST_THOUGHT_TOKENS


def test_only_medium_and_above_must_think() -> None:
    budgets = [thought_budget(effort, room_tokens=4_096) for effort in RISING[1:]]
    assert [budget.least_characters if budget else None for budget in budgets] == [0, 0, 80, 200, 200]


def test_a_4096_token_context_holds_a_whole_high_thought() -> None:
    assert tokens(thought_budget(Effort.HIGH, room_tokens=3_900)) == 2_048


@given(room=ROOMS)
def test_more_effort_never_thinks_less(room: int) -> None:
    budgets = [tokens(thought_budget(effort, room_tokens=room)) for effort in RISING]
    assert all(less <= more for less, more in pairwise(budgets))


@given(effort=st.sampled_from(RISING), room=ROOMS, more=st.integers(min_value=0, max_value=10_000))
def test_more_room_never_thinks_less(effort: Effort, room: int, more: int) -> None:
    small, large = (thought_budget(effort, room_tokens=tokens) for tokens in (room, room + more))
    assert tokens(small) <= tokens(large)


@given(effort=st.sampled_from(RISING), room=ROOMS)
def test_the_answer_always_fits_behind_the_thought(effort: Effort, room: int) -> None:
    budget = thought_budget(effort, room_tokens=room)
    if budget is not None:
        assert budget.most_tokens >= LEAST_THOUGHT_TOKENS
        assert room - budget.most_tokens >= LEAST_ANSWER_TOKENS
