"""Runs and model calls as spans, against the table of names in the conventions."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, format_span_id, format_trace_id

from assistants.domain.ports import Claim, Fence
from assistants.domain.run import Run, RunError, RunErrorCode, RunSettings, RunStatus
from assistants.domain.run_states import RunState
from assistants.telemetry.observer import RunTelemetry, current_traceparent, trace_id_of
from runtime.errors import EngineUnavailable
from runtime.events import TurnEnd
from runtime.observe import NullObserver
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    FinishReason,
    GenerateRequest,
    JsonObjectFormat,
    ModelInfo,
    Sampling,
    Timings,
    Usage,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
PREVIOUS = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
SECRET = "what was said"
CREATED = datetime(2026, 11, 23, 12, tzinfo=UTC)
MODEL = ModelInfo(name="tiny", provider="llama_cpp", context_tokens=4096, slots=1)
REQUEST = GenerateRequest(
    messages=(ChatMessage(role=ChatRole.USER, content=SECRET),),
    effort=Effort.LOW,
    sampling=Sampling(temperature=0.5, seed=7),
    max_output_tokens=64,
    response_format=JsonObjectFormat(),
    stop=("END",),
)
TURN_END = TurnEnd(
    FinishReason.STOP,
    Usage(input_tokens=12, output_tokens=5, cached_input_tokens=8, reasoning_output_tokens=2),
    Timings(queue_s=0.001, prepare_s=0.002, prompt_s=0.003, generate_s=0.004),
)


def claim(
    *,
    agent_name: str = "Math tutor",
    attempt: int = 1,
    parent: str | None = PARENT,
    previous: str | None = None,
) -> Claim:
    return Claim(
        run=Run(
            id="run_1",
            project_id="default",
            thread_id="thread_1",
            assistant_id="asst_1",
            settings=RunSettings(
                model="tiny",
                agent_name=agent_name,
                instructions=SECRET,
                sampling=Sampling(top_p=0.9, presence_penalty=0.5, frequency_penalty=-0.5),
                max_output_tokens=100,
            ),
            status=RunStatus(
                state=RunState.IN_PROGRESS, attempt=attempt, start_time=CREATED + timedelta(seconds=1.5)
            ),
            create_time=CREATED,
            traceparent=parent,
        ),
        fence=Fence(project_id="default", thread_id="thread_1", run_id="run_1", epoch=1),
        steps=(),
        previous_traceparent=previous,
    )


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_run_is_a_tree_of_three_spans(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    attempt = RunTelemetry(provider).start_attempt(claim())
    observation = attempt.observer.inference(REQUEST, MODEL)
    observation.first_delta()
    observation.ended(TURN_END)
    attempt.end(RunState.COMPLETED, finish_reason="stop")

    spans = by_name(exporter)
    run, chat, engine = spans["invoke_agent Math tutor"], spans["chat tiny"], spans["generate tiny"]
    assert len(spans) == 3
    assert [span.kind for span in (run, chat, engine)] == [
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    ]
    assert run.parent is not None
    assert format_trace_id(run.context.trace_id) == TRACE_ID
    assert format_span_id(run.parent.span_id) == "b7ad6b7169203331"
    assert chat.parent == run.context
    assert engine.parent == chat.context
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}
    assert all(SECRET not in span.to_json() for span in spans.values())

    conversation = {"gen_ai.conversation.id": "threads/thread_1", "session.id": "threads/thread_1"}
    assert run.attributes == conversation | {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "Math tutor",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.presence_penalty": 0.5,
        "gen_ai.request.frequency_penalty": -0.5,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.output.type": "text",
        "gen_ai.response.finish_reasons": ("stop",),
        "assistants.run.name": "threads/thread_1/runs/run_1",
        "assistants.run.attempt": 1,
        "assistants.run.state": "completed",
        "assistants.run.queue_time_s": 1.5,
    }
    assert chat.attributes is not None
    first_chunk_s = chat.attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first_chunk_s, float)
    assert first_chunk_s >= 0
    assert dict(chat.attributes) == conversation | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": first_chunk_s,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.usage.reasoning.output_tokens": 2,
    }
    assert engine.attributes == conversation | {
        "assistants.engine.queue_s": 0.001,
        "assistants.engine.prepare_s": 0.002,
        "assistants.engine.prompt_s": 0.003,
        "assistants.engine.generate_s": 0.004,
    }


def test_the_engines_share_lies_within_the_call_and_ends_with_it(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    attempt = RunTelemetry(provider).start_attempt(claim())
    hours = Timings(generate_s=7200.0)
    attempt.observer.inference(REQUEST, MODEL).ended(TurnEnd(FinishReason.STOP, Usage(), hours))

    chat, engine = by_name(exporter)["chat tiny"], by_name(exporter)["generate tiny"]
    assert engine.start_time == chat.start_time
    assert engine.end_time == chat.end_time


def test_an_engine_without_timings_has_no_span(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    attempt = RunTelemetry(provider).start_attempt(claim())
    attempt.observer.inference(REQUEST, MODEL).ended(TurnEnd(FinishReason.STOP, Usage()))

    assert list(by_name(exporter)) == ["chat tiny"]


def test_a_second_attempt_links_to_the_first(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    telemetry = RunTelemetry(provider)
    first = telemetry.start_attempt(claim())
    first.end(RunState.IN_PROGRESS, error=EngineUnavailable("the worker died"))
    telemetry.start_attempt(claim(attempt=2, previous=first.traceparent)).end(RunState.COMPLETED)

    one, two = exporter.get_finished_spans()
    assert one.links == ()
    assert [link.context.span_id for link in two.links] == [one.context.span_id]
    assert two.parent == one.parent
    assert two.attributes is not None
    assert two.attributes["assistants.run.attempt"] == 2
    assert "assistants.run.queue_time_s" not in two.attributes


def test_an_unnamed_agent_without_a_parent(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    RunTelemetry(provider).start_attempt(claim(agent_name="", parent=None)).end(RunState.COMPLETED)

    (span,) = exporter.get_finished_spans()
    assert span.name == "invoke_agent"
    assert span.parent is None
    assert span.attributes is not None
    assert "gen_ai.agent.name" not in span.attributes


@pytest.mark.parametrize("state", [RunState.REQUIRES_ACTION, RunState.CANCELLED, RunState.EXPIRED])
def test_a_pause_or_a_stop_is_no_error(
    provider: TracerProvider, exporter: InMemorySpanExporter, state: RunState
) -> None:
    attempt = RunTelemetry(provider).start_attempt(claim())
    attempt.observer.inference(REQUEST, MODEL).abandoned()
    attempt.end(state)

    for span in exporter.get_finished_spans():
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes is not None
        assert "error.type" not in span.attributes


@pytest.mark.parametrize(
    ("error", "error_type", "description"),
    [
        (EngineUnavailable("the worker died"), "EngineUnavailable", "the worker died"),
        (ValueError(SECRET), "ValueError", None),
        (RunError(code=RunErrorCode.SERVER_ERROR, message="gave up"), "server_error", "gave up"),
    ],
)
def test_a_failure_is_an_error_that_tells_only_what_we_wrote(
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    error: Exception | RunError,
    error_type: str,
    description: str | None,
) -> None:
    RunTelemetry(provider).start_attempt(claim()).end(RunState.FAILED, error=error)

    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == description
    assert span.attributes is not None
    assert span.attributes["error.type"] == error_type
    assert SECRET not in span.to_json()


def test_a_failed_model_call_is_an_error(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    attempt = RunTelemetry(provider).start_attempt(claim())
    attempt.observer.inference(REQUEST, MODEL).failed(EngineUnavailable("the worker died"))

    (chat,) = exporter.get_finished_spans()
    assert chat.status.status_code is StatusCode.ERROR
    assert chat.attributes is not None
    assert chat.attributes["error.type"] == "EngineUnavailable"


def test_while_tracing_is_off_attempts_share_one_null_object() -> None:
    telemetry = RunTelemetry(NoOpTracerProvider())
    attempt = telemetry.start_attempt(claim())
    attempt.end(RunState.COMPLETED)

    assert attempt is telemetry.start_attempt(claim())
    assert isinstance(attempt.observer, NullObserver)
    assert attempt.traceparent is None


def test_an_attempt_that_is_not_sampled_keeps_the_trace(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    attempt = RunTelemetry(provider).start_attempt(claim())
    attempt.end(RunState.COMPLETED)

    assert isinstance(attempt.observer, NullObserver)
    assert trace_id_of(attempt.traceparent) == TRACE_ID
    assert attempt.traceparent is not None
    assert attempt.traceparent.endswith("-00")
    assert exporter.get_finished_spans() == ()


def test_the_current_span_as_a_string(provider: TracerProvider) -> None:
    assert current_traceparent() is None
    with provider.get_tracer("test").start_as_current_span("outer") as span:
        traceparent = current_traceparent()
    assert traceparent is not None
    assert trace_id_of(traceparent) == format_trace_id(span.get_span_context().trace_id)


@pytest.mark.parametrize("traceparent", [None, "", "garbage", "00-00000000000000000000000000000000-00-01"])
def test_what_names_no_span_has_no_trace(traceparent: str | None) -> None:
    assert trace_id_of(traceparent) == ""
