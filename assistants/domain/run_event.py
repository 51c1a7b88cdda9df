"""Entries of a run's journal. An event is also the change of state that it tells.

The store applies `RunChanged`, `StepChanged` and `MessageChanged` to the rows in
the transaction that appends the event: state and stream cannot differ.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from assistants.domain.message import Message
from assistants.domain.run import RunStatus
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The run has a new state."""

    status: RunStatus
    kind: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class StepChanged:
    """A step has a new state."""

    step: RunStep
    kind: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """A message has a new state."""

    message: Message
    kind: Literal["message"] = "message"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a message's text, or of its reasoning."""

    message_id: str
    index: int
    """Place of the content part in the message, from 0."""
    text: str
    reasoning: bool = False
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call."""

    step_id: str
    index: int
    """Place of the call in the step, from 0."""
    id: str = ""
    """Of the call; in its first piece only."""
    name: str = ""
    """Of the tool; in the first piece only."""
    arguments_json: str = ""
    """To be appended to the arguments."""
    kind: Literal["tool_call_delta"] = "tool_call_delta"


EventBody = RunChanged | StepChanged | MessageChanged | TextDelta | ToolCallDelta


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One entry: what happened, where and when."""

    sequence: int
    """From 1, without gaps."""
    attempt: int
    """Attempt that wrote it; 0 before the first."""
    event_time: datetime
    body: EventBody

    @property
    def final(self) -> bool:
        """Whether no event can follow."""
        return isinstance(self.body, RunChanged) and self.body.status.state.final

    @property
    def pausing(self) -> bool:
        """Whether no event follows until the client acts."""
        return isinstance(self.body, RunChanged) and self.body.status.state is RunState.REQUIRES_ACTION
