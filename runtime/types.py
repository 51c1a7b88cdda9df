"""Values at chat level: what goes into an engine, and what describes it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class ChatRole(StrEnum):
    """Who speaks in a prompt."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Effort(StrEnum):
    """How much a model reasons before it answers."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


class Priority(StrEnum):
    """Which requests get a slot first: somebody waits for an interactive one."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class FinishReason(StrEnum):
    """Why a generation stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model's request to carry out a tool."""

    id: str
    name: str
    arguments_json: str
    """A JSON object, valid against the tool's schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One entry of a prompt."""

    role: ChatRole
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that the model made; role assistant only."""
    tool_call_id: str | None = None
    """Call that the content is the result of; role tool only."""
    reasoning: str = ""
    """What the model thought earlier in this run; role assistant only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A function that the model may call."""

    name: str
    """^[A-Za-z0-9_-]{1,64}$."""
    description: str = ""
    parameters_json: str = ""
    """JSON Schema of the arguments as JSON text; empty means no arguments."""
    strict: bool = False


class ToolChoiceMode(StrEnum):
    """How free the model is to call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedToolChoice:
    """The one tool that is called."""

    name: str


ToolChoice = ToolChoiceMode | NamedToolChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """Plain text."""

    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonObjectFormat:
    """Any JSON object."""

    type: Literal["json_object"] = "json_object"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchemaFormat:
    """A document that satisfies a JSON Schema."""

    name: str
    """^[A-Za-z0-9_-]{1,64}$."""
    schema_json: str
    """The schema as JSON text: property order is kept."""
    description: str = ""
    strict: bool = False
    type: Literal["json_schema"] = "json_schema"


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters; None is the model's own choice."""

    temperature: float | None = None
    """0 to 2; 0 takes the likeliest token."""
    top_p: float | None = None
    """Above 0 up to 1."""
    seed: int | None = None
    """0 to 4294967294."""
    presence_penalty: float | None = None
    """-2 to 2."""
    frequency_penalty: float | None = None
    """-2 to 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyToken:
    """A token that could have come."""

    token: str
    logprob: float
    """Natural logarithm, before any grammar."""
    token_bytes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The token that came, and the likeliest in its place."""

    token: str
    logprob: float
    token_bytes: bytes
    top: tuple[LikelyToken, ...] = ()
    """Likeliest first; as many as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One answer of a consensus."""

    answer: str
    """In the form in which answers were compared."""
    count: int
    """Samples that gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens counted by the engine. Sums with `+`."""

    input_tokens: int = 0
    """Includes cached tokens."""
    output_tokens: int = 0
    """Includes reasoning tokens."""
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            reasoning_output_tokens=self.reasoning_output_tokens + other.reasoning_output_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a generation went, in seconds. Sums with `+`."""

    queue_s: float = 0.0
    """Waiting for a slot."""
    prepare_s: float = 0.0
    """Rendering, tokenising and compiling."""
    prompt_s: float = 0.0
    """Reading the prompt."""
    generate_s: float = 0.0

    def __add__(self, other: "Timings") -> "Timings":
        return Timings(
            queue_s=self.queue_s + other.queue_s,
            prepare_s=self.prepare_s + other.prepare_s,
            prompt_s=self.prompt_s + other.prompt_s,
            generate_s=self.generate_s + other.generate_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One turn to generate."""

    messages: tuple[ChatMessage, ...]
    """Oldest first, never empty."""
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = ToolChoiceMode.AUTO
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = field(default_factory=TextFormat)
    effort: Effort | None = None
    consensus: int = 1
    """Samples of which the majority wins."""
    sampling: Sampling = field(default_factory=Sampling)
    max_output_tokens: int | None = None
    """At least 1, reasoning included; None is what is left of the context."""
    stop: tuple[str, ...] = ()
    """Texts before which a text answer ends; reasoning and calls are not searched."""
    top_logprobs: int | None = None
    """0 to 20 likeliest tokens a token of the answer; None is no logprobs at all."""
    priority: Priority = Priority.INTERACTIVE
    affinity: str = ""
    """Requests of one thread have the same key: they find their prefix cached. It stays off the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model behind an engine."""

    name: str
    provider: str
    """Engine kind: "llama_cpp", "scripted", or the flavour of another server, such as "vllm"."""
    context_tokens: int
    """Most tokens of prompt and answer together, in one slot."""
    slots: int
    """Generations that run at the same time."""
    native_reasoning: bool = False
    embeddings: bool = False
    logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector a text."""

    vectors: tuple[tuple[float, ...], ...]
    input_tokens: int
