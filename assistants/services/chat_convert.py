"""Chat completions as protobuf messages."""

from collections.abc import Iterable
from typing import assert_never

from assistants.domain.chat import (
    ChatChoice,
    ChatCompletion,
    ChatEnd,
    ChatEvent,
    ChoiceEnd,
    ChoiceLogprobs,
    ChoiceText,
    ChoiceToolCall,
    NewChatCompletion,
    NewChatMessage,
)
from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.names import model_name
from assistants.operations.chat_pieces import ChatStream
from assistants.services.convert import (
    content_from_proto,
    effort_from_proto,
    part_to_proto,
    response_format_from_proto,
    sampling_from_proto,
    to_timestamp,
    tool_choice_from_proto,
    tools_from_proto,
    usage_to_proto,
    votes_to_proto,
)
from assistants.services.requests import within
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import run_event_pb2, tool_pb2
from runtime.types import ChatRole, FinishReason, TokenLogprob, ToolCall

_ROLES = {
    pb.ChatMessage.ROLE_SYSTEM: ChatRole.SYSTEM,
    pb.ChatMessage.ROLE_DEVELOPER: ChatRole.DEVELOPER,
    pb.ChatMessage.ROLE_USER: ChatRole.USER,
    pb.ChatMessage.ROLE_ASSISTANT: ChatRole.ASSISTANT,
    pb.ChatMessage.ROLE_TOOL: ChatRole.TOOL,
}
_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}


def new_completion_from_proto(request: pb.CreateChatCompletionRequest) -> NewChatCompletion:
    """What a client asks for. Raises InvalidArgument for what this version does not know."""
    return NewChatCompletion(
        model=request.model.removeprefix("models/"),
        messages=tuple(
            _message_from_proto(message, f"messages[{index}]")
            for index, message in enumerate(request.messages)
        ),
        tools=tools_from_proto(request.tools),
        tool_choice=tool_choice_from_proto(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls if request.HasField("parallel_tool_calls") else True,
        response_format=response_format_from_proto(request.response_format),
        effort=effort_from_proto(request.effort),
        sampling=sampling_from_proto(request.generation_params),
        consensus=request.consensus or 1,
        max_output_tokens=request.max_output_tokens if request.HasField("max_output_tokens") else None,
        stop=tuple(request.stop),
        n=request.n or 1,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        include_reasoning=request.include_reasoning,
    )


def completion_to_proto(completion: ChatCompletion) -> pb.ChatCompletion:
    """The whole answer."""
    return pb.ChatCompletion(
        id=completion.id,
        model=model_name(completion.model),
        create_time=to_timestamp(completion.create_time),
        choices=[_choice_to_proto(choice) for choice in completion.choices],
        usage=usage_to_proto(completion.usage),
    )


class ChunkWriter:
    """Makes the chunks of one stream."""

    def __init__(self, stream: ChatStream) -> None:
        self._id = stream.id
        self._model = model_name(stream.model)
        self._create_time = to_timestamp(stream.create_time)

    def to_proto(self, event: ChatEvent) -> pb.ChatCompletionChunk:
        """One chunk an event."""
        return pb.ChatCompletionChunk(
            id=self._id,
            model=self._model,
            create_time=self._create_time,
            choices=() if isinstance(event, ChatEnd) else (_delta_to_proto(event),),
            usage=usage_to_proto(event.usage) if isinstance(event, ChatEnd) else None,
        )


def _delta_to_proto(event: ChoiceText | ChoiceToolCall | ChoiceLogprobs | ChoiceEnd) -> pb.ChoiceDelta:
    match event:
        case ChoiceText(part=part, text=text, reasoning=reasoning):
            piece = (
                run_event_pb2.ContentDelta(index=part, reasoning=text)
                if reasoning
                else run_event_pb2.ContentDelta(index=part, text=text)
            )
            return pb.ChoiceDelta(index=event.index, content=[piece])
        case ChoiceToolCall():
            call = run_event_pb2.ToolCallDelta(
                index=event.call, id=event.id, name=event.name, arguments_json=event.arguments_json
            )
            return pb.ChoiceDelta(index=event.index, tool_calls=[call])
        case ChoiceLogprobs(tokens=tokens):
            return pb.ChoiceDelta(index=event.index, logprobs=_logprobs_to_proto(tokens))
        case ChoiceEnd():
            return pb.ChoiceDelta(
                index=event.index,
                finish_reason=_FINISH_REASONS[event.finish_reason],
                votes=votes_to_proto(event.votes),
                closed_early=event.closed_early,
            )
        case _:
            assert_never(event)


def _message_from_proto(message: pb.ChatMessage, path: str) -> NewChatMessage:
    with within(path):
        if message.role not in _ROLES:
            raise InvalidArgument(Violation("role", f"must be a known role, got {message.role}"))
        return NewChatMessage(
            role=_ROLES[message.role],
            content=content_from_proto(message.content),
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
                for call in message.tool_calls
            ),
            tool_call_id=message.tool_call_id,
        )


def _choice_to_proto(choice: ChatChoice) -> pb.Choice:
    return pb.Choice(
        index=choice.index,
        message=pb.ChatMessage(
            role=pb.ChatMessage.ROLE_ASSISTANT,
            content=[part_to_proto(part) for part in choice.content],
            tool_calls=[
                tool_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
                for call in choice.tool_calls
            ],
        ),
        finish_reason=_FINISH_REASONS[choice.finish_reason],
        logprobs=_logprobs_to_proto(choice.logprobs),
        votes=votes_to_proto(choice.votes),
        closed_early=choice.closed_early,
    )


def _logprobs_to_proto(tokens: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(
            token=token.token,
            logprob=token.logprob,
            token_bytes=token.token_bytes,
            top=[
                pb.LikelyToken(token=likely.token, logprob=likely.logprob, token_bytes=likely.token_bytes)
                for likely in token.top
            ],
        )
        for token in tokens
    ]
