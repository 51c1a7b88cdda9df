"""The streaming parser: however a turn is cut into pieces, it gives the same events."""

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chat.transcript import CALL_CLOSE, CALL_OPEN, call_head
from runtime.chat.turn_form import TurnForm, turn_form
from runtime.chat.turn_parser import ParsedEvent, TurnParser
from runtime.errors import EngineFault
from runtime.events import TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from runtime.types import (
    ChatMessage,
    ChatRole,
    FunctionTool,
    GenerateRequest,
    JsonSchemaFormat,
    ResponseFormat,
    TextFormat,
    ToolChoice,
    ToolChoiceMode,
)

QUESTION = (ChatMessage(role=ChatRole.USER, content="?"),)
NOTE = FunctionTool(
    name="note",
    parameters_json=json.dumps({"type": "object", "properties": {"text": {"type": "string"}}}),
)
COUNT = FunctionTool(
    name="count",
    parameters_json=json.dumps(
        {"type": "object", "properties": {"numbers": {"type": "array", "items": {"type": "integer"}}}}
    ),
)
UNIQUE = FunctionTool(
    name="unique",
    parameters_json=json.dumps(
        {"type": "object", "properties": {"items": {"type": "array", "uniqueItems": True}}}
    ),
)


def form(
    *tools: FunctionTool,
    choice: ToolChoice = ToolChoiceMode.AUTO,
    response_format: ResponseFormat | None = None,
) -> TurnForm:
    return turn_form(
        GenerateRequest(
            messages=QUESTION,
            tools=tools,
            tool_choice=choice,
            response_format=response_format or TextFormat(),
        )
    )


def parse(form: TurnForm, *pieces: str, cut: bool = False) -> list[ParsedEvent]:
    parser = TurnParser(form)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined([*events, *parser.finish(cut=cut)])


def joined(events: list[ParsedEvent]) -> list[ParsedEvent]:
    """Joins neighbouring deltas, whose cuts do not matter."""
    result: list[ParsedEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            result[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta):
            result[-1] = ToolCallDelta(last.arguments_json + event.arguments_json)
        else:
            result.append(event)
    return result


def bare(name: str, arguments: object) -> str:
    return f"{call_head(name)}{json.dumps(arguments)}}}"


def tagged(name: str, arguments: object) -> str:
    return CALL_OPEN + bare(name, arguments) + CALL_CLOSE


def told(index: int, name: str, arguments: object) -> list[ParsedEvent]:
    return [ToolCallStart(f"call_{index}", name), ToolCallDelta(json.dumps(arguments)), ToolCallEnd()]


arguments = st.one_of(
    st.tuples(st.just("note"), st.fixed_dictionaries({"text": st.text()})),
    st.tuples(st.just("count"), st.fixed_dictionaries({"numbers": st.lists(st.integers())})),
)
calls = st.lists(arguments, min_size=1, max_size=4, unique_by=json.dumps)
# What the grammar lets through as text: no call, and nothing that looks like one.
plain = st.text(min_size=1).filter(lambda text: not text.lstrip().startswith(("`", "{", "[", "<")))


def fenced(name: str, arguments: object) -> str:
    return f'```json\n{{\n  "name": "{name}",\n  "arguments": {json.dumps(arguments)}\n}}\n```'


def pieces_of(turn: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(turn)), len(turn)]
    return [turn[start:end] for start, end in itertools.pairwise(bounds)]


@given(text=st.one_of(st.just(""), plain), calls=calls, cuts=st.lists(st.integers(0, 400)))
def test_any_split_of_text_and_tagged_calls(
    text: str, calls: list[tuple[str, object]], cuts: list[int]
) -> None:
    turn = text + "\n".join(tagged(*call) for call in calls)
    expected: list[ParsedEvent] = [TextDelta(text.rstrip())] if text.rstrip() else []
    for index, call in enumerate(calls):
        expected += told(index, *call)
    assert parse(form(NOTE, COUNT), *pieces_of(turn, cuts)) == expected
    assert parse(form(NOTE, COUNT), *turn) == expected


@pytest.mark.parametrize("write", [bare, fenced])
@given(calls=calls, cuts=st.lists(st.integers(0, 400)))
def test_any_split_of_calls_without_tags(
    write: Callable[[str, object], str], calls: list[tuple[str, object]], cuts: list[int]
) -> None:
    turn = "\n".join(write(*call) for call in calls)
    expected = [event for index, call in enumerate(calls) for event in told(index, *call)]
    assert parse(form(NOTE, COUNT), *pieces_of(turn, cuts)) == expected


