"""Runs and model calls as spans.

    invoke_agent {agent}     INTERNAL  one attempt at a run, child of the request that created it
    └── chat {model}         CLIENT    one model call
        └── generate {model} SERVER    the engine's share of it, told by the timings of its answer

The model call of a chat completion is a child of the request itself.

Spans are started in the task that runs the loop and never made current, so
nothing is held open across a `yield`. What was said is never recorded.
"""

from time import time_ns

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from assistants.domain.errors import AssistantsError
from assistants.domain.names import run_name, thread_name
from assistants.domain.ports import Claim
from assistants.domain.run import RunError, RunErrorCode
from assistants.domain.run_states import RunState
from assistants.telemetry import semconv, tracing
from runtime.errors import OutputInvalid, RuntimeFault
from runtime.events import TurnEnd
from runtime.observe import InferenceObservation, NullObserver, Observer
from runtime.types import GenerateRequest, ModelInfo, ResponseFormat, Sampling, TextFormat, Timings, Usage

_NANOSECONDS = 1_000_000_000
_ANSWER_INVALID = "the answer does not satisfy its schema"
"""Violations quote the answer."""


class AttemptSpan:
    """The span of one attempt at a run. Ends once, by `end`."""

    def __init__(self, span: Span, observer: Observer) -> None:
        self._span = span
        self.observer = observer
        """Makes the spans of this attempt's model calls."""
        self.traceparent = tracing.traceparent_of(span)
        """W3C string, to be stored with the run; None while tracing is off."""

    def end(
        self,
        state: str,
        error: Exception | RunError | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """Ends the span. Only a failure is an error: pauses and cancellations are not.

        Args:
            state: run state that the attempt ends in.
            error: why it failed.
            finish_reason: why the last generation stopped.
        """
        if self._span.is_recording():
            self._span.set_attribute(semconv.RUN_STATE, state)
            if finish_reason is not None:
                self._span.set_attribute(semconv.GEN_AI_RESPONSE_FINISH_REASONS, (finish_reason,))
            if error is not None:
                _set_error(self._span, error)
            elif state == RunState.FAILED:
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


_OFF = AttemptSpan(INVALID_SPAN, NullObserver())


class RunTelemetry:
    """Starts the spans of runs and model calls. Made once, after `setup.configure`.

    Args:
        provider: where spans go; None is the process's own provider.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = tracing.tracer(semconv.GENAI_SCHEMA_URL, provider)

    def start_attempt(self, claim: Claim) -> AttemptSpan:
        """Starts the span of an attempt, under the call that created the run.

        It links to the attempt before it, which may have been in another process.
        """
        if self._tracer is None:
            return _OFF
        run, settings, status = claim.run, claim.run.settings, claim.run.status
        # What samplers may decide by is given at the start, the rest only to a span that is kept.
        deciding: dict[str, AttributeValue] = {
            semconv.GEN_AI_OPERATION_NAME: semconv.OPERATION_INVOKE_AGENT,
            semconv.GEN_AI_REQUEST_MODEL: settings.model,
        }
        if settings.agent_name:
            deciding[semconv.GEN_AI_AGENT_NAME] = settings.agent_name
        previous = tracing.span_context_of(claim.previous_traceparent)
        span = self._tracer.start_span(
            f"{semconv.OPERATION_INVOKE_AGENT} {settings.agent_name}".rstrip(),
            context=tracing.context_of(run.traceparent),
            kind=SpanKind.INTERNAL,
            attributes=deciding,
            links=(Link(previous),) if previous.is_valid else None,
        )
        if not span.is_recording():
            return AttemptSpan(span, NullObserver())
        conversation: dict[str, AttributeValue] = dict.fromkeys(
            (semconv.GEN_AI_CONVERSATION_ID, semconv.SESSION_ID), thread_name(run.thread_id)
        )
        span.set_attributes(
            {
                semconv.RUN_NAME: run_name(run.thread_id, run.id),
                semconv.RUN_ATTEMPT: status.attempt,
                **conversation,
                **_request_attributes(
                    settings.sampling, settings.max_output_tokens, settings.response_format
                ),
            }
        )
        if status.attempt == 1 and status.start_time is not None:
            queued = status.start_time - run.create_time
            span.set_attribute(semconv.RUN_QUEUE_TIME_S, queued.total_seconds())
        return AttemptSpan(
            span, _SpanObserver(self._tracer, set_span_in_context(span, Context()), conversation)
        )

    def request_observer(self) -> Observer:
        """Makes the spans of model calls under the span that is current now, such as that of an rpc."""
        span = get_current_span()
        if self._tracer is None or not span.is_recording():
            return NullObserver()
        return _SpanObserver(self._tracer, set_span_in_context(span, Context()), {})


def current_traceparent() -> str | None:
    """The current span as a W3C string, to be stored with what it starts."""
    return tracing.traceparent_of(get_current_span())


def trace_id_of(traceparent: str | None) -> str:
    """The trace's 32 hexadecimal digits; "" for None or garbage."""
    context = tracing.span_context_of(traceparent)
    return format_trace_id(context.trace_id) if context.is_valid else ""


class _SpanObserver:
    """Makes a span of each model call under one parent."""

    def __init__(self, tracer: Tracer, parent: Context, conversation: dict[str, AttributeValue]) -> None:
        self._tracer = tracer
        self._parent = parent
        self._conversation = conversation

    def inference(self, request: GenerateRequest, model: ModelInfo) -> InferenceObservation:
        """A model call starts."""
        attributes: dict[str, AttributeValue] = {
            semconv.GEN_AI_OPERATION_NAME: semconv.OPERATION_CHAT,
            semconv.GEN_AI_PROVIDER_NAME: model.provider,
            semconv.GEN_AI_REQUEST_MODEL: model.name,
            semconv.GEN_AI_REQUEST_STREAM: True,
            **self._conversation,
            **_request_attributes(request.sampling, request.max_output_tokens, request.response_format),
        }
        if request.stop:
            attributes[semconv.GEN_AI_REQUEST_STOP_SEQUENCES] = request.stop
        if request.effort is not None:
            attributes[semconv.GEN_AI_REQUEST_REASONING_LEVEL] = request.effort.value
        start_ns = time_ns()
        span = self._tracer.start_span(
            f"{semconv.OPERATION_CHAT} {model.name}",
            context=self._parent,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=start_ns,
        )
        return _InferenceSpan(self._tracer, span, start_ns, model, self._conversation)


class _InferenceSpan:
    """The span of one model call, and of the engine's share in it."""

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        start_ns: int,
        model: ModelInfo,
        conversation: dict[str, AttributeValue],
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._start_ns = start_ns
        self._model = model
        self._conversation = conversation

    def first_delta(self) -> None:
        elapsed_s = (time_ns() - self._start_ns) / _NANOSECONDS
        self._span.set_attribute(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, elapsed_s)

    def ended(self, end: TurnEnd) -> None:
        end_ns = time_ns()
        self._span.set_attributes(
            {
                semconv.GEN_AI_RESPONSE_MODEL: self._model.name,
                semconv.GEN_AI_RESPONSE_FINISH_REASONS: (end.finish_reason.value,),
                **_usage_attributes(end.usage),
            }
        )
        self._record_engine(end.timings, end_ns)
        self._span.end(end_ns)

    def failed(self, error: Exception) -> None:
        if isinstance(error, OutputInvalid):
            self._span.set_attributes(_usage_attributes(error.usage))
        _set_error(self._span, error)
        self._span.end()

    def abandoned(self) -> None:
        self._span.end()

    def _record_engine(self, timings: Timings, end_ns: int) -> None:
        busy_s = timings.queue_s + timings.prepare_s + timings.prompt_s + timings.generate_s
        if busy_s <= 0:
            return
        # The engine's clock is not ours: its durations are laid back from the
        # end of the call, and never reach beyond its start.
        start_ns = max(self._start_ns, end_ns - round(busy_s * _NANOSECONDS))
        span = self._tracer.start_span(
            f"{semconv.ENGINE_SPAN} {self._model.name}",
            context=set_span_in_context(self._span, Context()),
            kind=SpanKind.SERVER,
            attributes={
                semconv.ENGINE_QUEUE_S: timings.queue_s,
                semconv.ENGINE_PREPARE_S: timings.prepare_s,
                semconv.ENGINE_PROMPT_S: timings.prompt_s,
                semconv.ENGINE_GENERATE_S: timings.generate_s,
                **self._conversation,
            },
            start_time=start_ns,
        )
        span.end(end_ns)


def _usage_attributes(usage: Usage) -> dict[str, AttributeValue]:
    return {
        semconv.GEN_AI_USAGE_INPUT_TOKENS: usage.input_tokens,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: usage.output_tokens,
        semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_input_tokens,
        semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_output_tokens,
    }


def _request_attributes(
    sampling: Sampling, max_output_tokens: int | None, response_format: ResponseFormat
) -> dict[str, AttributeValue]:
    """What was chosen; the model's own choices are left out."""
    text = isinstance(response_format, TextFormat)
    chosen = {
        semconv.GEN_AI_OUTPUT_TYPE: semconv.OUTPUT_TYPE_TEXT if text else semconv.OUTPUT_TYPE_JSON,
        semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty,
        semconv.GEN_AI_REQUEST_MAX_TOKENS: max_output_tokens,
        semconv.GEN_AI_REQUEST_PRESENCE_PENALTY: sampling.presence_penalty,
        semconv.GEN_AI_REQUEST_SEED: sampling.seed,
        semconv.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
        semconv.GEN_AI_REQUEST_TOP_P: sampling.top_p,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _set_error(span: Span, error: Exception | RunError) -> None:
    if isinstance(error, RunError):
        span.set_attribute(semconv.ERROR_TYPE, error.code.value)
        quotes = error.code is RunErrorCode.OUTPUT_INVALID
        span.set_status(StatusCode.ERROR, _ANSWER_INVALID if quotes else error.message)
    else:
        span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
        span.set_status(StatusCode.ERROR, _safe_text(error))


def _safe_text(error: Exception) -> str | None:
    """The text of our own errors; anybody else's may quote what was said."""
    if isinstance(error, OutputInvalid):
        return _ANSWER_INVALID
    return str(error) if isinstance(error, RuntimeFault | AssistantsError) else None
