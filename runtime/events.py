"""What an engine streams while it generates one turn: a closed union."""

from dataclasses import dataclass, field

from runtime.types import FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """The prompt is being read."""

    tokens_read: int
    """Tokens read so far, or found in the cache."""
    tokens: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the thought."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the arguments of the newest tool call."""

    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The newest tool call is whole."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is whole; always the last event of a good stream."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings = field(default_factory=Timings)


EngineEvent = (
    PromptProgress | ReasoningDelta | TextDelta | ToolCallStart | ToolCallDelta | ToolCallEnd | TurnEnd
)
