"""Run steps: persisted units inside a run, and its checkpoints."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from assistants.domain.run import RunError
from assistants.domain.tool import StepToolCall
from runtime.types import Usage


class StepState(StrEnum):
    """Where a step stands."""

    IN_PROGRESS = "in_progress"
    CANCELLED = "cancelled"
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
    """Tokens of the inference that the step came from; None while in progress."""
    error: RunError | None = None
    attempt: int
    """Attempt that last wrote it."""
    create_time: datetime
    end_time: datetime | None = None
