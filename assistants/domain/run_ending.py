"""How what a run left open ends with it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.run import RunStatus
from assistants.domain.run_event import EventBody, MessageChanged, RunChanged, StepChanged
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep, StepState
from assistants.domain.times import not_before

_MESSAGE_REASON = {
    RunState.CANCELLED: MessageIncompleteReason.RUN_CANCELLED,
    RunState.EXPIRED: MessageIncompleteReason.RUN_EXPIRED,
    RunState.FAILED: MessageIncompleteReason.RUN_FAILED,
    RunState.INCOMPLETE: MessageIncompleteReason.MAX_OUTPUT_TOKENS,
}
_STEP_STATE = {
    RunState.CANCELLED: StepState.CANCELLED,
    RunState.EXPIRED: StepState.EXPIRED,
    RunState.FAILED: StepState.FAILED,
    RunState.INCOMPLETE: StepState.INCOMPLETE,
}


def ending(
    status: RunStatus, steps: Iterable[RunStep], messages: Iterable[Message], time: datetime
) -> Sequence[EventBody]:
    """The events that end a run short of completion: open messages, open steps, the run.

    `status` is the run's last, with its final state already in it; messages keep
    the content they have.
    """
    state = status.state
    closed: list[EventBody] = [
        MessageChanged(
            replace(
                message,
                state=MessageState.INCOMPLETE,
                incomplete_reason=_MESSAGE_REASON[state],
                end_time=not_before(time, message.create_time),
            )
        )
        for message in messages
        if message.state is MessageState.IN_PROGRESS
    ]
    closed += [
        StepChanged(
            replace(
                step,
                state=_STEP_STATE[state],
                error=status.error,
                end_time=not_before(time, step.create_time),
            )
        )
        for step in steps
        if step.state is StepState.IN_PROGRESS
    ]
    ended = replace(
        status, required_action=(), end_time=not_before(time, status.start_time or time), expire_time=None
    )
    return (*closed, RunChanged(ended))
