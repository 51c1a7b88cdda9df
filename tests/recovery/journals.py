"""What every run that has ended must satisfy, whatever happened on the way."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistants.client import Assistant, Client, Message, Run, RunEvent, RunStep, RunStream, Thread, text_of
from assistants.v1.common_pb2 import GenerationParams

SHORT = "Count from one to twenty."
"""The real model answers with some 60 tokens, and then ends by itself."""
ENDLESS = "Tell me about the sea."
"""The real model goes on to the end of its context."""
LIKELIEST = GenerationParams(temperature=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has ended, as the server tells it afterwards."""

    run: Run
    events: Sequence[RunEvent]
    messages: Sequence[Message]
    steps: Sequence[RunStep]

    @property
    def text(self) -> str:
        return "".join(text_of_message(message) for message in self.messages)

    @property
    def states(self) -> list[Run.State.ValueType]:
        """The states of the run in the order in which its journal tells them."""
        return [event.run_changed.run.state for event in self.events if event.HasField("run_changed")]


def text_of_message(message: Message) -> str:
    return "".join(part.text.value for part in message.content)


def deltas(events: Sequence[RunEvent], *, attempt: int) -> str:
    """The text that one attempt streamed."""
    return "".join(text_of(event) for event in events if event.attempt == attempt)


async def ask(client: Client, question: str, *, model: str = "smollm2-135m") -> tuple[Thread, Assistant]:
    """A thread with a question in it, and an assistant to answer it."""
    assistant = await client.create_assistant(model=model, generation_params=LIKELIEST)
    thread = await client.create_thread()
    await client.create_message(thread.name, question)
    return thread, assistant


async def ended(client: Client, name: str) -> Ended:
    """Reads a run that has ended in every way there is, and asserts that all tell the same."""
    stream = client.watch(name)
    events = [event async for event in stream]
    run = await client.get_run(name)
    messages = [message async for message in client.list_messages(name.split("/runs/")[0], run=name)]
    steps = [step async for step in client.list_run_steps(name)]

    assert [event.sequence for event in events] == list(range(1, run.last_sequence + 1))
    assert [event.attempt for event in events] == sorted(event.attempt for event in events)
    assert events[-1].HasField("run_changed"), "the end of the run is its last event"
    assert stream.run == run, "the journal ends with the run as it is stored"
    assert list(stream.messages.values()) == messages, "events add up to what is stored"
    spoken = [step for step in steps if step.HasField("message_creation")]
    assert {step.message_creation.message for step in spoken} == {message.name for message in messages}
    assert sorted(stream.steps.values(), key=lambda step: step.index) == steps
    assert [step.index for step in steps] == list(range(len(steps)))
    return Ended(run=run, events=events, messages=messages, steps=steps)


def assert_done_once(told: Ended) -> None:
    """A run that completed: one step, one message, and no word of it twice."""
    assert told.run.state == Run.STATE_COMPLETED, told.run
    (message,), (step,) = told.messages, told.steps
    assert message.state == Message.STATE_COMPLETED
    assert step.state == RunStep.STATE_COMPLETED
    assert told.text == deltas(told.events, attempt=told.run.attempt)
    assert told.text


class Reader:
    """Reads a stream in the background, as a client does that knows nothing of the server's fate."""

    def __init__(self, stream: RunStream) -> None:
        self.stream = stream
        self._seen: list[RunEvent] = []
        self._arrived: asyncio.Queue[RunEvent | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._read())

    async def pieces(self, count: int) -> None:
        """Waits until that many pieces of the answer have come."""
        await self._until(lambda: sum(bool(text_of(event)) for event in self._seen) >= count)

    async def text(self, beginning: str) -> None:
        """Waits until the answer has come as far as that."""
        await self._until(lambda: "".join(text_of(event) for event in self._seen).startswith(beginning))

    async def attempt(self, number: int) -> None:
        """Waits until an attempt has begun."""
        await self._until(lambda: bool(self._seen) and self._seen[-1].attempt >= number)

    async def end(self) -> Sequence[RunEvent]:
        """Waits until the stream has ended by itself; gives all its events."""
        await self._task
        while (event := self._arrived.get_nowait()) is not None:
            self._seen.append(event)
        return self._seen

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            event = await self._arrived.get()
            if event is None:
                await self._task  # raises what ended it
                raise AssertionError(f"the stream ended with {self.stream.run}")
            self._seen.append(event)

    async def _read(self) -> None:
        try:
            async for event in self.stream:
                self._arrived.put_nowait(event)
        finally:
            self._arrived.put_nowait(None)
