"""The conversation of a chat completion, checked and made ready for an engine."""

import json
import re
from collections.abc import Sequence
from typing import assert_never

from assistants.domain.chat import NewChatMessage
from assistants.domain.content import FilePart, ReasoningPart, RefusalPart, TextPart
from assistants.domain.validation import (
    MAX_PARTS,
    MAX_TEXT,
    MAX_TOOL_OUTPUT,
    NAME_RULE,
    TEXT_ONLY,
    Violations,
    shown,
)
from runtime.types import ChatMessage, ChatRole, ToolCall

MAX_MESSAGES = 4_096
MAX_TOOL_CALLS = 128
MAX_CALL_ID = 256

_NAME = re.compile(NAME_RULE, re.ASCII)
_OPERATOR = (ChatRole.SYSTEM, ChatRole.DEVELOPER)


def chat_messages(messages: Sequence[NewChatMessage]) -> tuple[ChatMessage, ...]:
    """The messages as a prompt: text only, every tool call answered.

    Reasoning that the client gave back is kept from the last user message on.

    Raises:
        InvalidArgument: with every rule that a message breaks.
    """
    violations = Violations()
    violations.count("messages", messages, least=1, most=MAX_MESSAGES)
    violations.check()
    operator: tuple[int, ChatRole] | None = None
    for index, message in enumerate(messages):
        _check_content(violations, f"messages[{index}]", message)
        if message.role in _OPERATOR:
            operator = operator or (index, message.role)
            if message.role is not operator[1]:
                violations.add(
                    f"messages[{index}].role",
                    f"must be {operator[1]!s} as in messages[{operator[0]}], got {message.role!s}: "
                    "both mean the operator and cannot be mixed",
                )
    _check_calls(violations, messages)
    violations.check()
    last_user = max((i for i, message in enumerate(messages) if message.role is ChatRole.USER), default=-1)
    return tuple(
        ChatMessage(
            role=message.role,
            content=_text(message),
            tool_calls=message.tool_calls,
            tool_call_id=message.tool_call_id or None,
            reasoning=_reasoning(message) if index > last_user else "",
        )
        for index, message in enumerate(messages)
    )


def _text(message: NewChatMessage) -> str:
    return "".join(
        part.value if isinstance(part, TextPart) else part.text
        for part in message.content
        if isinstance(part, TextPart | RefusalPart)
    )


def _reasoning(message: NewChatMessage) -> str:
    return "".join(part.text for part in message.content if isinstance(part, ReasoningPart))


def _check_content(violations: Violations, path: str, message: NewChatMessage) -> None:
    may_be_empty = message.role in (ChatRole.ASSISTANT, ChatRole.TOOL)
    violations.count(f"{path}.content", message.content, least=0 if may_be_empty else 1, most=MAX_PARTS)
    most = MAX_TOOL_OUTPUT if message.role is ChatRole.TOOL else MAX_TEXT
    for index, part in enumerate(message.content[:MAX_PARTS]):
        field = f"{path}.content[{index}]"
        match part:
            case TextPart(value=value):
                violations.length(f"{field}.text.value", value, least=0 if may_be_empty else 1, most=most)
            case ReasoningPart(text=text) | RefusalPart(text=text):
                if message.role is ChatRole.ASSISTANT:
                    violations.length(f"{field}.{part.kind}.text", text, most=MAX_TEXT)
                else:
                    violations.add(
                        f"{field}.{part.kind}",
                        f"is for assistant messages only, got it in a {message.role} message",
                    )
            case FilePart():
                violations.add(f"{field}.file", "files are not accepted: the model is text only")
            case _:
                violations.add(f"{field}.{part.kind}", TEXT_ONLY[part.kind])


def _check_calls(violations: Violations, messages: Sequence[NewChatMessage]) -> None:
    """Each call is answered by a tool message right after it, and no tool message answers anything else."""
    asked, open_calls = 0, set[str]()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.role is ChatRole.TOOL:
            _check_answer(violations, path, message.tool_call_id, open_calls)
            open_calls.discard(message.tool_call_id)
        else:
            _check_answered(violations, asked, messages[asked], open_calls)
            asked, open_calls = index, set()
            if message.tool_call_id:
                violations.add(
                    f"{path}.tool_call_id", f"is for tool messages only, got it in a {message.role} message"
                )
        match message.role:
            case ChatRole.ASSISTANT:
                open_calls = _asked_calls(violations, path, message.tool_calls)
            case ChatRole.SYSTEM | ChatRole.DEVELOPER | ChatRole.USER | ChatRole.TOOL:
                if message.tool_calls:
                    violations.add(
                        f"{path}.tool_calls",
                        f"is for assistant messages only, got it in a {message.role} message",
                    )
            case _:
                assert_never(message.role)
    _check_answered(violations, asked, messages[asked], open_calls)


def _asked_calls(violations: Violations, path: str, calls: Sequence[ToolCall]) -> set[str]:
    violations.count(f"{path}.tool_calls", calls, most=MAX_TOOL_CALLS)
    first: dict[str, int] = {}
    for index, call in enumerate(calls[:MAX_TOOL_CALLS]):
        field = f"{path}.tool_calls[{index}]"
        violations.length(f"{field}.id", call.id, least=1, most=MAX_CALL_ID)
        earlier = first.setdefault(call.id, index)
        if earlier != index:
            violations.add(
                f"{field}.id",
                f"must be unique in the message, got {shown(call.id)} as tool_calls[{earlier}] has",
            )
        if _NAME.fullmatch(call.name) is None:
            violations.add(f"{field}.name", f"must match ^{NAME_RULE}$, got {shown(call.name)}")
        if len(call.arguments_json) > MAX_TEXT or not _is_object(call.arguments_json):
            violations.add(
                f"{field}.arguments_json",
                f"must be a JSON object of at most {MAX_TEXT} characters, got {shown(call.arguments_json)}",
            )
    return set(first)


def _check_answer(violations: Violations, path: str, call_id: str, open_calls: set[str]) -> None:
    if call_id not in open_calls:
        waiting = ", ".join(map(shown, sorted(open_calls))) or "none"
        violations.add(
            f"{path}.tool_call_id",
            f"must answer an open call of the assistant message before ({waiting}), got {shown(call_id)}",
        )


def _check_answered(
    violations: Violations, index: int, message: NewChatMessage, open_calls: set[str]
) -> None:
    if open_calls:
        missing = ", ".join(call.id for call in message.tool_calls if call.id in open_calls)
        violations.add(
            f"messages[{index}].tool_calls",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {missing}",
        )


def _is_object(text: str) -> bool:
    try:
        value = json.loads(text, parse_constant=_no_constant)
        # An escaped half of a surrogate pair is JSON, but no text that a tokenizer takes.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
