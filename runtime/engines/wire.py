"""Values of the runtime as messages of runtime.v1, and back."""

from collections.abc import Sequence
from typing import assert_never

from runtime.errors import EngineFault, PromptRejected
from runtime.events import (
    EngineEvent,
    LogprobsDelta,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    Embeddings,
    FinishReason,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    LikelyToken,
    ModelInfo,
    NamedToolChoice,
    Priority,
    ResponseFormat,
    Sampling,
    TextFormat,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    Usage,
    Vote,
)
from runtime.v1 import reasoning_engine_pb2 as pb

_ROLES = {
    ChatRole.SYSTEM: pb.ROLE_SYSTEM,
    ChatRole.DEVELOPER: pb.ROLE_DEVELOPER,
    ChatRole.USER: pb.ROLE_USER,
    ChatRole.ASSISTANT: pb.ROLE_ASSISTANT,
    ChatRole.TOOL: pb.ROLE_TOOL,
}
_EFFORTS = {
    Effort.NONE: pb.EFFORT_NONE,
    Effort.MINIMAL: pb.EFFORT_MINIMAL,
    Effort.LOW: pb.EFFORT_LOW,
    Effort.MEDIUM: pb.EFFORT_MEDIUM,
    Effort.HIGH: pb.EFFORT_HIGH,
    Effort.XHIGH: pb.EFFORT_XHIGH,
}
_PRIORITIES = {
    Priority.INTERACTIVE: pb.PRIORITY_INTERACTIVE,
    Priority.BATCH: pb.PRIORITY_BATCH,
}
_MODES = {
    ToolChoiceMode.AUTO: pb.ToolChoice.MODE_AUTO,
    ToolChoiceMode.NONE: pb.ToolChoice.MODE_NONE,
    ToolChoiceMode.REQUIRED: pb.ToolChoice.MODE_REQUIRED,
}
_FINISH_REASONS = {
    FinishReason.STOP: pb.End.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.End.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.End.FINISH_REASON_TOOL_CALLS,
}
_ROLES_BACK = {value: key for key, value in _ROLES.items()}
_EFFORTS_BACK = {value: key for key, value in _EFFORTS.items()}
_PRIORITIES_BACK = {value: key for key, value in _PRIORITIES.items()}
_MODES_BACK = {value: key for key, value in _MODES.items()}
_FINISH_REASONS_BACK = {value: key for key, value in _FINISH_REASONS.items()}

_MOST_STOPS = 4
_MOST_LOGPROBS = 20


