"""What objects of OpenAI's Assistants API are here.

What does not fit is refused by InvalidArgument or FeatureUnavailable, with its line.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from assistants.domain.content import (
    Annotation,
    ContentPart,
    FileCitation,
    FilePath,
    ImageFilePart,
    ImageUrlPart,
    RefusalPart,
    Role,
    TextPart,
)
from assistants.domain.errors import FeatureUnavailable
from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.run import (
    AutoTruncation,
    LastMessages,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunSettings,
    RunStatus,
)
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls
from assistants.domain.thread import Thread
from assistants.domain.tool import BuiltinTool, ClientFunction, StepToolCall, Tool
from assistants.operations import openai_objects as objects
from assistants.operations.thread_lines import Line, refused
from runtime.types import (
    Effort,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    ResponseFormat,
    Sampling,
    TextFormat,
    ToolChoice,
    ToolChoiceMode,
    Usage,
)

V = TypeVar("V")

_REASONS = {
    "max_tokens": MessageIncompleteReason.MAX_OUTPUT_TOKENS,
    "run_cancelled": MessageIncompleteReason.RUN_CANCELLED,
    "run_expired": MessageIncompleteReason.RUN_EXPIRED,
    "run_failed": MessageIncompleteReason.RUN_FAILED,
}
_RUN_REASONS = {
    "max_completion_tokens": RunIncompleteReason.MAX_OUTPUT_TOKENS,
    "max_prompt_tokens": RunIncompleteReason.MAX_INPUT_TOKENS,
}


def to_thread(given: objects.OpenAIThread, line: Line, project_id: str) -> Thread:
    """The thread. Raises FeatureUnavailable for files."""
    resources = given.tool_resources or {}
    if any(any(files.values()) for files in resources.values()):
        raise FeatureUnavailable(f"line {line.number}: tool_resources", "a file of a thread")
    time = _time(given.created_at)
    return Thread(
        id=given.id,
        project_id=project_id,
        metadata=given.metadata or {},
        create_time=time,
        update_time=time,
    )


def to_message(given: objects.OpenAIMessage, line: Line, project_id: str) -> Message:
    """The message, without its position. Raises FeatureUnavailable for files."""
    if given.attachments:
        raise FeatureUnavailable(f"line {line.number}: attachments[0]", "a file with a message")
    reason = None
    if given.incomplete_details is not None:
        reason = _known(line, "incomplete_details.reason", given.incomplete_details.reason, _REASONS)
    ended = given.completed_at or given.incomplete_at
    return Message(
        id=given.id,
        project_id=project_id,
        thread_id=given.thread_id,
        role=Role(given.role),
        content=tuple(_part(line, f"content[{index}]", part) for index, part in enumerate(given.content)),
        state=MessageState(given.status),
        incomplete_reason=reason,
        assistant_id=given.assistant_id,
        run_id=given.run_id,
        metadata=given.metadata or {},
        create_time=_time(given.created_at),
        end_time=_time(max(ended or 0, given.created_at)),
    )


def to_run(given: objects.OpenAIRun, line: Line, project_id: str) -> Run:
    """The run, which has ended. Raises InvalidArgument."""
    state = _known(line, "status", given.status, {state.value: state for state in RunState if state.final})
    times = (given.completed_at, given.failed_at, given.cancelled_at, given.expires_at)
    ended = max(next(filter(None, times), 0), given.started_at or 0, given.created_at)
    reason = None
    if given.incomplete_details is not None:
        reason = _known(line, "incomplete_details.reason", given.incomplete_details.reason, _RUN_REASONS)
    return Run(
        id=given.id,
        project_id=project_id,
        thread_id=given.thread_id,
        assistant_id=given.assistant_id,
        settings=_settings(given, line),
        status=RunStatus(
            state=state,
            attempt=1,
            error=_error(given.last_error),
            incomplete_reason=reason,
            usage=_usage(given.usage),
            start_time=None if given.started_at is None else _time(given.started_at),
            end_time=_time(ended),
        ),
        metadata=given.metadata or {},
        create_time=_time(given.created_at),
    )


def _settings(given: objects.OpenAIRun, line: Line) -> RunSettings:
    efforts = {effort.value: effort for effort in Effort}
    truncation = given.truncation_strategy
    effort = given.reasoning_effort
    return RunSettings(
        model=given.model,
        instructions=given.instructions or "",
        tools=tuple(_tool(tool) for tool in given.tools),
        tool_choice=_choice(given.tool_choice),
        parallel_tool_calls=given.parallel_tool_calls is not False,
        response_format=_format(line, given.response_format),
        effort=None if effort is None else _known(line, "reasoning_effort", effort, efforts),
        sampling=Sampling(temperature=given.temperature, top_p=given.top_p),
        max_input_tokens=given.max_prompt_tokens,
        max_output_tokens=given.max_completion_tokens,
        truncation=(
            LastMessages(count=truncation.last_messages)
            if truncation is not None and truncation.last_messages
            else AutoTruncation()
        ),
    )


def to_step(given: objects.OpenAIStep, line: Line, project_id: str) -> RunStep:
    """The step; its index is not known yet. Raises InvalidArgument."""
    details: MessageCreation | ToolCalls
    if given.step_details.type == "tool_calls":
        details = ToolCalls(calls=tuple(_call(call) for call in given.step_details.tool_calls))
    elif given.step_details.message_creation is not None:
        details = MessageCreation(message_id=given.step_details.message_creation.message_id)
    else:
        raise refused(line, "step_details.message_creation", "is required")
    ended = given.completed_at or given.failed_at or given.cancelled_at or given.expired_at
    return RunStep(
        id=given.id,
        project_id=project_id,
        thread_id=given.thread_id,
        run_id=given.run_id,
        index=0,
        state=StepState(given.status),
        details=details,
        usage=_usage(given.usage),
        error=_error(given.last_error),
        attempt=1,
        create_time=_time(given.created_at),
        end_time=_time(max(ended or 0, given.created_at)),
    )


def _known(line: Line, field: str, value: str, known: Mapping[str, V]) -> V:
    if value not in known:
        raise refused(line, field, f"must be one of {', '.join(known)}, got {value!r}")
    return known[value]


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _error(failure: objects.Failure | None) -> RunError | None:
    if failure is None:
        return None
    return RunError(code=RunErrorCode(failure.code), message=failure.message)


def _usage(usage: objects.Usage | None) -> Usage | None:
    if usage is None:
        return None
    return Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)


def _part(line: Line, field: str, part: objects.ContentPart) -> ContentPart:
    match part:
        case objects.ContentPart(type="text", text=objects.Text() as text):
            return TextPart(value=text.value, annotations=tuple(map(_annotation, text.annotations)))
        case objects.ContentPart(type="image_file", image_file=objects.File(file_id=file_id)):
            return ImageFilePart(file_id=file_id)
        case objects.ContentPart(type="image_url", image_url=objects.Url(url=url)):
            return ImageUrlPart(url=url)
        case objects.ContentPart(type="refusal", refusal=str() as text):
            return RefusalPart(text=text)
        case _:
            raise refused(line, f"{field}.{part.type}", "is required")


def _annotation(annotation: objects.Annotation) -> Annotation:
    file = annotation.file_citation or annotation.file_path
    file_id = file.file_id if file else ""
    cited = annotation.type == "file_citation"
    return Annotation(
        text=annotation.text,
        start_index=annotation.start_index,
        end_index=annotation.end_index,
        target=FileCitation(file_id=file_id) if cited else FilePath(file_id=file_id),
    )


def _tool(tool: objects.Tool) -> Tool:
    if tool.function is None:
        return BuiltinTool(name=tool.type)
    function = tool.function
    return ClientFunction(
        function=FunctionTool(
            name=function.name,
            description=function.description or "",
            parameters_json="" if function.parameters is None else json.dumps(function.parameters),
            strict=bool(function.strict),
        )
    )


def _choice(choice: objects.Choice | str | None) -> ToolChoice:
    match choice:
        case objects.Choice(function=objects.NamedFunction(name=name)):
            return NamedToolChoice(name=name)
        case objects.Choice(type=name):
            return NamedToolChoice(name=name)
        case str():
            return ToolChoiceMode(choice)
        case None:
            return ToolChoiceMode.AUTO


def _format(line: Line, format_: objects.Format | str | None) -> ResponseFormat:
    if not isinstance(format_, objects.Format) or format_.type == "text":
        return TextFormat()
    if format_.type == "json_object":
        return JsonObjectFormat()
    schema = format_.json_schema or {}
    name = schema.get("name")
    if not isinstance(name, str):
        raise refused(line, "response_format.json_schema.name", "is required")
    return JsonSchemaFormat(
        name=name,
        description=str(schema.get("description") or ""),
        schema_json=json.dumps(schema.get("schema") or {}),
        strict=bool(schema.get("strict")),
    )


def _call(call: objects.Call) -> StepToolCall:
    if call.function is not None:
        return StepToolCall(
            id=call.id,
            name=call.function.name,
            arguments_json=call.function.arguments,
            output=call.function.output,
        )
    details = call.code_interpreter or call.file_search or {}
    return StepToolCall(
        id=call.id,
        name=call.type,
        arguments_json=json.dumps({"input": details["input"]} if "input" in details else {}),
        builtin=True,
        output=json.dumps(details),
    )
