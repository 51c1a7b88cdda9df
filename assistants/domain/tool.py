"""Tools that an assistant may call, and the calls it made."""

from dataclasses import dataclass
from typing import Literal

from runtime.types import FunctionTool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFunction:
    """A function that the client carries out."""

    function: FunctionTool
    kind: Literal["function"] = "function"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinTool:
    """A tool that the server carries out."""

    name: str
    options_json: str = ""
    """The tool's own options as a JSON object, or empty."""
    kind: Literal["builtin"] = "builtin"


Tool = ClientFunction | BuiltinTool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """The client's result of one tool call."""

    tool_call_id: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepToolCall:
    """One call in a step."""

    id: str
    name: str
    arguments_json: str
    builtin: bool = False
    """Whether the server carries it out."""
    output: str | None = None
    """None until the tool returned."""
    idempotency_key: str = ""
    """`run:step:call`, the same in all attempts that carry the call out."""
