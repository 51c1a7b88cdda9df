"""A turn as the body of `POST /v1/chat/completions`, in the form that each flavour of server takes.

Sources: OpenAI's API reference, "Create chat completion"; vLLM `ChatCompletionRequest`, SGLang
`ChatCompletionRequest`, llama.cpp `tools/server/README.md`, Ollama `docs/api/openai-compatibility.mdx`,
text-generation-inference `ChatRequest` and `GrammarType`, all of 2026.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

from runtime.engines.openai_flavour import Flavour
from runtime.reasoning.effort import thought_budget
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    TextFormat,
    ToolChoiceMode,
)

Body = dict[str, object]

_PARAGRAPH = "\n\n"
_NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}}
_ANY_OBJECT: Mapping[str, object] = {"type": "object"}
# Where an earlier thought stands in a message; vLLM has renamed it.
_REASONING_FIELDS: Mapping[Flavour, tuple[str, ...]] = {
    Flavour.OPENAI: (),
    Flavour.VLLM: ("reasoning", "reasoning_content"),
    Flavour.SGLANG: ("reasoning_content",),
    Flavour.LLAMA_SERVER: ("reasoning_content",),
    Flavour.OLLAMA: ("reasoning",),
    Flavour.TGI: (),
}
# Ollama's own scale, on which older versions insist.
_OLLAMA_EFFORTS = {Effort.MINIMAL: "low", Effort.XHIGH: "max"}


def request_body(
    request: GenerateRequest,
    *,
    flavour: Flavour,
    model_id: str,
    context_tokens: int,
    max_output_tokens: int | None,
    seed: int | None,
) -> Body:
    """Writes the body of one sample of a turn.

    Args:
        request: the turn; its consensus, limit and seed are not looked at.
        flavour: of the server.
        model_id: what the server calls the model.
        context_tokens: of the model.
        max_output_tokens: limit of this sample; None is what is left of the context.
        seed: of this sample.
    """
    body: Body = {
        "model": model_id,
        "messages": _messages(request, flavour),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_output_tokens is not None:
        body["max_completion_tokens" if flavour is Flavour.OPENAI else "max_tokens"] = max_output_tokens
    if flavour is Flavour.LLAMA_SERVER:
        body |= {"return_progress": True, "reasoning_format": "auto"}
    if offers_tools(request):
        body |= _tools(request, flavour)
    if isinstance(request.response_format, TextFormat):
        # A document ends where its schema says, so only texts are stopped.
        if request.stop:
            body["stop"] = list(request.stop)
    elif not offers_tools(request) or flavour is Flavour.OPENAI:
        body["response_format"] = _response_format(request.response_format, flavour)
    if request.effort is not None:
        body |= _effort(request.effort, flavour, max_output_tokens or context_tokens)
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return body | dict(_sampling(request, flavour, seed))


def offers_tools(request: GenerateRequest) -> bool:
    """Whether the model is told of the tools: not where it may call none."""
    return bool(request.tools) and request.tool_choice is not ToolChoiceMode.NONE


def _asks_in_words(request: GenerateRequest, flavour: Flavour) -> bool:
    """Whether the form of the answer goes into the prompt.

    OpenAI holds only answers to it; the decoding that others guide by it could not call a tool.
    """
    return (
        flavour is not Flavour.OPENAI
        and not isinstance(request.response_format, TextFormat)
        and offers_tools(request)
        and request.tool_choice is ToolChoiceMode.AUTO
    )


def _messages(request: GenerateRequest, flavour: Flavour) -> list[Body]:
    if flavour is Flavour.OPENAI:
        return [_message(message, flavour) for message in request.messages]
    # Templates know one system message, at the beginning; as the embedded engine does it.
    instructing = (ChatRole.SYSTEM, ChatRole.DEVELOPER)
    system = [message.content for message in request.messages if message.role in instructing]
    if _asks_in_words(request, flavour):
        system.append(_format_in_words(request.response_format))
    rest = [_message(message, flavour) for message in request.messages if message.role not in instructing]
    if text := _PARAGRAPH.join(filter(None, system)):
        return [{"role": "system", "content": text}, *rest]
    return rest


def _message(message: ChatMessage, flavour: Flavour) -> Body:
    written: Body = {"role": message.role.value}
    # Beside calls, servers take no content for content that is null, and text-generation-inference any
    # content for a message without calls.
    if not message.tool_calls or (message.content and flavour is not Flavour.TGI):
        written["content"] = message.content
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        written |= dict.fromkeys(_REASONING_FIELDS[flavour], message.reasoning)
    return written


def _format_in_words(response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat) -> str:
    if isinstance(response_format, JsonSchemaFormat):
        form = f"document and nothing else. It must satisfy this JSON Schema:\n{response_format.schema_json}"
    else:
        form = "object and nothing else."
    return f"If you call no tool, answer with one JSON {form}"


def _tools(request: GenerateRequest, flavour: Flavour) -> Body:
    choice: object
    tools: Sequence[FunctionTool] = request.tools
    match request.tool_choice:
        case ToolChoiceMode() as mode:
            choice = mode.value
        case NamedToolChoice(name=name):
            choice = {"type": "function", "function": {"name": name}}
            # llama-server knows modes only, and Ollama no choice at all.
            if flavour in {Flavour.LLAMA_SERVER, Flavour.OLLAMA}:
                tools, choice = [tool for tool in tools if tool.name == name], "required"
        case _:
            assert_never(request.tool_choice)
    return {
        "tools": [{"type": "function", "function": _function(tool)} for tool in tools],
        "tool_choice": choice,
        "parallel_tool_calls": request.parallel_tool_calls,
    }


def _function(tool: FunctionTool) -> Body:
    parameters = json.loads(tool.parameters_json) if tool.parameters_json else _NO_ARGUMENTS
    strict: Body = {"strict": True} if tool.strict else {}
    return {"name": tool.name, "description": tool.description, "parameters": parameters, **strict}


def _response_format(response_format: JsonObjectFormat | JsonSchemaFormat, flavour: Flavour) -> Body:
    """OpenAI's `response_format`; vLLM, SGLang, llama-server and Ollama guide the decoding by it too."""
    match response_format:
        case JsonObjectFormat():
            if flavour is Flavour.TGI:
                return {"type": "json", "value": _ANY_OBJECT}
            return {"type": "json_object"}
        case JsonSchemaFormat():
            schema: Any = json.loads(response_format.schema_json)
            if flavour is Flavour.TGI:
                return {"type": "json", "value": schema}
            described: Body = (
                {"description": response_format.description} if response_format.description else {}
            )
            return {
                "type": "json_schema",
                "json_schema": {
                    "name": response_format.name,
                    **described,
                    "schema": schema,
                    "strict": response_format.strict,
                },
            }
        case _:
            assert_never(response_format)


