"""The client's tool outputs: a run that waits for them goes on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from assistants.domain.errors import InvalidArgument, NoActionRequired, Violation
from assistants.domain.names import run_name
from assistants.domain.run import Run
from assistants.domain.run_event import EventBody, RunChanged, StepChanged
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep, StepState, ToolCalls
from assistants.domain.times import not_before
from assistants.domain.tool import ToolOutput


def submission(
    run: Run, steps: Sequence[RunStep], outputs: Sequence[ToolOutput], time: datetime
) -> Sequence[EventBody]:
    """The events of a submission: the step of the calls with their outputs, then the queued run.

    Raises:
        NoActionRequired: the run does not wait for outputs.
        InvalidArgument: not every open call has exactly one output.
    """
    if run.status.state is not RunState.REQUIRES_ACTION:
        raise NoActionRequired(run=run_name(run.thread_id, run.id), state=run.status.state)
    _check_ids([call.id for call in run.status.required_action], outputs)
    by_id = {output.tool_call_id: output.output for output in outputs}
    queued = replace(
        run.status,
        state=RunState.QUEUED,
        required_action=(),
        expire_time=time + timedelta(seconds=run.settings.ttl_s),
    )
    return (*(_completed(step, by_id, time) for step in steps if _waits(step)), RunChanged(queued))


def _waits(step: RunStep) -> bool:
    return step.state is StepState.IN_PROGRESS and isinstance(step.details, ToolCalls)


def _completed(step: RunStep, outputs: dict[str, str], time: datetime) -> StepChanged:
    assert isinstance(step.details, ToolCalls)
    calls = tuple(replace(call, output=outputs.get(call.id, call.output)) for call in step.details.calls)
    details = replace(step.details, calls=calls)
    end_time = not_before(time, step.create_time)
    return StepChanged(replace(step, details=details, state=StepState.COMPLETED, end_time=end_time))


def _check_ids(expected: Sequence[str], outputs: Sequence[ToolOutput]) -> None:
    got = [output.tool_call_id for output in outputs]
    if sorted(expected) == sorted(got):
        return
    found = [Violation("tool_outputs", f"Expected tool outputs for call_ids {list(expected)}, got {got}")]
    found += [
        Violation("tool_outputs", f"has no output for the call {call_id!r}")
        for call_id in expected
        if call_id not in got
    ]
    counts = Counter(got)
    for index, call_id in enumerate(got):
        field = f"tool_outputs[{index}].tool_call_id"
        if call_id not in expected:
            found.append(Violation(field, f"must be an open call of the run, got {call_id!r}"))
        elif counts[call_id] > 1 and got.index(call_id) != index:
            found.append(Violation(field, f"must be given once, got {call_id!r} again"))
    raise InvalidArgument(*found)
