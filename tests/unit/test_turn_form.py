"""The grammar of a turn lets calls and answers through, and nothing that could be mistaken for them."""

import json
from dataclasses import replace

import pytest
from llguidance import LLMatcher, LLTokenizer

from runtime.chat.transcript import CALL_CLOSE, CALL_OPEN, call_head
from runtime.chat.turn_form import Calls, turn_form
from runtime.errors import PromptRejected, SchemaRejected
from runtime.types import (
    ChatMessage,
    ChatRole,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    ResponseFormat,
    TextFormat,
    ToolChoice,
    ToolChoiceMode,
)

QUESTION = (ChatMessage(role=ChatRole.USER, content="?"),)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = FunctionTool(name="get_weather", parameters_json=json.dumps(CITY))
TIME = FunctionTool(name="get_time", parameters_json=json.dumps(CITY))
PERSON = JsonSchemaFormat(
    name="person",
    schema_json=json.dumps(
        {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    ),
)
BYTES = LLTokenizer("byte")


def request(
    *tools: FunctionTool,
    choice: ToolChoice = ToolChoiceMode.AUTO,
    parallel: bool = True,
    response_format: ResponseFormat | None = None,
) -> GenerateRequest:
    return GenerateRequest(
        messages=QUESTION,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=response_format or TextFormat(),
    )


def lets_through(request: GenerateRequest, turn: str) -> bool:
    grammar = turn_form(request).grammar()
    assert grammar is not None
    matcher = LLMatcher(BYTES, grammar)
    text = turn.encode()
    return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()


def bare(name: str = "get_weather", arguments: str = '{"city": "Paris"}') -> str:
    return f"{call_head(name)}{arguments}}}"


def tagged(name: str = "get_weather", arguments: str = '{"city": "Paris"}') -> str:
    return CALL_OPEN + bare(name, arguments) + CALL_CLOSE


def test_any_text_will_do_without_tools_and_format() -> None:
    assert turn_form(request()).grammar() is None


@pytest.mark.parametrize(
    "turn",
    [
        tagged(),
        bare(),
        f"{tagged()}\n{tagged('get_time')}",
        f"{bare()}\n{bare('get_time')}",
        f"Let me look.\n{tagged()}",
        '```json\n{\n  "name": "get_weather",\n  "arguments": {"city": "Paris"}\n}\n```',
        'Look:\n```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```',
        '{\n  "name": "get_weather",\n  "arguments": {"city": "Paris"}\n}',
        "It is warm, and 1 < 2.",
        "Use `x` or ```y``` here: {}",
        "I would call get_weather(Paris).",
    ],
)
def test_auto_lets_calls_and_text_through(turn: str) -> None:
    assert lets_through(request(WEATHER, TIME), turn)


@pytest.mark.parametrize(
    "turn",
    [
        "",
        '{"name": "get_weather"',
        ' {"name": "other", "arguments": {}}',
        '```json\n{"name": "get_weather"}\n```',
        '{"name ": "get_weather"}',
        'Look:\n```json\n{"name": "get_news", "arguments": {}}\n```',
        'get_weather(city="Paris")',
        "[get_weather(city='Paris')]",
        'Sure: {"name": "get_weather", "arguments": {}}',
        "Sure: <tool_call>",
        tagged(arguments="{}"),
        tagged(arguments='{"city": "Paris", "unit": "c"}'),
        tagged("get_news"),
        tagged() + "\nThat was a call.",
    ],
)
def test_auto_lets_nothing_through_that_looks_like_a_call_and_is_none(turn: str) -> None:
    assert not lets_through(request(WEATHER, TIME), turn)


def test_required_lets_only_calls_through() -> None:
    required = request(WEATHER, TIME, choice=ToolChoiceMode.REQUIRED)
    assert lets_through(required, f"{tagged()}\n{tagged('get_time')}")
    assert not lets_through(required, "It is warm.")
    assert not lets_through(required, f"Let me look.\n{tagged()}")


def test_a_named_tool_is_called_once() -> None:
    named = request(WEATHER, TIME, choice=NamedToolChoice(name="get_time"))
    assert lets_through(named, tagged("get_time"))
    assert not lets_through(named, tagged("get_weather"))
    assert not lets_through(named, f"{tagged('get_time')}\n{tagged('get_time')}")


def test_none_lets_only_text_through_that_is_no_call() -> None:
    none = request(WEATHER, choice=ToolChoiceMode.NONE)
    assert lets_through(none, "It is warm.")
    assert not lets_through(none, tagged())
    assert not lets_through(none, bare())


def test_calls_are_single_unless_parallel() -> None:
    single = request(WEATHER, TIME, parallel=False)
    assert lets_through(single, tagged())
    assert not lets_through(single, f"{tagged()}\n{tagged('get_time')}")
    assert not lets_through(single, f"{bare()}\n{bare('get_time')}")


def test_a_document_is_all_that_a_format_lets_through() -> None:
    assert lets_through(request(response_format=PERSON), '{"age": 3}')
    assert not lets_through(request(response_format=PERSON), '{"age": "3"}')
    assert not lets_through(request(response_format=PERSON), 'Sure: {"age": 3}')
    assert lets_through(request(response_format=JsonObjectFormat()), '{"a": [1, {"b": null}]}')
    assert not lets_through(request(response_format=JsonObjectFormat()), "[1]")


def test_a_document_and_tools_go_together() -> None:
    both = request(WEATHER, response_format=PERSON)
    assert lets_through(both, '{"age": 3}')
    assert lets_through(both, tagged())
    assert not lets_through(both, bare())
    assert not lets_through(both, "It is warm.")


def test_calls_that_may_be_refused_do_not_follow_text() -> None:
    unique = FunctionTool(
        name="pick",
        parameters_json=json.dumps(
            {"type": "object", "properties": {"of": {"type": "array", "uniqueItems": True}}}
        ),
    )
    assert turn_form(request(unique)).held
    assert lets_through(request(unique), tagged("pick", '{"of": [1]}'))
    assert not lets_through(request(unique), "Well.\n" + tagged("pick", '{"of": [1]}'))


def test_arguments_follow_their_schema_whatever_strict_says() -> None:
    assert not turn_form(request(WEATHER)).held
    no_arguments = FunctionTool(name="now")
    assert lets_through(request(no_arguments), tagged("now", "{}"))
    assert not lets_through(request(no_arguments), tagged("now", '{"zone": "UTC"}'))


def test_what_makes_no_turn_is_rejected() -> None:
    with pytest.raises(PromptRejected, match="same name"):
        turn_form(request(WEATHER, WEATHER))
    with pytest.raises(PromptRejected, match="none of the tools"):
        turn_form(request(WEATHER, choice=NamedToolChoice(name="get_time")))
    with pytest.raises(PromptRejected, match="no tools"):
        turn_form(request(choice=ToolChoiceMode.REQUIRED))
    with pytest.raises(SchemaRejected, match=r"tools\[0\]"):
        turn_form(request(FunctionTool(name="bad", parameters_json='{"type": "objct"}')))


def test_no_tools_and_no_choice_is_no_call() -> None:
    assert turn_form(request()).calls is Calls.NEVER


def test_what_no_matcher_can_be_made_of_is_rejected() -> None:
    """It compiles, but llama.cpp would go on without a grammar."""
    form = turn_form(request(response_format=PERSON))
    assert form.document is not None
    costly = '{"type": "number", "multipleOf": 1000000000, "exclusiveMaximum": 1000000000}'
    with pytest.raises(PromptRejected, match="make no grammar together: fuel exhausted"):
        replace(form, document=replace(form.document, grammar_json=costly)).grammar()