def _effort(effort: Effort, flavour: Flavour, room_tokens: int) -> Body:
    thinks = effort is not Effort.NONE
    match flavour:
        case Flavour.OPENAI:
            return {"reasoning_effort": effort.value}
        case Flavour.VLLM | Flavour.SGLANG:
            # The one is for models that know efforts, the other for those that think or do not.
            return {
                "reasoning_effort": effort.value,
                "chat_template_kwargs": {"enable_thinking": thinks, "thinking": thinks},
            }
        case Flavour.LLAMA_SERVER:
            budget = thought_budget(effort, room_tokens=room_tokens)
            return {
                "chat_template_kwargs": {"enable_thinking": thinks, "reasoning_effort": effort.value},
                "reasoning_budget_tokens": budget.most_tokens if budget else 0,
            }
        case Flavour.OLLAMA:
            return {"reasoning_effort": _OLLAMA_EFFORTS.get(effort, effort.value)}
        case Flavour.TGI:
            return {}
        case _:
            assert_never(flavour)


def _sampling(request: GenerateRequest, flavour: Flavour, seed: int | None) -> Iterator[tuple[str, object]]:
    sampling = request.sampling
    given = {
        "temperature": sampling.temperature,
        # All of the mass is no limit, which text-generation-inference takes for an error.
        "top_p": None if flavour is Flavour.TGI and sampling.top_p == 1 else sampling.top_p,
        "seed": seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    return ((name, value) for name, value in given.items() if value is not None)
