"""Runs, steps and events to protobuf."""

from typing import assert_never

from assistants.domain.names import assistant_name, message_name, run_name, step_name
from assistants.domain.run import (
    AutoTruncation,
    ConcurrencyPolicy,
    LastMessages,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    Truncation,
)
from assistants.domain.run_event import (
    MessageChanged,
    RunChanged,
    RunEvent,
    StepChanged,
    TextDelta,
    ToolCallDelta,
)
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls, without_reasoning
from assistants.services.convert import (
    effort_to_proto,
    response_format_to_proto,
    sampling_to_proto,
    to_timestamp,
    tool_call_to_proto,
    tool_choice_to_proto,
    tool_to_proto,
    usage_to_proto,
    votes_to_proto,
)
from assistants.services.messages import message_to_proto
from assistants.telemetry.observer import trace_id_of
from assistants.v1 import run_event_pb2, run_pb2

_STATES = {
    RunState.QUEUED: run_pb2.Run.STATE_QUEUED,
    RunState.IN_PROGRESS: run_pb2.Run.STATE_IN_PROGRESS,
    RunState.REQUIRES_ACTION: run_pb2.Run.STATE_REQUIRES_ACTION,
    RunState.CANCELLING: run_pb2.Run.STATE_CANCELLING,
    RunState.CANCELLED: run_pb2.Run.STATE_CANCELLED,
    RunState.FAILED: run_pb2.Run.STATE_FAILED,
    RunState.COMPLETED: run_pb2.Run.STATE_COMPLETED,
    RunState.INCOMPLETE: run_pb2.Run.STATE_INCOMPLETE,
    RunState.EXPIRED: run_pb2.Run.STATE_EXPIRED,
}
_REASONS = {
    RunIncompleteReason.MAX_OUTPUT_TOKENS: run_pb2.Run.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    RunIncompleteReason.MAX_INPUT_TOKENS: run_pb2.Run.INCOMPLETE_REASON_MAX_INPUT_TOKENS,
    RunIncompleteReason.MAX_TURNS: run_pb2.Run.INCOMPLETE_REASON_MAX_TURNS,
}
POLICIES = {
    ConcurrencyPolicy.REJECT: run_pb2.Run.CONCURRENCY_POLICY_REJECT,
    ConcurrencyPolicy.ENQUEUE: run_pb2.Run.CONCURRENCY_POLICY_ENQUEUE,
    ConcurrencyPolicy.INTERRUPT: run_pb2.Run.CONCURRENCY_POLICY_INTERRUPT,
}
_CODES = {
    RunErrorCode.SERVER_ERROR: run_pb2.RunError.CODE_SERVER_ERROR,
    RunErrorCode.RATE_LIMIT_EXCEEDED: run_pb2.RunError.CODE_RATE_LIMIT_EXCEEDED,
    RunErrorCode.INVALID_PROMPT: run_pb2.RunError.CODE_INVALID_PROMPT,
    RunErrorCode.TOOL_ERROR: run_pb2.RunError.CODE_TOOL_ERROR,
    RunErrorCode.OUTPUT_INVALID: run_pb2.RunError.CODE_OUTPUT_INVALID,
}
_STEP_STATES = {
    StepState.IN_PROGRESS: run_pb2.RunStep.STATE_IN_PROGRESS,
    StepState.CANCELLED: run_pb2.RunStep.STATE_CANCELLED,
    StepState.FAILED: run_pb2.RunStep.STATE_FAILED,
    StepState.COMPLETED: run_pb2.RunStep.STATE_COMPLETED,
    StepState.EXPIRED: run_pb2.RunStep.STATE_EXPIRED,
    StepState.INCOMPLETE: run_pb2.RunStep.STATE_INCOMPLETE,
}


def run_to_proto(run: Run) -> run_pb2.Run:
    """The run as it is stored."""
    message = _settings_to_proto(run)
    _add_status(message, run.status)
    message.last_sequence = run.last_sequence
    return message


def step_to_proto(step: RunStep) -> run_pb2.RunStep:
    """The step as it is given."""
    message = run_pb2.RunStep(
        name=step_name(step.thread_id, step.run_id, step.id),
        index=step.index,
        state=_STEP_STATES[step.state],
        usage=usage_to_proto(step.usage),
        error=_error_to_proto(step.error),
        attempt=step.attempt,
        create_time=to_timestamp(step.create_time),
        end_time=to_timestamp(step.end_time),
        votes=votes_to_proto(step.votes),
        closed_early=step.closed_early,
    )
    match step.details:
        case MessageCreation(message_id=message_id):
            message.message_creation.message = message_name(step.thread_id, message_id)
        case ToolCalls(calls=calls, reasoning=reasoning):
            message.tool_calls.CopyFrom(
                run_pb2.RunStep.ToolCalls(
                    tool_calls=[tool_call_to_proto(call) for call in calls], reasoning=reasoning
                )
            )
        case _:
            assert_never(step.details)
    return message


