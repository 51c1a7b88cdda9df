"""Several runs on one thread: refused, waiting for their turn, or interrupting."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import Client, Message, Run, ToolChoice, function_tool, user_message
from assistants.client_errors import error_of
from assistants.domain.errors import NotFound, Overloaded, RunActive
from assistants.v1 import run_pb2, run_service_pb2, run_service_pb2_grpc
from runtime.events import TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import FinishReason, Usage
from tests.integration.conftest import Serve

ENQUEUE = run_pb2.Run.CONCURRENCY_POLICY_ENQUEUE
INTERRUPT = run_pb2.Run.CONCURRENCY_POLICY_INTERRUPT
STOP = TurnEnd(FinishReason.STOP, Usage(input_tokens=1, output_tokens=1))
MAX_WAITING = 32


def answer(text: str, *, gate: asyncio.Event | None = None) -> list[ScriptedStep]:
    return [TextDelta(text), *([gate] if gate else []), STOP]


def call() -> list[ScriptedStep]:
    end = TurnEnd(FinishReason.TOOL_CALLS, Usage(input_tokens=1, output_tokens=1))
    return [ToolCallStart("call_0", "now"), ToolCallDelta("{}"), ToolCallEnd(), end]


@dataclass
class Talk:
    """A thread whose first run is being executed, until the gate is opened."""

    client: Client
    assistant: str
    thread: str
    first: Run
    gate: asyncio.Event
    engine: ScriptedEngine
    texts: list[str] = field(default_factory=list)

    async def create(
        self, policy: run_pb2.Run.ConcurrencyPolicy.ValueType, text: str = "", **fields: object
    ) -> Run:
        messages = [user_message(text)] if text else []
        return await self.client.create_run(
            self.thread,
            self.assistant,
            concurrency_policy=policy,
            additional_messages=messages,
            **fields,
        )

    async def ended(self, run: Run) -> Run:
        return await self.client.watch(run.name).result()

    async def said(self) -> list[str]:
        return [text_of(message) async for message in self.client.list_messages(self.thread)]


def text_of(message: Message) -> str:
    return "".join(part.text.value for part in message.content)


@asynccontextmanager
async def talking(serve: Serve, *turns: Sequence[ScriptedStep]) -> AsyncIterator[Talk]:
    gate = asyncio.Event()
    engine = ScriptedEngine([answer("one", gate=gate), *turns])
    async with asyncio.timeout(30), serve(engine) as client:
        assistant = await client.create_assistant(model="scripted")
        stream = client.stream_thread_and_run(assistant.name, "first")
        async for event in stream:
            if event.HasField("message_delta"):
                break
        thread = stream.run.name.split("/runs/")[0]
        yield Talk(client, assistant.name, thread, stream.run, gate, engine)


async def test_runs_that_wait_are_executed_in_the_order_of_their_creation(serve: Serve) -> None:
    async with talking(serve, answer("two"), answer("three")) as talk:
        second = await talk.create(ENQUEUE, "and?")
        third = await talk.create(ENQUEUE, "and then?")
        assert {second.state, third.state} == {Run.STATE_QUEUED}
        assert (await talk.client.get_run(second.name)).state == Run.STATE_QUEUED
        assert await talk.said() == ["first", ""], "messages of a run that waits are not in the thread yet"
        talk.gate.set()
        runs = [await talk.ended(run) for run in (talk.first, second, third)]
        assert {run.state for run in runs} == {Run.STATE_COMPLETED}
        assert runs[0].end_time.ToNanoseconds() <= runs[1].start_time.ToNanoseconds()
        assert runs[1].end_time.ToNanoseconds() <= runs[2].start_time.ToNanoseconds()
        assert await talk.said() == ["first", "one", "and?", "two", "and then?", "three"]
        prompts = [[message.content for message in request.messages] for request in talk.engine.requests]
        assert prompts[2] == ["first", "one", "and?", "two", "and then?"]


async def test_a_run_on_an_idle_thread_does_not_wait(serve: Serve) -> None:
    async with talking(serve, answer("two"), answer("three")) as talk:
        talk.gate.set()
        await talk.ended(talk.first)
        for policy in (ENQUEUE, INTERRUPT):
            run = await talk.ended(await talk.create(policy, "more"))
            assert run.state == Run.STATE_COMPLETED


async def test_the_default_is_to_refuse(serve: Serve) -> None:
    async with talking(serve) as talk:
        with pytest.raises(RunActive) as refused:
            await talk.create(run_pb2.Run.CONCURRENCY_POLICY_UNSPECIFIED)
        assert refused.value.run == talk.first.name
        talk.gate.set()


async def test_a_run_that_waits_can_be_cancelled_and_its_messages_with_it(serve: Serve) -> None:
    async with talking(serve, answer("three")) as talk:
        second = await talk.create(ENQUEUE, "never said")
        third = await talk.create(ENQUEUE, "and?")
        assert (await talk.client.cancel_run(second.name)).state == Run.STATE_CANCELLED
        talk.gate.set()
        assert (await talk.ended(third)).state == Run.STATE_COMPLETED
        assert await talk.said() == ["first", "one", "and?", "three"]


async def test_a_run_that_waits_too_long_expires(serve: Serve) -> None:
    async with talking(serve) as talk:
        second = await talk.create(ENQUEUE, "never said", ttl=Duration(seconds=1))
        assert (await talk.ended(second)).state == Run.STATE_EXPIRED
        talk.gate.set()
        assert (await talk.ended(talk.first)).state == Run.STATE_COMPLETED
        assert await talk.said() == ["first", "one"]


async def test_runs_that_wait_are_limited(serve: Serve) -> None:
    async with talking(serve, *(answer(str(n)) for n in range(MAX_WAITING))) as talk:
        waiting = [await talk.create(ENQUEUE) for _ in range(MAX_WAITING)]
        stub = run_service_pb2_grpc.RunServiceStub(talk.client.channel)
        request = run_service_pb2.CreateRunRequest(
            parent=talk.thread, run=Run(assistant=talk.assistant, concurrency_policy=ENQUEUE)
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CreateRun(request)
        error = error_of(refused.value)
        assert isinstance(error, Overloaded)
        assert talk.thread in error.message
        assert error.retry_after_s > 0
        talk.gate.set()
        assert {(await talk.ended(run)).state for run in waiting} == {Run.STATE_COMPLETED}


async def test_interrupting_cancels_what_is_executed_and_comes_before_what_waits(serve: Serve) -> None:
    async with talking(serve, answer("stopped you"), answer("two")) as talk:
        second = await talk.create(ENQUEUE, "patient")
        third = await talk.create(INTERRUPT, "stop")
        assert third.state == Run.STATE_QUEUED
        first = await talk.ended(talk.first)
        assert first.state == Run.STATE_CANCELLED
        for run in (third, second):
            assert (await talk.ended(run)).state == Run.STATE_COMPLETED
        assert await talk.said() == ["first", "one", "stop", "stopped you", "patient", "two"]
        states = [m.state async for m in talk.client.list_messages(talk.thread, run=first.name)]
        assert states == [Message.STATE_INCOMPLETE]


async def test_interrupting_a_run_that_waits_for_its_client_takes_the_thread_at_once(serve: Serve) -> None:
    async with talking(serve, call(), answer("done")) as talk:
        talk.gate.set()
        await talk.ended(talk.first)
        stream = talk.client.stream(
            talk.thread,
            talk.assistant,
            tools=[function_tool("now")],
            tool_choice=ToolChoice(mode=ToolChoice.MODE_REQUIRED),
        )
        assert await stream.next_calls()
        run = await talk.ended(await talk.create(INTERRUPT, "never mind"))
        assert run.state == Run.STATE_COMPLETED
        assert (await talk.client.get_run(stream.run.name)).state == Run.STATE_CANCELLED
        steps = [step.state async for step in talk.client.list_run_steps(stream.run.name)]
        assert steps == [run_pb2.RunStep.STATE_CANCELLED]


async def test_of_several_interrupting_runs_the_last_one_wins(serve: Serve) -> None:
    async with talking(serve, answer("last")) as talk:
        # They are created faster than the executor ends the first one.
        interrupting = await asyncio.gather(*(talk.create(INTERRUPT, f"no {n}") for n in range(5)))
        ended = [await talk.ended(run) for run in interrupting]
        assert [run.state for run in ended].count(Run.STATE_COMPLETED) == 1
        assert {run.state for run in ended} == {Run.STATE_COMPLETED, Run.STATE_CANCELLED}
        assert (await talk.ended(talk.first)).state == Run.STATE_CANCELLED
        assert (await talk.said())[-1] == "last"


async def test_what_waits_is_left_when_a_run_ends_in_any_way(serve: Serve) -> None:
    async with talking(serve, [TextDelta("x"), RuntimeError("bug")], answer("after a failure")) as talk:
        second = await talk.create(ENQUEUE, "fails")
        third = await talk.create(ENQUEUE, "goes on")
        assert (await talk.client.cancel_run(talk.first.name)).state == Run.STATE_CANCELLING
        assert (await talk.ended(second)).state == Run.STATE_FAILED
        assert (await talk.ended(third)).state == Run.STATE_COMPLETED


async def test_a_thread_with_waiting_runs_is_deleted_by_force_only(serve: Serve) -> None:
    async with talking(serve) as talk:
        waiting = [await talk.create(ENQUEUE, "x") for _ in range(3)]
        with pytest.raises(RunActive):
            await talk.client.delete_thread(talk.thread)
        with pytest.raises(RunActive):
            await talk.client.create_message(talk.thread, "x")
        await talk.client.delete_thread(talk.thread, force=True)
        for run in waiting:
            with pytest.raises(NotFound):
                await talk.client.get_run(run.name)
        assert len(talk.engine.requests) == 1, "none of them was executed"


async def test_a_waiting_run_is_made_once_however_often_it_is_asked_for(serve: Serve) -> None:
    async with talking(serve, answer("two")) as talk:
        stub = run_service_pb2_grpc.RunServiceStub(talk.client.channel)
        request = run_service_pb2.CreateRunRequest(
            parent=talk.thread,
            run=Run(assistant=talk.assistant, concurrency_policy=ENQUEUE),
            additional_messages=[user_message("and?")],
            request_id="0d7f5b0e-6f0a-4b51-9d52-3d3a3a1d1b11",
        )
        names = {(await stub.CreateRun(request)).name for _ in range(3)}
        talk.gate.set()
        (name,) = names
        assert (await talk.client.watch(name).result()).state == Run.STATE_COMPLETED
        assert (await stub.CreateRun(request)).name == name
        assert await talk.said() == ["first", "one", "and?", "two"]