def request_to_proto(request: GenerateRequest) -> pb.GenerateRequest:
    """Writes a request. Lone surrogates, which no wire carries, become question marks."""
    return pb.GenerateRequest(
        messages=[message_to_proto(message) for message in request.messages],
        tools=[
            pb.FunctionTool(
                name=tool.name,
                description=_encodable(tool.description),
                parameters_json=_encodable(tool.parameters_json),
                strict=tool.strict,
            )
            for tool in request.tools
        ],
        tool_choice=_tool_choice_to_proto(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format_to_proto(request.response_format),
        effort=pb.EFFORT_UNSPECIFIED if request.effort is None else _EFFORTS[request.effort],
        consensus=request.consensus,
        sampling=pb.Sampling(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=request.sampling.seed,
            presence_penalty=request.sampling.presence_penalty,
            frequency_penalty=request.sampling.frequency_penalty,
        ),
        max_output_tokens=request.max_output_tokens,
        stop=[_encodable(stop) for stop in request.stop],
        priority=_PRIORITIES[request.priority],
        top_logprobs=request.top_logprobs,
    )


def request_from_proto(request: pb.GenerateRequest) -> GenerateRequest:
    """Reads a request.

    Raises:
        PromptRejected: a field has a value that makes no sense.
    """
    if not request.messages:
        raise PromptRejected("messages must not be empty.")
    if request.HasField("max_output_tokens") and request.max_output_tokens < 1:
        raise PromptRejected("max_output_tokens must be at least 1.")
    if request.consensus < 0:
        raise PromptRejected("consensus must be at least 1.")
    if len(request.stop) > _MOST_STOPS or "" in request.stop:
        raise PromptRejected(f"stop takes at most {_MOST_STOPS} texts that are not empty.")
    top_logprobs = request.top_logprobs if request.HasField("top_logprobs") else None
    if top_logprobs is not None and not 0 <= top_logprobs <= _MOST_LOGPROBS:
        raise PromptRejected(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}, got {top_logprobs}.")
    return GenerateRequest(
        messages=tuple(message_from_proto(message) for message in request.messages),
        tools=tuple(
            FunctionTool(
                name=tool.name,
                description=tool.description,
                parameters_json=tool.parameters_json,
                strict=tool.strict,
            )
            for tool in request.tools
        ),
        tool_choice=_tool_choice_from_proto(request.tool_choice),
        parallel_tool_calls=not request.HasField("parallel_tool_calls") or request.parallel_tool_calls,
        response_format=_response_format_from_proto(request.response_format),
        effort=_EFFORTS_BACK.get(request.effort),
        consensus=request.consensus or 1,
        sampling=_sampling_from_proto(request.sampling),
        max_output_tokens=request.max_output_tokens if request.HasField("max_output_tokens") else None,
        stop=tuple(request.stop),
        priority=_PRIORITIES_BACK.get(request.priority, Priority.INTERACTIVE),
        top_logprobs=top_logprobs,
    )


def message_to_proto(message: ChatMessage) -> pb.ChatMessage:
    """Writes a message. Lone surrogates become question marks."""
    return pb.ChatMessage(
        role=_ROLES[message.role],
        content=_encodable(message.content),
        tool_calls=[
            pb.ToolCall(id=call.id, name=call.name, arguments_json=_encodable(call.arguments_json))
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id or "",
        reasoning=_encodable(message.reasoning),
    )


def message_from_proto(message: pb.ChatMessage) -> ChatMessage:
    """Reads a message.

    Raises:
        PromptRejected: it has no role.
    """
    role = _ROLES_BACK.get(message.role)
    if role is None:
        raise PromptRejected("A message has no role.")
    return ChatMessage(
        role=role,
        content=message.content,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id or None,
        reasoning=message.reasoning,
    )


def event_to_proto(event: EngineEvent) -> pb.GenerateEvent:
    """Writes an event."""
    match event:
        case TextDelta(text=text):
            return pb.GenerateEvent(text=text)
        case ReasoningDelta(text=text):
            return pb.GenerateEvent(reasoning=text)
        case LogprobsDelta(tokens=tokens):
            return pb.GenerateEvent(
                logprobs=pb.Logprobs(tokens=[_token_logprob_to_proto(token) for token in tokens])
            )
        case ToolCallDelta(arguments_json=arguments_json):
            return pb.GenerateEvent(arguments_json=arguments_json)
        case ToolCallStart(id=call_id, name=name):
            return pb.GenerateEvent(tool_call_start=pb.ToolCallStart(id=call_id, name=name))
        case ToolCallEnd():
            return pb.GenerateEvent(tool_call_end=pb.ToolCallEnd())
        case PromptProgress(tokens_read=tokens_read, tokens=tokens):
            return pb.GenerateEvent(prompt_progress=pb.PromptProgress(tokens_read=tokens_read, tokens=tokens))
        case TurnEnd():
            return pb.GenerateEvent(end=_end_to_proto(event))
        case _:
            assert_never(event)


def event_from_proto(event: pb.GenerateEvent) -> EngineEvent | None:
    """Reads an event; None is one that a newer worker knows and we do not.

    Raises:
        EngineFault: the end gives no reason.
    """
    match event.WhichOneof("event"):
        case "text":
            return TextDelta(event.text)
        case "reasoning":
            return ReasoningDelta(event.reasoning)
        case "logprobs":
            return LogprobsDelta(tuple(_token_logprob_from_proto(token) for token in event.logprobs.tokens))
        case "arguments_json":
            return ToolCallDelta(event.arguments_json)
        case "tool_call_start":
            return ToolCallStart(event.tool_call_start.id, event.tool_call_start.name)
        case "tool_call_end":
            return ToolCallEnd()
        case "prompt_progress":
            return PromptProgress(event.prompt_progress.tokens_read, event.prompt_progress.tokens)
        case "end":
            return _end_from_proto(event.end)
        case None:
            return None
        case unknown:
            assert_never(unknown)


def model_to_proto(model: ModelInfo) -> pb.Model:
    """Writes a model."""
    return pb.Model(
        name=model.name,
        provider=model.provider,
        context_tokens=model.context_tokens,
        slots=model.slots,
        native_reasoning=model.native_reasoning,
        embeddings=model.embeddings,
        logprobs=model.logprobs,
    )


def model_from_proto(model: pb.Model) -> ModelInfo:
    """Reads a model."""
    return ModelInfo(
        name=model.name,
        provider=model.provider,
        context_tokens=model.context_tokens,
        slots=model.slots,
        native_reasoning=model.native_reasoning,
        embeddings=model.embeddings,
        logprobs=model.logprobs,
    )


def embeddings_to_proto(embeddings: Embeddings) -> pb.EmbedResponse:
    """Writes embeddings."""
    return pb.EmbedResponse(
        embeddings=[pb.EmbedResponse.Embedding(values=vector) for vector in embeddings.vectors],
        input_tokens=embeddings.input_tokens,
    )


def embeddings_from_proto(response: pb.EmbedResponse) -> Embeddings:
    """Reads embeddings."""
    return Embeddings(
        vectors=tuple(tuple(embedding.values) for embedding in response.embeddings),
        input_tokens=response.input_tokens,
    )


def embed_request_to_proto(texts: Sequence[str]) -> pb.EmbedRequest:
    """Writes texts to embed. Lone surrogates become question marks."""
    return pb.EmbedRequest(texts=[_encodable(text) for text in texts])


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _tool_choice_to_proto(choice: ToolChoice) -> pb.ToolChoice:
    match choice:
        case NamedToolChoice(name=name):
            return pb.ToolChoice(tool=name)
        case ToolChoiceMode():
            return pb.ToolChoice(mode=_MODES[choice])
        case _:
            assert_never(choice)


def _tool_choice_from_proto(choice: pb.ToolChoice) -> ToolChoice:
    if choice.WhichOneof("choice") == "tool":
        return NamedToolChoice(name=choice.tool)
    return _MODES_BACK.get(choice.mode, ToolChoiceMode.AUTO)


def _response_format_to_proto(response_format: ResponseFormat) -> pb.ResponseFormat | None:
    match response_format:
        case TextFormat():
            return None
        case JsonObjectFormat():
            return pb.ResponseFormat(json_object=pb.ResponseFormat.JsonObject())
        case JsonSchemaFormat():
            return pb.ResponseFormat(
                json_schema=pb.ResponseFormat.JsonSchema(
                    name=response_format.name,
                    description=_encodable(response_format.description),
                    schema_json=_encodable(response_format.schema_json),
                    strict=response_format.strict,
                )
            )
        case _:
            assert_never(response_format)


def _response_format_from_proto(response_format: pb.ResponseFormat) -> ResponseFormat:
    match response_format.WhichOneof("format"):
        case None:
            return TextFormat()
        case "json_object":
            return JsonObjectFormat()
        case "json_schema":
            schema = response_format.json_schema
            return JsonSchemaFormat(
                name=schema.name,
                description=schema.description,
                schema_json=schema.schema_json,
                strict=schema.strict,
            )
        case unknown:
            assert_never(unknown)


def _sampling_from_proto(sampling: pb.Sampling) -> Sampling:
    return Sampling(
        temperature=sampling.temperature if sampling.HasField("temperature") else None,
        top_p=sampling.top_p if sampling.HasField("top_p") else None,
        seed=sampling.seed if sampling.HasField("seed") else None,
        presence_penalty=sampling.presence_penalty if sampling.HasField("presence_penalty") else None,
        frequency_penalty=sampling.frequency_penalty if sampling.HasField("frequency_penalty") else None,
    )


def usage_to_proto(usage: Usage) -> pb.Usage:
    """Writes counts of tokens."""
    return pb.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
    )


def usage_from_proto(usage: pb.Usage) -> Usage:
    """Reads counts of tokens."""
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
    )


