"""What a turn writes, whatever a lost attempt has begun of it before."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from assistants.domain.content import ReasoningPart, Role, TextPart
from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_event import EventBody, MessageChanged, RunChanged, StepChanged, TextDelta
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls, without_reasoning
from assistants.domain.tool import StepToolCall
from assistants.runs.own_turns import own_turns, turns_made
from assistants.runs.turn_record import TurnRecord
from runtime.events import TurnEnd
from runtime.types import ChatMessage, ChatRole, FinishReason, ToolCall, Usage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USAGE = Usage(input_tokens=5, output_tokens=3)
STOP = TurnEnd(FinishReason.STOP, USAGE)
CALLED = TurnEnd(FinishReason.TOOL_CALLS, USAGE)
CALLS = ToolCalls(
    calls=(StepToolCall(id="call_1", name="f", arguments_json="{}", output="out"),), reasoning="hm"
)


def run(*, attempt: int = 2, include_reasoning: bool = False) -> Run:
    return Run(
        id="run_1",
        project_id="p",
        thread_id="thread_1",
        assistant_id="asst_1",
        settings=RunSettings(model="m", include_reasoning=include_reasoning),
        status=RunStatus(state=RunState.IN_PROGRESS, attempt=attempt),
        create_time=NOW,
    )


def step(
    index: int, details: MessageCreation | ToolCalls, state: StepState = StepState.IN_PROGRESS
) -> RunStep:
    return RunStep(
        id=f"step_{index}",
        project_id="p",
        thread_id="thread_1",
        run_id="run_1",
        index=index,
        state=state,
        details=details,
        attempt=1,
        create_time=NOW,
        end_time=None if state is StepState.IN_PROGRESS else NOW,
    )


def spoke(index: int) -> RunStep:
    return step(index, MessageCreation(message_id=f"msg_{index}"))


def called(index: int) -> RunStep:
    return step(index, ToolCalls(calls=()))


def turn(record: TurnRecord, shape: str) -> list[EventBody]:
    """Plays a turn: t speaks, c calls."""
    events: list[EventBody] = []
    for letter in shape:
        if letter == "t":
            events += record.text("text")
        else:
            events += record.begin_call("f")
            events += record.arguments("{}")
            record.end_call()
    return [*events, *record.whole(CALLED if "c" in shape else STOP)]


def states(events: Sequence[EventBody], before: Sequence[RunStep]) -> dict[int, StepState]:
    """The last state of each step, by index."""
    told = {step.index: step.state for step in before}
    told |= {event.step.index: event.step.state for event in events if isinstance(event, StepChanged)}
    return told


OPEN, DONE, GIVEN_UP = StepState.IN_PROGRESS, StepState.COMPLETED, StepState.CANCELLED


@pytest.mark.parametrize(
    ("begun", "shape", "expected"),
    [
        ("", "t", [DONE]),
        ("", "c", [OPEN]),
        ("", "tc", [DONE, OPEN]),
        ("t", "t", [DONE]),
        ("c", "c", [OPEN]),
        ("tc", "tc", [DONE, OPEN]),
        ("tc", "t", [DONE, GIVEN_UP]),
        ("tc", "c", [GIVEN_UP, OPEN]),
        ("c", "t", [GIVEN_UP, DONE]),
        ("c", "tc", [GIVEN_UP, DONE, OPEN]),
        ("t", "c", [GIVEN_UP, OPEN]),
        ("", "", [DONE]),
        ("c", "", [GIVEN_UP, DONE]),
    ],
)
def test_a_repeated_turn_begins_the_same_steps_and_ends_the_others(
    begun: str, shape: str, expected: list[StepState]
) -> None:
    before = [spoke(index) if letter == "t" else called(index) for index, letter in enumerate(begun)]
    record = TurnRecord(run(), before)
    events = turn(record, shape)
    assert [state for _, state in sorted(states(events, before).items())] == expected
    messages = {e.message.id: e.message for e in events if isinstance(e, MessageChanged)}
    for index, lost in enumerate(before):
        if expected[index] is GIVEN_UP and isinstance(lost.details, MessageCreation):
            message = messages[lost.details.message_id]
            assert message.incomplete_reason is MessageIncompleteReason.ATTEMPT_LOST
    assert all(message.state is not MessageState.IN_PROGRESS for message in messages.values())


def test_steps_of_turns_that_are_whole_are_left_alone() -> None:
    before = [step(0, CALLS, DONE)]
    events = turn(TurnRecord(run(), before), "tc")
    changed = [event.step for event in events if isinstance(event, StepChanged)]
    assert {step.index for step in changed} == {1, 2}
    assert {step.attempt for step in changed} == {2}


def test_the_last_step_of_a_turn_has_its_usage() -> None:
    events = turn(TurnRecord(run(), ()), "tc")
    last = {event.step.index: event.step for event in events if isinstance(event, StepChanged)}
    assert (last[0].usage, last[1].usage) == (None, USAGE)


def test_calls_have_ids_of_their_own_and_only_whole_ones_are_kept() -> None:
    record = TurnRecord(run(), ())
    record.begin_call("f")
    record.arguments('{"a": ')
    record.arguments("1}")
    record.end_call()
    record.begin_call("f")
    record.arguments('{"a"')
    events = record.cut_short(RunStatus(state=RunState.CANCELLED), None, ())
    [changed, ended] = events
    assert isinstance(changed, StepChanged)
    assert isinstance(ended, RunChanged)
    assert changed.step.state is StepState.CANCELLED
    assert isinstance(changed.step.details, ToolCalls)
    [call] = changed.step.details.calls
    assert (call.id[:5], call.arguments_json) == ("call_", '{"a": 1}')


def test_what_is_cut_short_keeps_the_messages_of_both_attempts() -> None:
    record = TurnRecord(run(), [called(0), spoke(1)])
    record.begin_call("f")
    assert record.has_lost_messages
    lost = Message(
        id="msg_1",
        project_id="p",
        thread_id="thread_1",
        role=Role.ASSISTANT,
        content=(TextPart(value="half"),),
        state=MessageState.IN_PROGRESS,
        create_time=NOW,
    )
    events = record.cut_short(RunStatus(state=RunState.EXPIRED), None, [lost])
    [message] = [event.message for event in events if isinstance(event, MessageChanged)]
    assert (message.content, message.incomplete_reason) == (
        lost.content,
        MessageIncompleteReason.RUN_EXPIRED,
    )
    assert states(events, ()) == {0: StepState.EXPIRED, 1: StepState.EXPIRED}


def test_reasoning_is_told_only_on_request_and_kept_with_the_calls() -> None:
    silent = TurnRecord(run(), ())
    assert silent.reasoning("hm") == ()
    *_, changed = turn(silent, "c")
    assert isinstance(changed, StepChanged)
    assert isinstance(changed.step.details, ToolCalls)
    assert changed.step.details.reasoning == "hm"
    assert without_reasoning(changed.step).details == replace(changed.step.details, reasoning="")

    told = TurnRecord(run(include_reasoning=True), ())
    events = [*told.reasoning("h"), *told.reasoning("m"), *turn(told, "t")]
    deltas = [(e.index, e.text, e.reasoning) for e in events if isinstance(e, TextDelta)]
    assert deltas == [(0, "h", True), (0, "m", True), (1, "text", False)]
    [message] = [
        e.message
        for e in events
        if isinstance(e, MessageChanged) and e.message.state is MessageState.COMPLETED
    ]
    assert message.content == (ReasoningPart(text="hm"), TextPart(value="text"))


def test_own_turns_are_what_was_recorded_and_nothing_else() -> None:
    message = Message(
        id="msg_0",
        project_id="p",
        thread_id="thread_1",
        role=Role.ASSISTANT,
        content=(ReasoningPart(text="hm"), TextPart(value="Wait.")),
        state=MessageState.COMPLETED,
        create_time=NOW,
    )
    steps = [
        replace(spoke(0), state=DONE),
        step(1, CALLS, DONE),
        step(2, ToolCalls(calls=()), GIVEN_UP),
        step(3, CALLS, DONE),
        spoke(4),
        called(5),
    ]
    asked = ToolCall(id="call_1", name="f", arguments_json="{}")
    output = ChatMessage(role=ChatRole.TOOL, content="out", tool_call_id="call_1")
    assert list(own_turns(steps, [message])) == [
        ChatMessage(role=ChatRole.ASSISTANT, content="Wait.", tool_calls=(asked,), reasoning="hm"),
        output,
        ChatMessage(role=ChatRole.ASSISTANT, tool_calls=(asked,), reasoning="hm"),
        output,
    ]
    assert turns_made(steps) == 2
