"""Objects of OpenAI's Assistants API, version 2, as far as they mean something here.

Format: https://github.com/openai/openai-openapi, openapi.yaml. Fields that are not
named here are passed over: OpenAI adds some now and then.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[int, Field(ge=0, le=2**32)]
"""Unix time."""
Tokens = Annotated[int, Field(ge=0, le=2**53)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Part(BaseModel):
    """Of an object."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class OpenAIObject(Part):
    """One of the four objects."""

    id: str
    created_at: Seconds


class Reason(Part):
    """Why something was cut short."""

    reason: str


class Failure(Part):
    """Why something failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class Usage(Part):
    """Tokens."""

    prompt_tokens: Tokens
    completion_tokens: Tokens


class File(Part):
    """A file."""

    file_id: str


class Annotation(Part):
    """A mark on a text."""

    type: Literal["file_citation", "file_path"]
    text: str
    start_index: Count
    end_index: Count
    file_citation: File | None = None
    file_path: File | None = None


class Text(Part):
    """A text, in a message."""

    value: str
    annotations: list[Annotation] = []


class Url(Part):
    """A place."""

    url: str


class ContentPart(Part):
    """A part of a message."""

    type: Literal["text", "image_file", "image_url", "refusal"]
    text: Text | None = None
    image_file: File | None = None
    image_url: Url | None = None
    refusal: str | None = None


class OpenAIThread(OpenAIObject):
    """object: thread."""

    metadata: dict[str, str] | None = None
    tool_resources: dict[str, dict[str, Any]] | None = None


class OpenAIMessage(OpenAIObject):
    """object: thread.message."""

    thread_id: str
    role: Literal["user", "assistant"]
    content: list[ContentPart]
    status: Literal["in_progress", "incomplete", "completed"] = "completed"
    incomplete_details: Reason | None = None
    completed_at: Seconds | None = None
    incomplete_at: Seconds | None = None
    assistant_id: str | None = None
    run_id: str | None = None
    attachments: list[Any] | None = None
    metadata: dict[str, str] | None = None


class Function(Part):
    """A function of the client."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool of a run."""

    type: str
    function: Function | None = None


class NamedFunction(Part):
    """The function that is chosen."""

    name: str


class Choice(Part):
    """The tool that is chosen."""

    type: str
    function: NamedFunction | None = None


class Format(Part):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class Truncation(Part):
    """How the thread is cut."""

    type: Literal["auto", "last_messages"]
    last_messages: Count | None = None


class OpenAIRun(OpenAIObject):
    """object: thread.run."""

    thread_id: str
    assistant_id: str
    status: str
    started_at: Seconds | None = None
    cancelled_at: Seconds | None = None
    failed_at: Seconds | None = None
    completed_at: Seconds | None = None
    expires_at: Seconds | None = None
    last_error: Failure | None = None
    incomplete_details: Reason | None = None
    model: str
    instructions: str | None = None
    tools: list[Tool] = []
    tool_choice: Choice | Literal["none", "auto", "required"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | Literal["auto"] | None = None
    reasoning_effort: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_prompt_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    truncation_strategy: Truncation | None = None
    usage: Usage | None = None
    metadata: dict[str, str] | None = None


class StepFunction(Part):
    """A call of a function."""

    name: str
    arguments: str
    output: str | None = None


class Call(Part):
    """A call in a step."""

    id: str
    type: str
    function: StepFunction | None = None
    code_interpreter: dict[str, Any] | None = None
    file_search: dict[str, Any] | None = None


class StepMessage(Part):
    """The message of a step."""

    message_id: str


class Details(Part):
    """What a step did."""

    type: Literal["message_creation", "tool_calls"]
    message_creation: StepMessage | None = None
    tool_calls: list[Call] = []


class OpenAIStep(OpenAIObject):
    """object: thread.run.step."""

    thread_id: str
    run_id: str
    status: Literal["in_progress", "cancelled", "failed", "completed", "expired"]
    step_details: Details
    last_error: Failure | None = None
    expired_at: Seconds | None = None
    cancelled_at: Seconds | None = None
    failed_at: Seconds | None = None
    completed_at: Seconds | None = None
    usage: Usage | None = None