@given(text=plain, call=arguments, cuts=st.lists(st.integers(0, 400)))
def test_any_split_of_text_and_a_fenced_call(text: str, call: tuple[str, object], cuts: list[int]) -> None:
    turn = f"{text}\n{fenced(*call)}"
    expected: list[ParsedEvent] = [TextDelta(text.rstrip())] if text.rstrip() else []
    assert parse(form(NOTE, COUNT), *pieces_of(turn, cuts)) == [*expected, *told(0, *call)]


@given(text=plain)
def test_any_split_of_text(text: str) -> None:
    assert parse(form(NOTE), *text) == [TextDelta(text)]
    assert parse(form(NOTE), text) == [TextDelta(text)]


@given(text=st.text(min_size=1))
def test_without_tools_everything_is_text(text: str) -> None:
    assert parse(form(), *text) == [TextDelta(text)]


def test_a_piece_is_given_as_soon_as_it_is_certain() -> None:
    parser = TurnParser(form(NOTE))
    assert parser.feed("Hello") == [TextDelta("Hello")]
    assert parser.feed(" <") == []
    assert parser.feed("b>") == [TextDelta(" <b>")]
    assert parser.feed('<tool_call>\n{"name": "note", "arguments": {"te') == [
        ToolCallStart("call_0", "note"),
        ToolCallDelta('{"te'),
    ]


def test_a_document_that_begins_like_a_call_is_a_document() -> None:
    schema = json.dumps({"type": "object", "properties": {"name": {"type": "string"}}})
    document = form(NOTE, response_format=JsonSchemaFormat(name="a", schema_json=schema))
    assert parse(document, *'{"name": "note"}') == [TextDelta('{"name": "note"}')]
    assert parse(document, tagged("note", {})) == told(0, "note", {})


def test_the_same_call_again_ends_the_turn() -> None:
    turn = "\n".join([tagged("note", {"text": "a"})] * 3)
    parser = TurnParser(form(NOTE))
    events = joined([event for character in turn for event in parser.feed(character)])
    assert parser.repeated
    assert [*events, *parser.finish(cut=False)] == told(0, "note", {"text": "a"})


def test_a_call_that_begins_like_another_is_told() -> None:
    turn = "\n".join([tagged("note", {"text": "a"}), tagged("note", {"text": "ab"})])
    assert parse(form(NOTE), *turn) == [*told(0, "note", {"text": "a"}), *told(1, "note", {"text": "ab"})]


def test_a_limit_may_cut_anywhere() -> None:
    turn = "Well.\n" + tagged("note", {"text": "a"})
    for end in range(len(turn)):
        assert not any(
            isinstance(event, ToolCallEnd) for event in parse(form(NOTE), turn[:end], cut=True)[:-1]
        )


@pytest.mark.parametrize(
    "turn",
    [
        CALL_OPEN + '{"name": "other", "arguments": {}}' + CALL_CLOSE,
        CALL_OPEN + '{"name": "count", "arguments": {"numbers": ["one"]}}' + CALL_CLOSE,
        CALL_OPEN + '{"name": "note", "arguments": {}]' + CALL_CLOSE,
        CALL_OPEN + '{"name": note, "arguments": {}}' + CALL_CLOSE,
        tagged("note", {}) + "and more",
        tagged("note", {"text": "x"})[:-3],
    ],
)
def test_a_turn_that_is_not_of_the_form_is_a_fault_of_the_engine(turn: str) -> None:
    with pytest.raises(EngineFault):
        parse(form(NOTE, COUNT), turn)


def test_text_is_a_fault_where_a_call_is_required() -> None:
    with pytest.raises(EngineFault):
        parse(form(NOTE, choice=ToolChoiceMode.REQUIRED), "Well, ")
    with pytest.raises(EngineFault):
        parse(form(NOTE, choice=ToolChoiceMode.REQUIRED), "")


def test_what_no_grammar_can_express_is_told_as_missed() -> None:
    parser = TurnParser(form(UNIQUE))
    parser.feed(tagged("unique", {"items": [1, 1]}))
    assert parser.missed
    assert "arguments of unique" in parser.missed[0]
