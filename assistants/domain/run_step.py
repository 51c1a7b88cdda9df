"""Run steps: persisted units inside a run, and its checkpoints."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from assistants.domain.run import RunError
from assistants.domain.tool import StepToolCall
from runtime.types import Usage, Vote


class StepState(StrEnum):
    """Where a step stands."""

    IN_PROGRESS = "in_progress"
    CANCELLED = "cancelled"
    """With its run, or because a new attempt repeated the turn without it."""
    FAILED = "failed"
    COMPLETED = "completed"
    EXPIRED = "expired"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCreation:
    """The step wrote a message."""

    message_id: str
    kind: Literal["message_creation"] = "message_creation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalls:
    """The step called tools."""

    calls: tuple[StepToolCall, ...]
    """The calls of one turn; empty until they are whole."""
    reasoning: str = ""
    """What the model thought in the turn: prompts of the same run repeat it."""
    kind: Literal["tool_calls"] = "tool_calls"


StepDetails = MessageCreation | ToolCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A persisted unit inside a run."""

    id: str
    project_id: str
    thread_id: str
    run_id: str
    index: int
    """Place in the run, from 0."""
    state: StepState
    details: StepDetails
    usage: Usage | None = None
    """Tokens of the turn that the step belongs to, kept on the last step of the turn; None until it ended."""
    votes: tuple[Vote, ...] = ()
    """The answers of a consensus, most votes first."""
    closed_early: bool = False
    """Whether a document was brought to its end because a limit was near."""
    error: RunError | None = None
    attempt: int
    """Attempt that last wrote it."""
    create_time: datetime
    end_time: datetime | None = None


def without_reasoning(step: RunStep) -> RunStep:
    """The step as clients see it that did not ask for reasoning."""
    if isinstance(step.details, ToolCalls) and step.details.reasoning:
        return replace(step, details=replace(step.details, reasoning=""))
    return step
