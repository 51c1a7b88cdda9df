"""What an engine streams while it generates one turn: a closed union."""

from dataclasses import dataclass, field

from runtime.types import FinishReason, Timings, TokenLogprob, Usage, Vote


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
class LogprobsDelta:
    """How likely the tokens of the answer were that came since the last of these; only on request."""

    tokens: tuple[TokenLogprob, ...]


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
    votes: tuple[Vote, ...] = ()
    """The answers of a consensus, most votes first; empty without one."""
    closed_early: bool = False
    """Whether a document was brought to its end because a limit was near: it is valid, but shorter
    than the model may have meant it."""


EngineEvent = (
    PromptProgress
    | ReasoningDelta
    | TextDelta
    | LogprobsDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallEnd
    | TurnEnd
)
