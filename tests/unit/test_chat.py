"""The operation behind chat completions: who holds a slot, who is waited for, what is traced."""

import asyncio
from contextlib import aclosing

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from assistants.domain.chat import ChatEnd, ChoiceText, NewChatCompletion, NewChatMessage
from assistants.domain.content import TextPart
from assistants.domain.model import Model, ModelState
from assistants.operations.chat import ChatOperations
from assistants.operations.models import ModelOperations
from assistants.telemetry.observer import RunTelemetry
from runtime.errors import EngineFault, OutputInvalid
from runtime.events import TextDelta, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import ChatRole, FinishReason, Usage
from tests.chats import WatchedEngine

END = TurnEnd(FinishReason.STOP, Usage(input_tokens=3, output_tokens=2))
MODEL = Model(
    name="scripted",
    display_name="",
    state=ModelState.LOADED,
    provider="scripted",
    context_tokens=1_000,
    slots=1,
)
SECRET = "what was said"


def operations(engine: ScriptedEngine, telemetry: RunTelemetry | None = None) -> ChatOperations:
    telemetry = telemetry or RunTelemetry(NoOpTracerProvider())
    return ChatOperations(engine, ModelOperations(engine, MODEL, ()), telemetry)


def asked(n: int = 1) -> NewChatCompletion:
    message = NewChatMessage(role=ChatRole.USER, content=(TextPart(value=SECRET),))
    return NewChatCompletion(model="scripted", messages=(message,), n=n)


async def test_a_reader_that_waits_holds_no_slot() -> None:
    gate = asyncio.Event()
    engine = WatchedEngine((TextDelta("a"), gate, *[TextDelta("b")] * 1_000, END))
    chat = operations(engine)
    async with aclosing((await chat.stream(asked())).events) as events:
        assert await anext(events) == ChoiceText(index=0, part=0, text="a")
        gate.set()
        await engine.free.wait()  # although nobody has read on
        rest = [event async for event in events]
    assert rest[-1] == ChatEnd(END.usage)
    assert len(rest) == 1_002


async def test_draining_waits_for_answers_in_hand() -> None:
    gate = asyncio.Event()
    engine = WatchedEngine((TextDelta("a"), gate, END))
    chat = operations(engine)
    await chat.drain(0)
    answering = asyncio.create_task(chat.create(asked()))
    await engine.started.wait()
    await chat.drain(0)
    assert not answering.done()
    draining = asyncio.create_task(chat.drain(60))
    gate.set()
    await draining
    assert (await answering).choices[0].content == (TextPart(value="a"),)


async def test_an_answer_that_nobody_reads_is_not_begun() -> None:
    engine = ScriptedEngine([[END]])
    stream = await operations(engine).stream(asked())
    await stream.events.aclose()
    assert engine.requests == []


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


async def test_each_model_call_is_a_span_under_the_request(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    missed = OutputInvalid(document=SECRET, violations=("a is missing",), usage=Usage(output_tokens=1))
    engine = ScriptedEngine([[missed], [TextDelta(SECRET), END]])
    with provider.get_tracer("test").start_as_current_span("request"):
        await operations(engine, RunTelemetry(provider)).create(asked())
    first, second, request = exporter.get_finished_spans()
    for span in (first, second):
        assert (span.name, span.kind) == ("chat scripted", SpanKind.CLIENT)
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert "gen_ai.conversation.id" not in (span.attributes or {})
    assert first.status.status_code is StatusCode.ERROR
    assert (second.attributes or {})["gen_ai.usage.output_tokens"] == 2
    assert SECRET not in "".join(span.to_json() for span in (second, request))


async def test_what_fails_is_on_the_span(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with (
        provider.get_tracer("test").start_as_current_span("request", record_exception=False),
        pytest.raises(EngineFault),
    ):
        await operations(ScriptedEngine(), RunTelemetry(provider)).create(asked())
    chat, _ = exporter.get_finished_spans()
    assert (chat.attributes or {})["error.type"] == "EngineFault"


async def test_without_a_request_that_is_traced_nothing_is(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    await operations(ScriptedEngine([[END]]), RunTelemetry(provider)).create(asked())
    await operations(ScriptedEngine([[END]])).create(asked())
    assert exporter.get_finished_spans() == ()
