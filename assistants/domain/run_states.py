"""The nine states of a run and every transition between them, in one table: who may make which."""

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


class Actor(StrEnum):
    """Who changes the state of a run."""

    CLAIMER = "claimer"
    """Takes a run for execution, or takes it over."""
    EXECUTOR = "executor"
    """Has taken it."""
    SUBMITTER = "submitter"
    """Gives tool outputs."""
    CANCELLER = "canceller"
    EXPIRER = "expirer"
    """Ends a run that nobody executes and whose time is over."""


# The end of a predecessor admits a run to its thread; that is no change of state: both are queued.
TRANSITIONS: dict[RunState, dict[RunState, Actor]] = {
    RunState.QUEUED: {
        RunState.IN_PROGRESS: Actor.CLAIMER,
        RunState.CANCELLED: Actor.CANCELLER,
        RunState.EXPIRED: Actor.EXPIRER,
    },
    RunState.IN_PROGRESS: {
        RunState.IN_PROGRESS: Actor.CLAIMER,  # a new attempt
        RunState.REQUIRES_ACTION: Actor.EXECUTOR,
        RunState.COMPLETED: Actor.EXECUTOR,
        RunState.INCOMPLETE: Actor.EXECUTOR,
        RunState.FAILED: Actor.EXECUTOR,
        RunState.EXPIRED: Actor.EXECUTOR,  # told by the sweep
        RunState.CANCELLING: Actor.CANCELLER,
    },
    RunState.REQUIRES_ACTION: {
        RunState.QUEUED: Actor.SUBMITTER,
        RunState.CANCELLED: Actor.CANCELLER,
        RunState.EXPIRED: Actor.EXPIRER,
    },
    RunState.CANCELLING: {
        RunState.CANCELLING: Actor.CLAIMER,  # to be ended by a new attempt
        RunState.CANCELLED: Actor.EXECUTOR,
    },
    RunState.CANCELLED: {},
    RunState.FAILED: {},
    RunState.COMPLETED: {},
    RunState.INCOMPLETE: {},
    RunState.EXPIRED: {},
}


def may_follow(old: RunState, new: RunState, by: Actor) -> bool:
    """Whether the table lets somebody bring a run from one state to another."""
    return TRANSITIONS[old].get(new) is by


def check_transition(old: RunState, new: RunState, by: Actor) -> None:
    """Asserts that the table allows the step: a wrong one is a bug of the server."""
    if not may_follow(old, new, by):
        raise AssertionError(f"a run cannot go from {old} to {new} by its {by}")
