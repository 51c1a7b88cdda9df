"""Runs: executions of assistants on threads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from assistants.domain.run_states import RunState
from assistants.domain.tool import StepToolCall, Tool
from runtime.types import (
    Effort,
    ResponseFormat,
    Sampling,
    TextFormat,
    ToolChoice,
    ToolChoiceMode,
    Usage,
)

DEFAULT_TTL_S = 600.0
DEFAULT_MAX_TURNS = 32


class RunIncompleteReason(StrEnum):
    """The limit at which a run ended."""

    MAX_OUTPUT_TOKENS = "max_output_tokens"
    MAX_INPUT_TOKENS = "max_input_tokens"
    MAX_TURNS = "max_turns"


class RunErrorCode(StrEnum):
    """The kind of a failure."""

    SERVER_ERROR = "server_error"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INVALID_PROMPT = "invalid_prompt"
    TOOL_ERROR = "tool_error"
    OUTPUT_INVALID = "output_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """Why a run failed."""

    code: RunErrorCode
    message: str


class ConcurrencyPolicy(StrEnum):
    """What happens when the thread has an active run."""

    REJECT = "reject"
    ENQUEUE = "enqueue"
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTruncation:
    """Oldest messages are left out when the thread does not fit."""

    kind: Literal["auto"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastMessages:
    """Only the newest messages are used."""

    count: int
    """At least 1."""
    kind: Literal["last_messages"] = "last_messages"


Truncation = AutoTruncation | LastMessages


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What a run does; copied from the assistant, and constant from then on."""

    model: str
    agent_name: str = ""
    """Display name of the assistant."""
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoiceMode.AUTO
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = field(default_factory=TextFormat)
    effort: Effort | None = None
    sampling: Sampling = field(default_factory=Sampling)
    consensus: int = 1
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy.REJECT
    max_turns: int = DEFAULT_MAX_TURNS
    max_input_tokens: int | None = None
    """Of the whole run."""
    max_output_tokens: int | None = None
    """Of the whole run, reasoning included."""
    truncation: Truncation = field(default_factory=AutoTruncation)
    include_reasoning: bool = False
    ttl_s: float = DEFAULT_TTL_S
    """Seconds without progress after which the run expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What changes about a run; each change is an event."""

    state: RunState
    attempt: int = 0
    """How often the run was taken up, from 1 once it is executed."""
    required_action: tuple[StepToolCall, ...] = ()
    """Calls that wait for the client; state requires_action only."""
    error: RunError | None = None
    incomplete_reason: RunIncompleteReason | None = None
    usage: Usage | None = None
    """Sum over the turns that ended, failed answers included; None until there is one."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    """When the run expires unless it makes progress; None when it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of an assistant on a thread."""

    id: str
    project_id: str
    thread_id: str
    assistant_id: str
    settings: RunSettings
    status: RunStatus
    metadata: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime
    last_sequence: int = 0
    """Sequence of the newest event."""
    traceparent: str | None = None
    """W3C trace context of the call that created the run."""
