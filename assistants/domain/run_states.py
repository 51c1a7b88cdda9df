"""The nine states of a run and every transition between them, in one table."""

from enum import StrEnum


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.IN_PROGRESS, RunState.CANCELLED, RunState.EXPIRED, RunState.FAILED}),
    RunState.IN_PROGRESS: frozenset(
        {
            RunState.IN_PROGRESS,  # a new attempt
            RunState.REQUIRES_ACTION,
            RunState.CANCELLING,
            RunState.FAILED,
            RunState.COMPLETED,
            RunState.INCOMPLETE,
            RunState.EXPIRED,
        }
    ),
    RunState.REQUIRES_ACTION: frozenset({RunState.QUEUED, RunState.CANCELLED, RunState.EXPIRED}),
    RunState.CANCELLING: frozenset({RunState.CANCELLED}),
    RunState.CANCELLED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.COMPLETED: frozenset(),
    RunState.INCOMPLETE: frozenset(),
    RunState.EXPIRED: frozenset(),
}


def check_transition(old: RunState, new: RunState) -> None:
    """Asserts that the table allows the step: a wrong one is a bug of the server."""
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"a run cannot go from {old} to {new}")
