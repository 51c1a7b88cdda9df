"""Parts that several resources share: times, effort, sampling, formats, tools, content."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from assistants.domain.content import (
    Annotation,
    ContentPart,
    FileCitation,
    FilePart,
    FilePath,
    ImageFilePart,
    ImageUrlPart,
    InputAudioPart,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    UrlCitation,
)
from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.names import assistant_name
from assistants.domain.times import to_micros
from assistants.domain.tool import BuiltinTool, ClientFunction, StepToolCall, Tool
from assistants.v1 import common_pb2, content_pb2, tool_pb2
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
    Vote,
)

_EFFORTS = {
    Effort.NONE: common_pb2.EFFORT_NONE,
    Effort.MINIMAL: common_pb2.EFFORT_MINIMAL,
    Effort.LOW: common_pb2.EFFORT_LOW,
    Effort.MEDIUM: common_pb2.EFFORT_MEDIUM,
    Effort.HIGH: common_pb2.EFFORT_HIGH,
    Effort.XHIGH: common_pb2.EFFORT_XHIGH,
}
_ROLES = {Role.USER: content_pb2.ROLE_USER, Role.ASSISTANT: content_pb2.ROLE_ASSISTANT}
_MODES = {
    ToolChoiceMode.AUTO: tool_pb2.ToolChoice.MODE_AUTO,
    ToolChoiceMode.NONE: tool_pb2.ToolChoice.MODE_NONE,
    ToolChoiceMode.REQUIRED: tool_pb2.ToolChoice.MODE_REQUIRED,
}


def to_timestamp(time: datetime | None) -> Timestamp | None:
    """None stays not set."""
    if time is None:
        return None
    seconds, micros = divmod(to_micros(time), 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)


def file_name(file_id: str) -> str:
    """files/{file}."""
    return f"files/{file_id}"


def assistant_name_or_empty(assistant_id: str | None) -> str:
    """assistants/{assistant}, or not set."""
    return assistant_name(assistant_id) if assistant_id else ""


# Effort, sampling, usage, formats.


def effort_to_proto(effort: Effort | None) -> common_pb2.Effort.ValueType:
    """None is UNSPECIFIED."""
    return common_pb2.EFFORT_UNSPECIFIED if effort is None else _EFFORTS[effort]


def effort_from_proto(effort: common_pb2.Effort.ValueType) -> Effort | None:
    """UNSPECIFIED is None. Raises InvalidArgument for a value that this version does not know."""
    if effort == common_pb2.EFFORT_UNSPECIFIED:
        return None
    for known, value in _EFFORTS.items():
        if value == effort:
            return known
    raise InvalidArgument(Violation("effort", f"must be a known effort, got {effort}"))


def sampling_to_proto(sampling: Sampling) -> common_pb2.GenerationParams | None:
    """None when nothing is set."""
    if sampling == Sampling():
        return None
    return common_pb2.GenerationParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def sampling_from_proto(params: common_pb2.GenerationParams) -> Sampling:
    """What is not set is None."""
    return Sampling(
        temperature=params.temperature if params.HasField("temperature") else None,
        top_p=params.top_p if params.HasField("top_p") else None,
        seed=params.seed if params.HasField("seed") else None,
        presence_penalty=params.presence_penalty if params.HasField("presence_penalty") else None,
        frequency_penalty=params.frequency_penalty if params.HasField("frequency_penalty") else None,
    )


def usage_to_proto(usage: Usage | None) -> common_pb2.Usage | None:
    """None stays not set."""
    if usage is None:
        return None
    return common_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
    )


def votes_to_proto(votes: Sequence[Vote]) -> Sequence[common_pb2.Vote]:
    """The answers of a consensus."""
    return [common_pb2.Vote(answer=vote.answer, count=vote.count) for vote in votes]


def response_format_to_proto(format_: ResponseFormat) -> common_pb2.ResponseFormat | None:
    """Text is not set."""
    match format_:
        case TextFormat():
            return None
        case JsonObjectFormat():
            return common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
        case JsonSchemaFormat():
            schema = common_pb2.JsonSchema(
                name=format_.name,
                description=format_.description,
                schema_json=format_.schema_json,
                strict=format_.strict,
            )
            return common_pb2.ResponseFormat(json_schema=schema)
        case _:
            assert_never(format_)


def response_format_from_proto(format_: common_pb2.ResponseFormat) -> ResponseFormat:
    """Not set is text."""
    match format_.WhichOneof("format"):
        case "json_object":
            return JsonObjectFormat()
        case "json_schema":
            schema = format_.json_schema
            return JsonSchemaFormat(
                name=schema.name,
                description=schema.description,
                schema_json=schema.schema_json,
                strict=schema.strict,
            )
        case "text" | None:
            return TextFormat()
        case other:
            assert_never(other)


# Tools.


def tool_to_proto(tool: Tool) -> tool_pb2.Tool:
    """Either kind."""
    match tool:
        case ClientFunction(function=function):
            return tool_pb2.Tool(
                function=tool_pb2.FunctionTool(
                    name=function.name,
                    description=function.description,
                    parameters_json=function.parameters_json,
                    strict=function.strict,
                )
            )
        case BuiltinTool():
            return tool_pb2.Tool(builtin=tool_pb2.BuiltinTool(name=tool.name, options_json=tool.options_json))
        case _:
            assert_never(tool)


def tools_from_proto(tools: Sequence[tool_pb2.Tool]) -> tuple[Tool, ...]:
    """Raises InvalidArgument when a tool has no kind."""
    return tuple(_tool_from_proto(tool, f"tools[{index}]") for index, tool in enumerate(tools))


def _tool_from_proto(tool: tool_pb2.Tool, field: str) -> Tool:
    match tool.WhichOneof("tool"):
        case "function":
            function = tool.function
            return ClientFunction(
                function=FunctionTool(
                    name=function.name,
                    description=function.description,
                    parameters_json=function.parameters_json,
                    strict=function.strict,
                )
            )
        case "builtin":
            return BuiltinTool(name=tool.builtin.name, options_json=tool.builtin.options_json)
        case None:
            raise InvalidArgument(Violation(field, "must set one of function, builtin"))
        case other:
            assert_never(other)


def tool_choice_to_proto(choice: ToolChoice) -> tool_pb2.ToolChoice | None:
    """Auto is not set."""
    match choice:
        case ToolChoiceMode.AUTO:
            return None
        case ToolChoiceMode():
            return tool_pb2.ToolChoice(mode=_MODES[choice])
        case NamedToolChoice(name=name):
            return tool_pb2.ToolChoice(tool=name)
        case _:
            assert_never(choice)


def tool_choice_from_proto(choice: tool_pb2.ToolChoice) -> ToolChoice:
    """Not set is auto. Raises InvalidArgument for a mode that this version does not know."""
    if choice.WhichOneof("choice") == "tool":
        return NamedToolChoice(name=choice.tool)
    if choice.mode == tool_pb2.ToolChoice.MODE_UNSPECIFIED:
        return ToolChoiceMode.AUTO
    for known, value in _MODES.items():
        if value == choice.mode:
            return known
    raise InvalidArgument(Violation("tool_choice.mode", f"must be a known mode, got {choice.mode}"))


def tool_call_to_proto(call: StepToolCall) -> tool_pb2.ToolCall:
    """One call of a step."""
    return tool_pb2.ToolCall(
        id=call.id,
        name=call.name,
        arguments_json=call.arguments_json,
        output=call.output,
        builtin=call.builtin,
        idempotency_key=call.idempotency_key,
    )


# Content.


def role_to_proto(role: Role) -> content_pb2.Role.ValueType:
    """Either role."""
    return _ROLES[role]


def role_from_proto(role: content_pb2.Role.ValueType) -> Role:
    """Raises InvalidArgument for a value that this version does not know."""
    for known, value in _ROLES.items():
        if value == role:
            return known
    raise InvalidArgument(Violation("role", f"must be a known role, got {role}"))


def part_to_proto(part: ContentPart) -> content_pb2.ContentPart:
    """Any part."""
    match part:
        case TextPart():
            annotations = [_annotation_to_proto(annotation) for annotation in part.annotations]
            return content_pb2.ContentPart(text=content_pb2.Text(value=part.value, annotations=annotations))
        case ReasoningPart(text=text):
            return content_pb2.ContentPart(reasoning=content_pb2.Reasoning(text=text))
        case RefusalPart(text=text):
            return content_pb2.ContentPart(refusal=content_pb2.Refusal(text=text))
        case ImageFilePart(file_id=file_id):
            return content_pb2.ContentPart(image_file=content_pb2.ImageFile(file=file_name(file_id)))
        case ImageUrlPart(url=url):
            return content_pb2.ContentPart(image_url=content_pb2.ImageUrl(url=url))
        case InputAudioPart(format=format_):
            return content_pb2.ContentPart(input_audio=content_pb2.InputAudio(format=format_))
        case FilePart(file_id=file_id):
            return content_pb2.ContentPart(file=content_pb2.FilePart(file=file_name(file_id)))
        case _:
            assert_never(part)


def content_from_proto(content: Sequence[content_pb2.ContentPart]) -> tuple[ContentPart, ...]:
    """Raises InvalidArgument when a part has no kind."""
    return tuple(_part_from_proto(part, f"content[{index}]") for index, part in enumerate(content))


def _part_from_proto(part: content_pb2.ContentPart, field: str) -> ContentPart:
    match part.WhichOneof("part"):
        case "text":
            return TextPart(value=part.text.value)
        case "image_file":
            return ImageFilePart(file_id=part.image_file.file)
        case "image_url":
            return ImageUrlPart(url=part.image_url.url)
        case "input_audio":
            return InputAudioPart(format=part.input_audio.format)
        case "file":
            return FilePart(file_id=part.file.file)
        case "reasoning":
            return ReasoningPart(text=part.reasoning.text)
        case "refusal":
            return RefusalPart(text=part.refusal.text)
        case None:
            raise InvalidArgument(Violation(field, "must set one of text, file"))
        case other:
            assert_never(other)


def _annotation_to_proto(annotation: Annotation) -> content_pb2.Annotation:
    message = content_pb2.Annotation(
        text=annotation.text, start_index=annotation.start_index, end_index=annotation.end_index
    )
    match annotation.target:
        case UrlCitation(url=url, title=title):
            message.url_citation.MergeFrom(content_pb2.UrlCitation(url=url, title=title))
        case FileCitation(file_id=file_id):
            message.file_citation.file = file_name(file_id)
        case FilePath(file_id=file_id):
            message.file_path.file = file_name(file_id)
        case _:
            assert_never(annotation.target)
    return message
