"""The loop: one turn at a time, answers asked for again, and promises of engines."""

from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from assistants.telemetry.observer import RunTelemetry
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable, OutputInvalid
from runtime.events import PromptProgress, ReasoningDelta, TextDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.loop import MAX_ANSWERS, LoopEvent, TurnStart, run_turns
from runtime.observe import NullObserver, Observer
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import (
    ChatMessage,
    ChatRole,
    FinishReason,
    FunctionTool,
    GenerateRequest,
    NamedToolChoice,
    ToolChoice,
    ToolChoiceMode,
    Usage,
)
from tests.unit.test_telemetry_observer import claim

USAGE = Usage(input_tokens=5, output_tokens=3)
STOP = TurnEnd(FinishReason.STOP, USAGE)
CALLED = TurnEnd(FinishReason.TOOL_CALLS, USAGE)
QUESTION = ChatMessage(role=ChatRole.USER, content="?")
REQUEST = GenerateRequest(messages=(QUESTION,), tools=(FunctionTool(name="f"),))


def invalid(document: str = "secret") -> OutputInvalid:
    return OutputInvalid(document=document, violations=(f"{document!r} is wrong",), usage=USAGE)


async def run(
    engine: ScriptedEngine,
    request: GenerateRequest = REQUEST,
    *,
    observer: Observer | None = None,
    first_turn: int = 0,
) -> Sequence[LoopEvent]:
    events = run_turns(engine, request, observer or NullObserver(), first_turn=first_turn)
    return [event async for event in events]


async def test_a_turn_that_calls_is_the_end_and_so_is_one_that_answers() -> None:
    calling: list[ScriptedStep] = [ToolCallStart("c", "f"), ToolCallEnd(), CALLED]
    engine = ScriptedEngine([calling, [TextDelta("a"), STOP]])
    assert await run(engine) == [TurnStart(0), *calling]
    assert await run(engine, first_turn=1) == [TurnStart(1), TextDelta("a"), STOP]


@pytest.mark.parametrize(
    ("choice", "later"),
    [
        (ToolChoiceMode.AUTO, ToolChoiceMode.AUTO),
        (ToolChoiceMode.NONE, ToolChoiceMode.NONE),
        (ToolChoiceMode.REQUIRED, ToolChoiceMode.AUTO),
        (NamedToolChoice(name="f"), ToolChoiceMode.AUTO),
    ],
)
async def test_a_demanded_call_is_demanded_once(choice: ToolChoice, later: ToolChoice) -> None:
    engine = ScriptedEngine([[STOP], [STOP]])
    request = GenerateRequest(messages=(QUESTION,), tools=REQUEST.tools, tool_choice=choice)
    for turn in range(2):
        await run(engine, request, first_turn=turn)
    assert [asked.tool_choice for asked in engine.requests] == [choice, later]


async def test_every_answer_is_a_span_and_the_failed_ones_are_errors_that_quote_nothing() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = RunTelemetry(provider).start_attempt(claim()).observer
    engine = ScriptedEngine([[PromptProgress(1, 2), invalid()], [invalid()], [TextDelta("ok"), STOP]])
    *_, end = await run(engine, observer=observer)
    assert isinstance(end, TurnEnd)
    assert end.usage == USAGE + USAGE + USAGE
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("chat")]
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert spans[0].attributes is not None
    assert spans[0].attributes["error.type"] == "OutputInvalid"
    assert spans[0].attributes["gen_ai.usage.output_tokens"] == 3
    assert "secret" not in "".join(span.to_json() for span in spans)
    provider.shutdown()


async def test_thoughts_before_invalid_answers_are_kept_apart() -> None:
    engine = ScriptedEngine(
        [[ReasoningDelta("a"), invalid()], [invalid()], [ReasoningDelta("b"), TextDelta("ok"), STOP]]
    )
    events = await run(engine)
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "a\n\nb"


async def test_the_last_invalid_answer_is_raised_with_what_all_of_them_took() -> None:
    engine = ScriptedEngine([[invalid(str(number))] for number in range(MAX_ANSWERS)])
    with pytest.raises(OutputInvalid) as failed:
        await run(engine)
    assert failed.value.document == str(MAX_ANSWERS - 1)
    assert failed.value.usage == Usage(input_tokens=5 * MAX_ANSWERS, output_tokens=3 * MAX_ANSWERS)
    engine.assert_consumed()


@pytest.mark.parametrize(
    "turns",
    [
        [[TextDelta("a"), invalid()]],  # something of it was given
        [[invalid()], [ContextExceeded(prompt_tokens=9, context_tokens=8)]],  # our objection did not fit
    ],
)
async def test_an_answer_is_not_asked_for_again_when_that_cannot_help(
    turns: list[list[ScriptedStep]],
) -> None:
    engine = ScriptedEngine(turns)
    with pytest.raises(OutputInvalid):
        await run(engine)
    engine.assert_consumed()


async def test_an_answer_is_not_asked_for_again_without_tokens_to_give_it() -> None:
    engine = ScriptedEngine([[invalid()], [STOP]])
    with pytest.raises(OutputInvalid):
        await run(engine, GenerateRequest(messages=(QUESTION,), max_output_tokens=3))
    assert len(engine.requests) == 1


async def test_a_prompt_that_is_too_long_from_the_start_is_told_as_that() -> None:
    with pytest.raises(ContextExceeded):
        await run(ScriptedEngine([[ContextExceeded(prompt_tokens=9, context_tokens=8)]]))


async def test_an_engine_lost_before_it_spoke_is_asked_again_within_an_answer() -> None:
    engine = ScriptedEngine([[invalid()], [EngineUnavailable("gone")], [TextDelta("ok"), STOP]])
    *_, end = await run(engine)
    assert isinstance(end, TurnEnd)
    assert end.usage == USAGE + USAGE


@pytest.mark.parametrize(
    "broken",
    [
        [ToolCallStart("c", "g"), ToolCallEnd(), CALLED],
        [ToolCallStart("c", "f"), ToolCallEnd(), STOP],
        [ToolCallStart("c", "f"), ToolCallEnd(), TextDelta("a"), CALLED],
        [TextDelta("a"), CALLED],
        [TextDelta("a")],
    ],
    ids=["unknown tool", "calls and stops", "text after calls", "no calls", "no end"],
)
async def test_an_engine_that_breaks_a_promise_is_at_fault(broken: list[ScriptedStep]) -> None:
    with pytest.raises(EngineFault):
        await run(ScriptedEngine([broken]))


async def test_a_limit_in_the_middle_of_a_call_is_no_fault() -> None:
    cut: list[ScriptedStep] = [ToolCallStart("c", "f"), TurnEnd(FinishReason.LENGTH, USAGE)]
    assert await run(ScriptedEngine([cut])) == [TurnStart(0), *cut]
