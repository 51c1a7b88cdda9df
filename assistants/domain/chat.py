"""Chat completions: a conversation in, an answer out, nothing stored."""

from dataclasses import dataclass, field
from datetime import datetime

from assistants.domain.content import ContentPart
from assistants.domain.tool import Tool
from runtime.types import (
    ChatRole,
    Effort,
    FinishReason,
    ResponseFormat,
    Sampling,
    TextFormat,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    Usage,
    Vote,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChatMessage:
    """One entry of a conversation, as a client wrote it."""

    role: ChatRole
    content: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChatCompletion:
    """What a client asks for; None is the alias's or the model's own choice."""

    model: str
    messages: tuple[NewChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoiceMode.AUTO
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = field(default_factory=TextFormat)
    effort: Effort | None = None
    sampling: Sampling = field(default_factory=Sampling)
    consensus: int = 1
    max_output_tokens: int | None = None
    """Of one choice, reasoning included."""
    stop: tuple[str, ...] = ()
    n: int = 1
    """Choices to generate."""
    logprobs: bool = False
    top_logprobs: int | None = None
    include_reasoning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceText:
    """A piece of a content part."""

    index: int
    """Of the choice, from 0; the same in all pieces below."""
    part: int
    """Place of the part in the message, from 0."""
    text: str
    reasoning: bool = False
    """Whether the part is reasoning, and not the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceToolCall:
    """A piece of a tool call; the first has its id and name."""

    index: int
    call: int
    """Place of the call in the message, from 0."""
    id: str = ""
    name: str = ""
    arguments_json: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceLogprobs:
    """How likely the tokens were that came since the last of these."""

    index: int
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceEnd:
    """The choice is whole."""

    index: int
    finish_reason: FinishReason
    votes: tuple[Vote, ...] = ()
    closed_early: bool = False


@dataclass(frozen=True, slots=True)
class ChatEnd:
    """All choices are whole; always last."""

    usage: Usage
    """Of all choices; the prompt that they share counts once."""


ChatEvent = ChoiceText | ChoiceToolCall | ChoiceLogprobs | ChoiceEnd | ChatEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    """One answer."""

    index: int
    content: tuple[ContentPart, ...]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    votes: tuple[Vote, ...] = ()
    closed_early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion:
    """The answer to a conversation."""

    id: str
    model: str
    """Name of the model that answered."""
    create_time: datetime
    choices: tuple[ChatChoice, ...]
    """By index."""
    usage: Usage