class RunEvents:
    """Makes the events of one run; what is constant about the run is made once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._settings = _settings_to_proto(run)

    def to_proto(self, event: RunEvent) -> run_event_pb2.RunEvent:
        """One event."""
        message = run_event_pb2.RunEvent(
            sequence=event.sequence,
            event_time=to_timestamp(event.event_time),
            attempt=event.attempt,
        )
        match event.body:
            case TextDelta() as delta:
                piece = run_event_pb2.ContentDelta(index=delta.index)
                if delta.reasoning:
                    piece.reasoning = delta.text
                else:
                    piece.text = delta.text
                message.message_delta.message = message_name(self._run.thread_id, delta.message_id)
                message.message_delta.content.append(piece)
            case ToolCallDelta() as delta:
                message.step_delta.step = step_name(self._run.thread_id, self._run.id, delta.step_id)
                message.step_delta.tool_calls.add(
                    index=delta.index, id=delta.id, name=delta.name, arguments_json=delta.arguments_json
                )
            case RunChanged(status=status):
                run = message.run_changed.run
                run.CopyFrom(self._settings)
                _add_status(run, status)
                run.last_sequence = event.sequence
            case StepChanged(step=step):
                shown = step if self._run.settings.include_reasoning else without_reasoning(step)
                message.step_changed.step.CopyFrom(step_to_proto(shown))
            case MessageChanged(message=changed):
                message.message_changed.message.CopyFrom(message_to_proto(changed))
            case _:
                assert_never(event.body)
        return message


def _settings_to_proto(run: Run) -> run_pb2.Run:
    settings = run.settings
    message = run_pb2.Run(
        name=run_name(run.thread_id, run.id),
        assistant=assistant_name(run.assistant_id),
        model=settings.model,
        instructions=settings.instructions,
        tools=[tool_to_proto(tool) for tool in settings.tools],
        tool_choice=tool_choice_to_proto(settings.tool_choice),
        parallel_tool_calls=settings.parallel_tool_calls,
        response_format=response_format_to_proto(settings.response_format),
        effort=effort_to_proto(settings.effort),
        generation_params=sampling_to_proto(settings.sampling),
        consensus=settings.consensus,
        concurrency_policy=POLICIES[settings.concurrency],
        max_turns=settings.max_turns,
        max_input_tokens=settings.max_input_tokens,
        max_output_tokens=settings.max_output_tokens,
        truncation_strategy=_truncation_to_proto(settings.truncation),
        include_reasoning=settings.include_reasoning,
        metadata=run.metadata,
        trace_id=trace_id_of(run.traceparent),
        create_time=to_timestamp(run.create_time),
    )
    message.ttl.FromNanoseconds(round(settings.ttl_s * 1e9))
    return message


def _add_status(message: run_pb2.Run, status: RunStatus) -> None:
    message.MergeFrom(
        run_pb2.Run(
            state=_STATES[status.state],
            error=_error_to_proto(status.error),
            usage=usage_to_proto(status.usage),
            attempt=status.attempt,
            start_time=to_timestamp(status.start_time),
            end_time=to_timestamp(status.end_time),
            expire_time=to_timestamp(status.expire_time),
        )
    )
    if status.incomplete_reason is not None:
        message.incomplete_reason = _REASONS[status.incomplete_reason]
    if status.required_action:
        calls = [tool_call_to_proto(call) for call in status.required_action]
        message.required_action.MergeFrom(run_pb2.RequiredAction(tool_calls=calls))


def _error_to_proto(error: RunError | None) -> run_pb2.RunError | None:
    return None if error is None else run_pb2.RunError(code=_CODES[error.code], message=error.message)


def _truncation_to_proto(truncation: Truncation) -> run_pb2.TruncationStrategy:
    match truncation:
        case AutoTruncation():
            return run_pb2.TruncationStrategy(auto=run_pb2.TruncationStrategy.Auto())
        case LastMessages(count=count):
            return run_pb2.TruncationStrategy(last_messages=count)
        case _:
            assert_never(truncation)
