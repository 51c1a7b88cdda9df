"""What the events of a run add up to for its client, over attempts and connections."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from assistants.client import Message, Run, RunEvent, RunStep, RunStream, ToolCall
from assistants.client_calls import Patience
from assistants.client_runs import StreamRequest, create_run_request
from assistants.v1 import content_pb2, run_service_pb2
from assistants.v1 import run_event_pb2 as pb

RUN = "threads/t/runs/r"
MESSAGE = "threads/t/messages/m"
STEP = f"{RUN}/steps/s"


class Journal:
    """A server that tells events, and breaks the connection after some of them."""

    def __init__(self, bodies: Sequence[tuple[int, RunEvent]], *, breaks_after: Sequence[int] = ()) -> None:
        self.events = []
        for sequence, (attempt, event) in enumerate(bodies, 1):
            event.sequence, event.attempt = sequence, attempt
            self.events.append(event)
        self.asked: list[StreamRequest] = []
        self._breaks_after = list(breaks_after)

    async def open(self, request: StreamRequest) -> AsyncIterator[RunEvent]:
        self.asked.append(request)
        after = request.after_sequence if isinstance(request, run_service_pb2.WatchRunRequest) else 0
        broken = self._breaks_after.pop(0) if self._breaks_after else len(self.events)
        for event in self.events[after:broken]:
            yield event
        if broken < len(self.events):
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="gone"
            )


def run(state: Run.State.ValueType, attempt: int) -> tuple[int, RunEvent]:
    return attempt, RunEvent(run_changed=pb.RunChanged(run=Run(name=RUN, state=state, attempt=attempt)))


def message(text: str, state: Message.State.ValueType, attempt: int) -> tuple[int, RunEvent]:
    content = [content_pb2.ContentPart(text=content_pb2.Text(value=text))] if text else []
    value = Message(name=MESSAGE, content=content, state=state)
    return attempt, RunEvent(message_changed=pb.MessageChanged(message=value))


def delta(text: str, attempt: int) -> tuple[int, RunEvent]:
    piece = pb.ContentDelta(index=0, text=text)
    return attempt, RunEvent(message_delta=pb.MessageDelta(message=MESSAGE, content=[piece]))


def step(calls: Sequence[ToolCall], state: RunStep.State.ValueType, attempt: int) -> tuple[int, RunEvent]:
    value = RunStep(name=STEP, state=state, attempt=attempt)
    value.tool_calls.tool_calls.extend(calls)
    return attempt, RunEvent(step_changed=pb.StepChanged(step=value))


def call_delta(
    attempt: int, *, id: str = "", name: str = "", arguments_json: str = ""
) -> tuple[int, RunEvent]:
    delta = pb.ToolCallDelta(index=0, id=id, name=name, arguments_json=arguments_json)
    return attempt, RunEvent(step_delta=pb.StepDelta(step=STEP, tool_calls=[delta]))


OPEN, WHOLE = Message.STATE_IN_PROGRESS, Message.STATE_COMPLETED
TWO_ATTEMPTS = [
    run(Run.STATE_QUEUED, 0),
    run(Run.STATE_IN_PROGRESS, 1),
    message("", OPEN, 1),
    delta("half of", 1),
    delta(" an ans", 1),
    run(Run.STATE_IN_PROGRESS, 2),
    message("", OPEN, 2),
    delta("The ", 2),
    delta("answer.", 2),
    message("The answer.", WHOLE, 2),
    run(Run.STATE_COMPLETED, 2),
]


def stream(journal: Journal) -> RunStream:
    return RunStream(journal.open, lambda: Patience(5), create_run_request("threads/t", "assistants/a", {}))


async def test_the_half_message_of_a_dead_attempt_drops_out() -> None:
    read = stream(Journal(TWO_ATTEMPTS))
    texts = [read.text async for _ in read]
    assert texts[4] == "half of an ans"
    assert texts[6] == "", "the new attempt begins it again"
    assert texts[-1] == read.text == "The answer."
    assert list(read.messages) == [MESSAGE]
    assert read.messages[MESSAGE].state == WHOLE


@pytest.mark.parametrize("broken_after", range(1, len(TWO_ATTEMPTS)))
async def test_it_does_so_wherever_the_connection_breaks(broken_after: int) -> None:
    journal = Journal(TWO_ATTEMPTS, breaks_after=[broken_after])
    read = stream(journal)
    async with asyncio.timeout(10):
        events = [event async for event in read]
    assert events == journal.events
    assert (read.text, read.last_sequence) == ("The answer.", len(TWO_ATTEMPTS))
    (_, again) = journal.asked
    assert again == run_service_pb2.WatchRunRequest(name=RUN, after_sequence=broken_after)


async def test_the_half_call_of_a_dead_attempt_drops_out() -> None:
    whole = ToolCall(id="call_2", name="f", arguments_json='{"a": 1}', idempotency_key="r:s:call_2")
    journal = Journal(
        [
            run(Run.STATE_IN_PROGRESS, 1),
            step([], RunStep.STATE_IN_PROGRESS, 1),
            call_delta(1, id="call_1", name="f"),
            call_delta(1, arguments_json='{"a": '),
            run(Run.STATE_IN_PROGRESS, 2),
            step([], RunStep.STATE_IN_PROGRESS, 2),
            call_delta(2, id="call_2", name="f"),
            call_delta(2, arguments_json='{"a": 1}'),
            step([whole], RunStep.STATE_IN_PROGRESS, 2),
        ]
    )
    read = stream(journal)
    seen = [list(read.steps[STEP].tool_calls.tool_calls) if read.steps else [] async for _ in read]
    assert seen[3] == [ToolCall(id="call_1", name="f", arguments_json='{"a": ')]
    assert seen[5] == []
    assert seen[7] == [ToolCall(id="call_2", name="f", arguments_json='{"a": 1}')]
    assert seen[8] == [whole]
