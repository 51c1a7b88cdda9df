"""What one turn writes: a message if it speaks, then a step for its calls.

The steps of a turn end together, in one append. So a turn is recorded whole, or
repeated whole: the next attempt begins the same steps and message again, with
empty content, and ends those that it did without.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.content import ContentPart, ReasoningPart, Role, TextPart
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.run import Run, RunStatus
from assistants.domain.run_ending import ending
from assistants.domain.run_event import (
    EventBody,
    MessageChanged,
    StepChanged,
    TextDelta,
    ToolCallDelta,
)
from assistants.domain.run_step import MessageCreation, RunStep, StepDetails, StepState, ToolCalls
from assistants.domain.times import not_before
from assistants.domain.tool import StepToolCall
from runtime.events import TurnEnd


class TurnRecord:
    """The steps and the message of a turn as they grow. Methods give the events to append."""

    def __init__(self, run: Run, steps: Sequence[RunStep]) -> None:
        """Begins the record.

        Args:
            run: as it was claimed.
            steps: all of the run, in order; those in progress are what a lost attempt has begun of this turn.
        """
        self._run = run
        # As they are in the store: an end that is refused leaves them open.
        self._steps = list(steps)
        self._begun = deque(step for step in steps if step.state is StepState.IN_PROGRESS)
        self._passed_over: list[RunStep] = []
        self._message: Message | None = None
        self._message_step: RunStep | None = None
        self._calls_step: RunStep | None = None
        self._reasoning: list[str] = []
        self._text: list[str] = []
        self._calls: list[StepToolCall] = []
        self._arguments: list[str] = []

    @property
    def calls(self) -> tuple[StepToolCall, ...]:
        """The calls that are whole."""
        return tuple(self._calls)

    @property
    def message_id(self) -> str | None:
        """Id of the message that this attempt writes, once there is one."""
        return self._message.id if self._message else None

    @property
    def has_lost_messages(self) -> bool:
        """Whether a lost attempt has begun a message that this one has not begun again."""
        return any(isinstance(step.details, MessageCreation) for step in self._lost_steps())

    def reasoning(self, text: str) -> Sequence[EventBody]:
        """A piece of the thought came. It is told only to clients that asked for it."""
        self._reasoning.append(text)
        if not self._run.settings.include_reasoning:
            return ()
        opened, message = self._opened_message()
        return (*opened, TextDelta(message.id, 0, text, reasoning=True))

    def text(self, text: str) -> Sequence[EventBody]:
        """A piece of the answer came."""
        opened, message = self._opened_message()
        self._text.append(text)
        return (*opened, TextDelta(message.id, 1 if self._shown_reasoning else 0, text))

    def begin_call(self, name: str) -> Sequence[EventBody]:
        """A call begins; its id is unique in the run, which an engine's is not."""
        opened: Sequence[EventBody] = ()
        if self._calls_step is None:
            self._calls_step = self._begin(ToolCalls)
            opened = (StepChanged(self._calls_step),)
        call_id = new_id("call")
        key = f"{self._run.id}:{self._calls_step.id}:{call_id}"
        self._calls.append(StepToolCall(id=call_id, name=name, arguments_json="", idempotency_key=key))
        self._arguments = []
        call, index = self._calls[-1], len(self._calls) - 1
        return (*opened, ToolCallDelta(self._calls_step.id, index, id=call.id, name=name))

    def arguments(self, piece: str) -> Sequence[EventBody]:
        """A piece of the newest call's arguments came."""
        assert self._calls_step is not None
        self._arguments.append(piece)
        return (ToolCallDelta(self._calls_step.id, len(self._calls) - 1, arguments_json=piece),)

    def end_call(self) -> None:
        """The newest call is whole."""
        self._calls[-1] = replace(self._calls[-1], arguments_json="".join(self._arguments))
        self._arguments = []

    def whole(self, end: TurnEnd) -> Sequence[EventBody]:
        """The turn is whole: its message is completed, and its calls are recorded and wait."""
        now = datetime.now(UTC)
        events = self._give_up_lost(now)
        if self._calls_step is None and self._message is None:
            opened, _ = self._opened_message()
            events += opened
        if self._message is not None and self._message_step is not None:
            end_time = not_before(now, self._message.create_time)
            message = replace(
                self._message, content=self._content(), state=MessageState.COMPLETED, end_time=end_time
            )
            step = replace(self._message_step, state=StepState.COMPLETED, end_time=end_time)
            if self._calls_step is None:
                step = _with_result(step, end)
            events += (MessageChanged(message), StepChanged(step))
        if self._calls_step is not None:
            details = ToolCalls(calls=self.calls, reasoning="".join(self._reasoning))
            events.append(StepChanged(_with_result(replace(self._calls_step, details=details), end)))
        return events

    def cut_short(
        self, status: RunStatus, end: TurnEnd | None, lost_messages: Iterable[Message]
    ) -> Sequence[EventBody]:
        """The run ends short of completion, with what was said so far and the calls that are whole.

        Args:
            status: the run's last, with its final state already in it.
            end: of the turn, if it came to one.
            lost_messages: what a lost attempt has begun and this one has not begun again, as far as it came.
        """
        opened: Sequence[EventBody] = ()
        if end is not None and self._calls_step is None:
            opened, _ = self._opened_message()
        steps = [self._so_far(step) for step in self._steps]
        last = self._calls_step or self._message_step
        if end is not None and last is not None:
            steps = [_with_result(step, end) if step.id == last.id else step for step in steps]
        messages = list(lost_messages)
        if self._message is not None:
            messages.insert(0, replace(self._message, content=self._content()))
        return (*opened, *ending(status, steps, messages, datetime.now(UTC)))

    def _opened_message(self) -> tuple[Sequence[EventBody], Message]:
        if self._message is not None:
            return (), self._message
        step = self._message_step = self._begin(MessageCreation)
        self._message = self._empty_message(step)
        return (StepChanged(step), MessageChanged(self._message)), self._message

    def _begin(self, kind: type[MessageCreation | ToolCalls]) -> RunStep:
        """Begins a step, or, after a lost attempt, the same one again."""
        while self._begun:
            step = self._begun.popleft()
            if isinstance(step.details, kind):
                details = ToolCalls(calls=()) if isinstance(step.details, ToolCalls) else step.details
                again = replace(step, attempt=self._run.status.attempt, details=details)
                self._steps[again.index] = again
                return again
            self._passed_over.append(step)  # steps of a turn stand in the order in which they were begun
        fresh = MessageCreation(message_id=new_id("msg")) if kind is MessageCreation else ToolCalls(calls=())
        step = self._new_step(fresh)
        self._steps.append(step)
        return step

    def _new_step(self, details: StepDetails) -> RunStep:
        return RunStep(
            id=new_id("step"),
            project_id=self._run.project_id,
            thread_id=self._run.thread_id,
            run_id=self._run.id,
            index=len(self._steps),
            state=StepState.IN_PROGRESS,
            details=details,
            attempt=self._run.status.attempt,
            create_time=datetime.now(UTC),
        )

    def _empty_message(self, step: RunStep) -> Message:
        assert isinstance(step.details, MessageCreation)
        return Message(
            id=step.details.message_id,
            project_id=self._run.project_id,
            thread_id=self._run.thread_id,
            role=Role.ASSISTANT,
            content=(),
            state=MessageState.IN_PROGRESS,
            assistant_id=self._run.assistant_id,
            run_id=self._run.id,
            create_time=step.create_time,
        )

    def _lost_steps(self) -> Sequence[RunStep]:
        return (*self._passed_over, *self._begun)

    def _give_up_lost(self, now: datetime) -> list[EventBody]:
        """Ends what a lost attempt has begun and the turn turned out not to need."""
        events: list[EventBody] = []
        for step in self._lost_steps():
            end_time = not_before(now, step.create_time)
            if isinstance(step.details, MessageCreation):
                message = replace(
                    self._empty_message(step),
                    state=MessageState.INCOMPLETE,
                    incomplete_reason=MessageIncompleteReason.ATTEMPT_LOST,
                    end_time=end_time,
                )
                events.append(MessageChanged(message))
            events.append(StepChanged(replace(step, state=StepState.CANCELLED, end_time=end_time)))
        return events

    def _so_far(self, step: RunStep) -> RunStep:
        """The step of the calls with those that are whole."""
        if self._calls_step is None or step.id != self._calls_step.id:
            return step
        whole = tuple(call for call in self._calls if call.arguments_json)
        return replace(step, details=ToolCalls(calls=whole, reasoning="".join(self._reasoning)))

    @property
    def _shown_reasoning(self) -> bool:
        return bool(self._reasoning) and self._run.settings.include_reasoning

    def _content(self) -> tuple[ContentPart, ...]:
        text = "".join(self._text)
        if not self._shown_reasoning:
            return (TextPart(value=text),)
        reasoning = ReasoningPart(text="".join(self._reasoning))
        return (reasoning, TextPart(value=text)) if text else (reasoning,)


def _with_result(step: RunStep, end: TurnEnd) -> RunStep:
    return replace(step, usage=end.usage, votes=end.votes, closed_early=end.closed_early)
