"""The conversation of a chat completion: what is refused and why, and what the engine is given."""

import pytest

from assistants.domain.chat import NewChatMessage
from assistants.domain.content import (
    ContentPart,
    FilePart,
    ImageFilePart,
    ImageUrlPart,
    InputAudioPart,
    ReasoningPart,
    RefusalPart,
    TextPart,
)
from assistants.domain.errors import InvalidArgument
from assistants.operations.chat_messages import MAX_MESSAGES, MAX_TOOL_CALLS, chat_messages
from runtime.types import ChatMessage, ChatRole, ToolCall

SYSTEM, DEVELOPER, USER, ASSISTANT, TOOL = ChatRole
UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
    "'tool_call_id'. The following tool_call_ids did not have response messages: "
)


def said(role: ChatRole, *parts: str | ContentPart) -> NewChatMessage:
    return NewChatMessage(
        role=role,
        content=tuple(TextPart(value=part) if isinstance(part, str) else part for part in parts),
    )


def call(id_: str = "call_a", name: str = "look", arguments_json: str = "{}") -> ToolCall:
    return ToolCall(id=id_, name=name, arguments_json=arguments_json)


def calls(*made: ToolCall) -> NewChatMessage:
    return NewChatMessage(role=ASSISTANT, tool_calls=made)


def result(id_: str = "call_a", text: str = "done") -> NewChatMessage:
    return NewChatMessage(role=TOOL, content=(TextPart(value=text),), tool_call_id=id_)


def broken(*messages: NewChatMessage) -> dict[str, str]:
    try:
        chat_messages(messages)
    except InvalidArgument as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


ASKED = said(USER, "where?")


def test_text_parts_of_a_message_are_one_text() -> None:
    assert chat_messages([said(DEVELOPER, "Be ", "brief."), ASKED]) == (
        ChatMessage(role=DEVELOPER, content="Be brief."),
        ChatMessage(role=USER, content="where?"),
    )


def test_answered_calls_are_accepted_in_any_order() -> None:
    two = calls(call("a"), call("b", arguments_json='{"at": [1.5, null]}'))
    history = [ASKED, two, result("b"), NewChatMessage(role=TOOL, tool_call_id="a"), said(ASSISTANT, "there")]
    made = chat_messages([*history, ASKED, calls(call("a")), result("a")])
    assert made[1].tool_calls == two.tool_calls
    assert [(message.tool_call_id, message.content) for message in made[2:4]] == [("b", "done"), ("a", "")]


def test_a_refusal_is_what_the_model_said() -> None:
    [_, refused, _] = chat_messages([ASKED, said(ASSISTANT, RefusalPart(text="No.")), ASKED])
    assert refused == ChatMessage(role=ASSISTANT, content="No.")


def test_reasoning_lasts_until_the_next_user_message() -> None:
    old = said(ASSISTANT, ReasoningPart(text="old thought"), "old answer")
    new = NewChatMessage(role=ASSISTANT, content=(ReasoningPart(text="new thought"),), tool_calls=(call(),))
    made = chat_messages([ASKED, old, ASKED, new, result()])
    assert [message.reasoning for message in made] == ["", "", "", "new thought", ""]
    assert made[1].content == "old answer"


def test_an_empty_conversation_is_refused() -> None:
    assert "must have 1 to 4096 items, got 0" in broken()["messages"]
    assert "got 4097" in broken(*[ASKED] * (MAX_MESSAGES + 1))["messages"]


@pytest.mark.parametrize("role", [SYSTEM, DEVELOPER, USER])
def test_empty_content_is_refused(role: ChatRole) -> None:
    assert broken(ASKED, said(role)) == {"messages[1].content": "must have 1 to 64 items, got 0"}
    assert "at least 1 characters" in broken(said(role, ""))["messages[0].content[0].text.value"]


def test_an_assistant_may_have_said_nothing() -> None:
    assert broken(ASKED, said(ASSISTANT), ASKED) == {}


def test_content_beyond_its_limits_is_refused() -> None:
    assert "at most 256000" in broken(said(USER, "x" * 256_001))["messages[0].content[0].text.value"]
    assert broken(said(USER, *["x"] * 65)) == {"messages[0].content": "must have 1 to 64 items, got 65"}


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (ImageUrlPart(url="http://x"), "images are not accepted: the model is text only"),
        (ImageFilePart(file_id="file-1"), "images are not accepted: the model is text only"),
        (InputAudioPart(format="wav"), "audio is not accepted: the model is text only"),
        (FilePart(file_id="file-1"), "files are not accepted: the model is text only"),
    ],
)
def test_what_is_not_text_is_refused_by_name(part: ContentPart, rule: str) -> None:
    assert broken(ASKED, said(USER, "look:", part)) == {f"messages[1].content[1].{part.kind}": rule}