def _token_logprob_to_proto(token: TokenLogprob) -> pb.Logprobs.TokenLogprob:
    return pb.Logprobs.TokenLogprob(
        chosen=_likely_to_proto(
            LikelyToken(token=token.token, logprob=token.logprob, token_bytes=token.token_bytes)
        ),
        top=[_likely_to_proto(likely) for likely in token.top],
    )


def _token_logprob_from_proto(token: pb.Logprobs.TokenLogprob) -> TokenLogprob:
    chosen = _likely_from_proto(token.chosen)
    return TokenLogprob(
        token=chosen.token,
        logprob=chosen.logprob,
        token_bytes=chosen.token_bytes,
        top=tuple(_likely_from_proto(likely) for likely in token.top),
    )


def _likely_to_proto(likely: LikelyToken) -> pb.Logprobs.LikelyToken:
    return pb.Logprobs.LikelyToken(
        token=_encodable(likely.token), logprob=likely.logprob, token_bytes=likely.token_bytes
    )


def _likely_from_proto(likely: pb.Logprobs.LikelyToken) -> LikelyToken:
    return LikelyToken(token=likely.token, logprob=likely.logprob, token_bytes=likely.token_bytes)


def _end_to_proto(end: TurnEnd) -> pb.End:
    return pb.End(
        finish_reason=_FINISH_REASONS[end.finish_reason],
        usage=usage_to_proto(end.usage),
        timings=pb.Timings(
            queue_s=end.timings.queue_s,
            prepare_s=end.timings.prepare_s,
            prompt_s=end.timings.prompt_s,
            generate_s=end.timings.generate_s,
        ),
        votes=[pb.Vote(answer=_encodable(vote.answer), count=vote.count) for vote in end.votes],
        closed_early=end.closed_early,
    )


def _end_from_proto(end: pb.End) -> TurnEnd:
    finish_reason = _FINISH_REASONS_BACK.get(end.finish_reason)
    if finish_reason is None:
        raise EngineFault("The worker ended a turn without a reason.")
    return TurnEnd(
        finish_reason,
        usage_from_proto(end.usage),
        Timings(
            queue_s=end.timings.queue_s,
            prepare_s=end.timings.prepare_s,
            prompt_s=end.timings.prompt_s,
            generate_s=end.timings.generate_s,
        ),
        votes=tuple(Vote(answer=vote.answer, count=vote.count) for vote in end.votes),
        closed_early=end.closed_early,
    )
