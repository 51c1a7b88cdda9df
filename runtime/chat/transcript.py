"""Conversations in a form that any template carries: system, user and assistant, text only.

Tools are described in the system text, calls are text of the assistant in the
form of Hermes (https://github.com/NousResearch/Hermes-Function-Calling), results
are turns of the user. All of it is content: no special token counts in it. The
same request gives the same text, and a longer conversation begins with the
shorter one, so what was cached stays usable.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import assert_never

from runtime.types import (
    ChatMessage,
    ChatRole,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    TextFormat,
    ToolCall,
)

CALL_OPEN = "<tool_call>\n"
CALL_CLOSE = "\n</tool_call>"
THOUGHT_OPEN = "<think>\n"
THOUGHT_CLOSE = "\n</think>\n\n"


def transcribe(
    messages: Sequence[ChatMessage],
    *,
    tools: Sequence[FunctionTool] = (),
    response_format: ResponseFormat | None = None,
    think: bool = False,
    most_schema_characters: int | None = None,
) -> tuple[ChatMessage, ...]:
    """Writes a request's messages, and what the model must know besides them, as plain messages.

    Args:
        messages: oldest first.
        tools: described to the model, in their order.
        response_format: told to the model if it is not text.
        think: whether the model is told to think first; not for models that were trained to.
        most_schema_characters: a longer schema of the answer is not told, only enforced.
    """
    sections = [_tools_section(tools)] if tools else []
    if response_format is not None:
        sections += _format_section(response_format, most_schema_characters)
    if think:
        sections.append("Think step by step between <think> and </think>, then answer.")
    system = [message for message in messages if _instructs(message)]
    system += [ChatMessage(role=ChatRole.SYSTEM, content=section) for section in sections]
    return (*system, *_plain(message for message in messages if not _instructs(message)))


def call_head(name: str) -> str:
    """What stands before the arguments of a call."""
    return f'{{"name": {json.dumps(name)}, "arguments": '


def _instructs(message: ChatMessage) -> bool:
    return message.role in (ChatRole.SYSTEM, ChatRole.DEVELOPER)


def _plain(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    plain: list[ChatMessage] = []
    results = False
    for message in messages:
        if message.role is ChatRole.TOOL:
            result = f"<tool_response>\n{message.content}\n</tool_response>"
            if results:  # those of one turn are one turn
                plain[-1] = replace(plain[-1], content=f"{plain[-1].content}\n{result}")
            else:
                plain.append(ChatMessage(role=ChatRole.USER, content=result))
        else:
            plain.append(ChatMessage(role=message.role, content=_spoken(message)))
        results = message.role is ChatRole.TOOL
    return plain


def _spoken(message: ChatMessage) -> str:
    """All that the model said in a turn, as it said it."""
    calls = "\n".join(_call(call) for call in message.tool_calls)
    text = "\n".join(part for part in (message.content, calls) if part)
    thought = f"{THOUGHT_OPEN}{message.reasoning.rstrip()}{THOUGHT_CLOSE}" if message.reasoning else ""
    return thought + text


def _call(call: ToolCall) -> str:
    return f"{CALL_OPEN}{call_head(call.name)}{call.arguments_json}}}{CALL_CLOSE}"


def _tools_section(tools: Sequence[FunctionTool]) -> str:
    signatures = "\n".join(_signature(tool) for tool in tools)
    return (
        "# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n"
        f"Function signatures:\n<tools>\n{signatures}\n</tools>\n\n"
        "If a function is needed, answer ONLY with one block per call:\n"
        f'{CALL_OPEN}{{"name": <function-name>, "arguments": <args-json-object>}}{CALL_CLOSE}\n'
        "If no function is relevant, or its results are there already, "
        "answer the user directly in plain text."
    )


def _signature(tool: FunctionTool) -> str:
    function: dict[str, object] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json:
        function["parameters"] = json.loads(tool.parameters_json)
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _format_section(response_format: ResponseFormat, most_schema_characters: int | None) -> list[str]:
    match response_format:
        case TextFormat():
            return []
        case JsonObjectFormat():
            return ["Answer with one JSON object and nothing else."]
        case JsonSchemaFormat(description=description, schema_json=schema_json):
            schema = json.dumps(json.loads(schema_json), ensure_ascii=False)
            purpose = f"\n{description}" if description else ""
            if most_schema_characters is not None and len(schema) > most_schema_characters:
                return [f"Answer with one JSON document and nothing else.{purpose}"]
            task = "Answer with one JSON document that satisfies this JSON Schema, and nothing else:"
            return [f"{task}\n{schema}{purpose}"]
        case _:
            assert_never(response_format)
