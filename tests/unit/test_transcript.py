"""Conversations with tools, in a form that any template carries."""

import json

from runtime.chat.transcript import transcribe
from runtime.types import (
    ChatMessage,
    ChatRole,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    ToolCall,
)

WEATHER = FunctionTool(
    name="get_weather",
    description="Weather of a city",
    parameters_json='{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}',
)
CALLS = (
    ToolCall(id="call_1", name="get_weather", arguments_json='{"z": "Paris"}'),
    ToolCall(id="call_2", name="get_weather", arguments_json='{"z": "Rome"}'),
)


def user(text: str) -> ChatMessage:
    return ChatMessage(role=ChatRole.USER, content=text)


def result(call_id: str, text: str) -> ChatMessage:
    return ChatMessage(role=ChatRole.TOOL, tool_call_id=call_id, content=text)


def test_plain_messages_stay_as_they_are() -> None:
    messages = (
        ChatMessage(role=ChatRole.SYSTEM, content="Be brief."),
        user("Hi"),
        ChatMessage(role=ChatRole.ASSISTANT, content="Hello"),
    )
    assert transcribe(messages) == messages


def test_tools_are_described_behind_the_instructions_in_the_order_of_the_client() -> None:
    messages = transcribe(
        [ChatMessage(role=ChatRole.DEVELOPER, content="Be brief."), user("Hi")], tools=[WEATHER]
    )
    assert [message.role for message in messages] == [ChatRole.DEVELOPER, ChatRole.SYSTEM, ChatRole.USER]
    tools = messages[1].content
    signature = json.loads(tools.split("<tools>\n")[1].split("\n</tools>")[0])
    assert signature["function"]["name"] == "get_weather"
    assert list(signature["function"]["parameters"]["properties"]) == ["z", "a"]


def test_calls_and_results_are_text_of_assistant_and_user() -> None:
    messages = transcribe(
        [
            user("Where is it warmer?"),
            ChatMessage(role=ChatRole.ASSISTANT, content="Let me look.", tool_calls=CALLS),
            result("call_1", "21"),
            result("call_2", "25"),
            ChatMessage(role=ChatRole.ASSISTANT, content="In Rome."),
        ]
    )
    assert [message.role for message in messages] == [
        ChatRole.USER,
        ChatRole.ASSISTANT,
        ChatRole.USER,
        ChatRole.ASSISTANT,
    ]
    assert messages[1].content == (
        "Let me look.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"z": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"z": "Rome"}}\n</tool_call>'
    )
    assert messages[2].content == (
        "<tool_response>\n21\n</tool_response>\n<tool_response>\n25\n</tool_response>"
    )
    assert not messages[1].tool_calls


def test_a_thought_of_the_same_run_stands_before_what_it_led_to() -> None:
    (message,) = transcribe([ChatMessage(role=ChatRole.ASSISTANT, content="4", reasoning="two and two\n")])
    assert message.content == "<think>\ntwo and two\n</think>\n\n4"


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    shorter = [
        user("Where?"),
        ChatMessage(role=ChatRole.ASSISTANT, tool_calls=CALLS[:1]),
        result("call_1", "21"),
    ]
    longer = [*shorter, ChatMessage(role=ChatRole.ASSISTANT, content="In Paris."), user("Sure?")]
    written = transcribe(shorter, tools=[WEATHER])
    assert transcribe(longer, tools=[WEATHER])[: len(written)] == written


def test_the_format_is_told_unless_its_schema_is_too_long() -> None:
    format_ = JsonSchemaFormat(name="a", schema_json='{"type":  "object"}', description="A person.")
    told = transcribe([user("Hi")], response_format=format_)[0].content
    assert '{"type": "object"}' in told
    assert "A person." in told
    short = transcribe([user("Hi")], response_format=format_, most_schema_characters=5)[0].content
    assert '"object"' not in short
    assert "A person." in short
    assert "JSON object" in transcribe([user("Hi")], response_format=JsonObjectFormat())[0].content


def test_a_model_that_was_not_trained_to_think_is_told_to() -> None:
    assert "<think>" in transcribe([user("Hi")], think=True)[0].content
