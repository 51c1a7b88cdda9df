"""Turns of the real, weak model: calls, documents and thoughts that are right by construction."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from runtime.engines.embedded import EmbeddedEngine
from runtime.errors import OutputInvalid
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
    FinishReason,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    Sampling,
    ToolChoiceMode,
)
from runtime.worker.spec import WorkerSpec

pytestmark = [
    pytest.mark.real_model,
    # One worker for the module: its streams live on the loop that made them.
    pytest.mark.asyncio(loop_scope="module"),
]

GREEDY = Sampling(temperature=0)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER = FunctionTool(name="get_weather", description="Weather of a city", parameters_json=json.dumps(CITY))
MAIL = FunctionTool(
    name="send_mail",
    parameters_json=json.dumps(
        {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    ),
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERSON_FORMAT = JsonSchemaFormat(name="person", schema_json=json.dumps(PERSON), strict=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_path: Path) -> AsyncIterator[EmbeddedEngine]:
    started = await EmbeddedEngine.start(
        WorkerSpec(model_path=model_path, name="smollm2-135m", slots=3, context_tokens=1_024)
    )
    yield started
    await started.aclose()


def ask(text: str, **fields: object) -> GenerateRequest:
    message = ChatMessage(role=ChatRole.USER, content=text)
    return GenerateRequest(**{"messages": (message,), "sampling": GREEDY, "max_output_tokens": 120, **fields})  # type: ignore[arg-type]


async def generate(engine: EmbeddedEngine, request: GenerateRequest) -> tuple[list[EngineEvent], TurnEnd]:
    async with aclosing(engine.generate(request)) as stream:
        events: list[EngineEvent] = [event async for event in stream if not isinstance(event, PromptProgress)]
    end = events[-1]
    assert isinstance(end, TurnEnd)
    return events, end


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: list[EngineEvent]) -> list[tuple[str, dict[str, object]]]:
    calls: list[tuple[str, dict[str, object]]] = []
    name, pieces = "", [""]
    for event in events:
        match event:
            case ToolCallStart():
                name, pieces = event.name, []
            case ToolCallDelta(arguments_json=piece):
                pieces.append(piece)
            case ToolCallEnd():
                calls.append((name, json.loads("".join(pieces))))
            case _:
                pass
    return calls


async def test_required_calls_are_made_and_satisfy_their_schemas(engine: EmbeddedEngine) -> None:
    request = ask("Is it warm in Paris?", tools=(WEATHER, MAIL), tool_choice=ToolChoiceMode.REQUIRED)
    events, end = await generate(engine, request)
    calls = calls_of(events)
    assert calls
    schemas = {"get_weather": CITY, "send_mail": json.loads(MAIL.parameters_json)}
    for name, arguments in calls:
        jsonschema.validate(arguments, schemas[name])
    assert not text_of(events)
    assert end.finish_reason in (FinishReason.TOOL_CALLS, FinishReason.LENGTH)


async def test_a_named_tool_is_called_whatever_was_asked(engine: EmbeddedEngine) -> None:
    request = ask("Say hello.", tools=(WEATHER, MAIL), tool_choice=NamedToolChoice(name="get_weather"))
    events, end = await generate(engine, request)
    ((name, arguments),) = calls_of(events)
    assert name == "get_weather"
    jsonschema.validate(arguments, CITY)
    assert end.finish_reason is FinishReason.TOOL_CALLS


async def test_a_model_that_repeats_its_call_makes_it_once(engine: EmbeddedEngine) -> None:
    one_city = FunctionTool(
        name="look_up",
        parameters_json=json.dumps(
            {"type": "object", "properties": {"city": {"const": "Paris"}}, "required": ["city"]}
        ),
    )
    request = ask("Paris, Paris, Paris!", tools=(one_city,), tool_choice=ToolChoiceMode.REQUIRED)
    events, end = await generate(engine, request)
    assert calls_of(events) == [("look_up", {"city": "Paris"})]
    assert end.finish_reason is FinishReason.TOOL_CALLS


async def test_with_choice_none_no_tool_is_called(engine: EmbeddedEngine) -> None:
    request = ask(
        "Is it warm in Paris?", tools=(WEATHER,), tool_choice=ToolChoiceMode.NONE, max_output_tokens=20
    )
    events, _ = await generate(engine, request)
    assert text_of(events)
    assert not calls_of(events)


async def test_an_answer_is_a_document_of_its_schema(engine: EmbeddedEngine) -> None:
    events, end = await generate(engine, ask("Describe a person.", response_format=PERSON_FORMAT))
    document = json.loads(text_of(events))
    jsonschema.validate(document, PERSON)
    assert list(document) == ["name", "age", "tags"]
    assert end.finish_reason is FinishReason.STOP
    assert len(events) > 5, "it is streamed"


async def test_texts_of_special_tokens_in_a_schema_are_texts(engine: EmbeddedEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"<|im_start|>": {"type": "boolean"}, "end": {"const": "<|im_end|>"}},
        "required": ["<|im_start|>", "end"],
        "additionalProperties": False,
    }
    form = JsonSchemaFormat(name="special", schema_json=json.dumps(schema))
    events, _ = await generate(engine, ask("Answer.", response_format=form))
    jsonschema.validate(json.loads(text_of(events)), schema)
    tool = FunctionTool(name="close", parameters_json=json.dumps(schema))
    events, _ = await generate(engine, ask("Close.", tools=(tool,), tool_choice=ToolChoiceMode.REQUIRED))
    assert calls_of(events)
    for _, arguments in calls_of(events):
        jsonschema.validate(arguments, schema)


@pytest.mark.parametrize("limit", [20, 28, 40, 64])
async def test_a_document_ends_valid_before_its_limit(engine: EmbeddedEngine, limit: int) -> None:
    request = ask(
        "Describe a person with a thousand tags.", response_format=PERSON_FORMAT, max_output_tokens=limit
    )
    events, end = await generate(engine, request)
    jsonschema.validate(json.loads(text_of(events)), PERSON)
    assert end.finish_reason is FinishReason.STOP
    assert end.closed_early
    assert end.usage.output_tokens <= limit


async def test_a_document_that_cannot_fit_is_not_called_whole(engine: EmbeddedEngine) -> None:
    request = ask("Describe a person.", response_format=PERSON_FORMAT, max_output_tokens=5)
    _, end = await generate(engine, request)
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.output_tokens == 5


async def test_any_object_is_an_object(engine: EmbeddedEngine) -> None:
    request = ask("Describe a person in JSON.", response_format=JsonObjectFormat(), max_output_tokens=60)
    events, end = await generate(engine, request)
    assert isinstance(json.loads(text_of(events)), dict)
    assert end.finish_reason is FinishReason.STOP


async def test_what_no_grammar_can_express_is_held_back_until_it_is_valid(engine: EmbeddedEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"digits": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 5}},
        "required": ["digits"],
    }
    valid = JsonSchemaFormat(
        name="digits",
        schema_json=json.dumps(schema | {"not": {"properties": {"digits": {"contains": {"const": 9}}}}}),
    )
    events, _ = await generate(engine, ask("Digits?", response_format=valid))
    assert len([event for event in events if isinstance(event, TextDelta)]) == 1
    jsonschema.validate(json.loads(text_of(events)), schema)
    # Five of two values cannot differ, which the grammar does not know.
    schema["properties"] = {"digits": {**schema["properties"]["digits"], "uniqueItems": True}}  # type: ignore[index]
    invalid = JsonSchemaFormat(name="digits", schema_json=json.dumps(schema))
    given: list[EngineEvent] = []
    with pytest.raises(OutputInvalid) as raised:
        async with aclosing(engine.generate(ask("Digits?", response_format=invalid))) as stream:
            given += [event async for event in stream if not isinstance(event, PromptProgress)]
    assert not given
    assert raised.value.violations
    assert json.loads(raised.value.document)["digits"]
    assert raised.value.usage.output_tokens > 0


async def test_a_thought_is_cut_at_its_budget_and_counted_exactly(engine: EmbeddedEngine) -> None:
    request = ask("What is 3 times 4?", effort=Effort.MINIMAL, max_output_tokens=300)
    events, end = await generate(engine, request)
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert thought
    assert "think>" not in thought
    assert "</think>" not in text_of(events)
    assert text_of(events)
    assert 0 < end.usage.reasoning_output_tokens <= 128
    assert end.usage.reasoning_output_tokens < end.usage.output_tokens <= 300
    assert end.usage.cached_input_tokens <= end.usage.input_tokens


async def test_effort_none_does_not_think(engine: EmbeddedEngine) -> None:
    events, end = await generate(engine, ask("Hi!", effort=Effort.NONE, max_output_tokens=20))
    assert not any(isinstance(event, ReasoningDelta) for event in events)
    assert end.usage.reasoning_output_tokens == 0


async def test_high_effort_thinks_a_minimum(engine: EmbeddedEngine) -> None:
    request = ask("Say hello.", effort=Effort.HIGH, max_output_tokens=300, response_format=PERSON_FORMAT)
    events, _ = await generate(engine, request)
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert len(thought) >= 200
    jsonschema.validate(json.loads(text_of(events)), PERSON)


async def test_the_majority_answers_in_waves_of_the_free_slots(engine: EmbeddedEngine) -> None:
    digit = {"type": "object", "properties": {"digit": {"enum": [1, 2, 3]}}, "required": ["digit"]}
    request = ask(
        "Choose a digit.",
        response_format=JsonSchemaFormat(name="digit", schema_json=json.dumps(digit)),
        sampling=Sampling(temperature=1.5, seed=7),
        consensus=8,
    )
    events, end = await generate(engine, request)
    assert sum(vote.count for vote in end.votes) == 8
    assert [vote.count for vote in end.votes] == sorted((vote.count for vote in end.votes), reverse=True)
    assert json.loads(end.votes[0].answer) == json.loads(text_of(events))
    _, single = await generate(engine, ask("Choose a digit.", response_format=request.response_format))
    assert end.usage.output_tokens >= 7 * single.usage.output_tokens
    assert end.usage.input_tokens == single.usage.input_tokens


async def test_samples_think_each_for_itself(engine: EmbeddedEngine) -> None:
    request = ask(
        "What is 2 plus 2?",
        effort=Effort.MINIMAL,
        sampling=Sampling(temperature=0.8, seed=1),
        response_format=PERSON_FORMAT,
        consensus=3,
        max_output_tokens=300,
    )
    events, end = await generate(engine, request)
    assert len([event for event in events if isinstance(event, ReasoningDelta)]) == 1
    assert end.usage.reasoning_output_tokens > 128, "the thoughts of all samples are counted"
    jsonschema.validate(json.loads(text_of(events)), PERSON)


async def test_stops_end_the_answer_and_not_the_thought(engine: EmbeddedEngine) -> None:
    request = ask("Tell a story.", effort=Effort.MINIMAL, stop=(" a ",), max_output_tokens=500)
    events, end = await generate(engine, request)
    assert " a " not in text_of(events)
    assert " a " in "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert end.finish_reason is FinishReason.STOP


async def test_logprobs_are_told_of_the_answer_only(engine: EmbeddedEngine) -> None:
    request = ask("Say hi.", effort=Effort.MINIMAL, top_logprobs=2, max_output_tokens=300)
    events, end = await generate(engine, request)
    tokens = [token for event in events if isinstance(event, LogprobsDelta) for token in event.tokens]
    assert b"".join(token.token_bytes for token in tokens).decode().startswith(text_of(events))
    assert len(tokens) == end.usage.output_tokens - end.usage.reasoning_output_tokens
    assert all(len(token.top) == 2 and token.logprob <= 0 for token in tokens)
    events, _ = await generate(engine, ask("Say hi.", top_logprobs=0, max_output_tokens=3))
    assert all(
        not token.top for event in events if isinstance(event, LogprobsDelta) for token in event.tokens
    )