@pytest.mark.parametrize("part", [ReasoningPart(text="hm"), RefusalPart(text="no")])
def test_what_only_the_model_says_is_refused_from_others(part: ContentPart) -> None:
    [(field, rule)] = broken(said(USER, "hello", part)).items()
    assert field == f"messages[0].content[1].{part.kind}"
    assert rule == "is for assistant messages only, got it in a user message"


def test_system_and_developer_are_not_mixed() -> None:
    [(field, rule)] = broken(said(SYSTEM, "a"), ASKED, said(DEVELOPER, "b"), said(SYSTEM, "c")).items()
    assert field == "messages[2].role"
    assert "must be system as in messages[0], got developer" in rule
    assert broken(said(SYSTEM, "a"), ASKED, said(SYSTEM, "b")) == {}


@pytest.mark.parametrize("after", [(), (ASKED,), (said(ASSISTANT, "well"),), (calls(call("c")), result("c"))])
def test_a_call_without_an_answer_is_refused(after: tuple[NewChatMessage, ...]) -> None:
    history = (ASKED, calls(call("a"), call("b"), call("z")), result("b"))
    assert broken(*history, *after) == {"messages[1].tool_calls": f"{UNANSWERED}a, z"}


@pytest.mark.parametrize(
    ("messages", "index", "rule"),
    [
        ((ASKED, result()), 1, "(none), got 'call_a'"),
        ((result(),), 0, "(none), got 'call_a'"),
        ((ASKED, calls(call("a")), result("a"), result("a")), 3, "(none), got 'a'"),
        ((ASKED, calls(call("a")), result("a"), ASKED, result("a")), 4, "(none), got 'a'"),
        ((ASKED, calls(call("a")), result(""), result("a")), 2, "('a'), got ''"),
    ],
)
def test_an_answer_to_no_open_call_is_refused(
    messages: tuple[NewChatMessage, ...], index: int, rule: str
) -> None:
    found = broken(*messages)
    assert list(found) == [f"messages[{index}].tool_call_id"]
    assert found[f"messages[{index}].tool_call_id"].endswith(rule)


def test_calls_with_one_id_are_refused() -> None:
    found = broken(ASKED, calls(call("a"), call("b"), call("a")), result("a"), result("b"))
    assert found == {
        "messages[1].tool_calls[2].id": "must be unique in the message, got 'a' as tool_calls[0] has"
    }


def test_a_call_without_an_id_is_refused() -> None:
    assert "messages[1].tool_calls[0].id" in broken(ASKED, calls(call("")), result(""))
    assert (
        "at most 256"
        in broken(ASKED, calls(call("x" * 257)), result("x" * 257))["messages[1].tool_calls[0].id"]
    )


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 65])
def test_a_call_of_what_no_tool_is_called_is_refused(name: str) -> None:
    assert list(broken(ASKED, calls(call(name=name)), result())) == ["messages[1].tool_calls[0].name"]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "null",
        "[]",
        "{",
        '{"a": 1} x',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": ' + "9" * 5_000 + "}",
        '{"a":' * 100_000,
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": "' + "x" * 256_000 + '"}',
    ],
)
def test_arguments_that_are_no_json_object_are_refused(arguments: str) -> None:
    found = broken(ASKED, calls(call(arguments_json=arguments)), result())
    [(field, rule)] = found.items()
    assert field == "messages[1].tool_calls[0].arguments_json"
    assert rule.startswith("must be a JSON object")
    assert len(rule) < 200


def test_too_many_calls_are_refused() -> None:
    made = [call(str(number)) for number in range(MAX_TOOL_CALLS + 1)]
    found = broken(ASKED, calls(*made), *(result(str(number)) for number in range(MAX_TOOL_CALLS)))
    assert found == {"messages[1].tool_calls": "must have 0 to 128 items, got 129"}


@pytest.mark.parametrize("role", [SYSTEM, DEVELOPER, USER])
def test_only_assistants_call_and_only_tools_answer(role: ChatRole) -> None:
    message = NewChatMessage(
        role=role, content=(TextPart(value="a"),), tool_calls=(call(),), tool_call_id="call_a"
    )
    assert broken(message) == {
        "messages[0].tool_call_id": f"is for tool messages only, got it in a {role} message",
        "messages[0].tool_calls": f"is for assistant messages only, got it in a {role} message",
    }
