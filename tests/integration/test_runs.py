"""Runs over the wire with a scripted engine: every ending, every retry, exact events."""

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import Client, Message, Run, RunEvent, RunStep, text_of
from assistants.domain.errors import InvalidArgument, NoActionRequired, RunActive, RunEnded
from assistants.v1 import (
    message_service_pb2,
    message_service_pb2_grpc,
    run_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    tool_pb2,
)
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable
from runtime.events import ReasoningDelta, TextDelta, TurnEnd
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import ChatMessage, ChatRole, FinishReason, Usage
from tests.integration.conftest import Serve

USAGE = Usage(input_tokens=10, output_tokens=2)
STOP = TurnEnd(FinishReason.STOP, USAGE)
HELLO: list[ScriptedStep] = [TextDelta("Hello "), TextDelta("world"), STOP]


async def ask(client: Client, text: str = "hi", **assistant: Any) -> tuple[str, str]:
    """An assistant, and a thread with one message; gives thread and assistant."""
    made = await client.create_assistant(**{"model": "scripted", **assistant})
    thread = await client.create_thread()
    await client.create_message(thread.name, text)
    return thread.name, made.name


def kinds(events: list[RunEvent]) -> list[str]:
    """Event kinds with the new state, and the text of deltas."""
    named = []
    for event in events:
        match event.WhichOneof("event"):
            case "run_changed":
                named.append("run " + Run.State.Name(event.run_changed.run.state)[6:].lower())
            case "step_changed":
                named.append("step " + RunStep.State.Name(event.step_changed.step.state)[6:].lower())
            case "message_changed":
                state = event.message_changed.message.state
                named.append("message " + Message.State.Name(state)[6:].lower())
            case _:
                named.append(repr(text_of(event)))
    return named


async def messages(client: Client, thread: str) -> list[tuple[str, str]]:
    return [
        (Message.State.Name(m.state)[6:].lower(), "".join(part.text.value for part in m.content))
        async for m in client.list_messages(thread)
    ]


async def test_a_run_tells_its_whole_story_in_order(serve: Serve) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([[TextDelta("Hello "), gate, TextDelta("world"), STOP]])
    async with serve(engine) as client:
        thread, assistant = await ask(client, instructions="Be kind.")
        stream = client.stream(thread, assistant, metadata={"k": "v"})
        events = []
        async for event in stream:
            events.append(event)
            gate.set() if text_of(event) else None
        assert kinds(events) == [
            "run queued",
            "run in_progress",
            "step in_progress",
            "message in_progress",
            "'Hello '",
            "'world'",
            "message completed",
            "step completed",
            "run completed",
        ]
        assert [event.sequence for event in events] == list(range(1, 10))
        assert [event.attempt for event in events] == [0] + [1] * 8
        assert stream.text == "Hello world"
        run = stream.run
        assert (run.usage.input_tokens, run.usage.output_tokens, run.attempt) == (10, 2, 1)
        assert run.last_sequence == 9
        assert dict(run.metadata) == {"k": "v"}
        assert run == await client.get_run(run.name)
        assert not run.HasField("expire_time")
        [step] = [step async for step in client.list_run_steps(run.name)]
        assert step.usage == run.usage
        [message] = [m async for m in client.list_messages(thread, run=run.name)]
        assert step.message_creation.message == message.name
        assert (message.run, message.assistant) == (run.name, assistant)
        assert engine.requests[0].messages == (
            ChatMessage(role=ChatRole.SYSTEM, content="Be kind."),
            ChatMessage(role=ChatRole.USER, content="hi"),
        )


async def test_live_and_replayed_events_are_the_same(client: Client) -> None:
    thread, assistant = await ask(client, "one two three")
    live = [event async for event in client.stream(thread, assistant)]
    name = live[0].run_changed.run.name
    assert [event async for event in client.watch(name)] == live
    for cursor in range(len(live) + 1):
        rest = [event async for event in client.watch(name, after_sequence=cursor)]
        assert rest == live[cursor:]
    with pytest.raises(InvalidArgument, match="after_sequence"):
        await client.watch(name, after_sequence=len(live) + 1).result()
    with pytest.raises(InvalidArgument, match="after_sequence"):
        await client.watch(name, after_sequence=-1).result()


async def test_many_watchers_see_the_same(serve: Serve) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([[TextDelta("a"), gate, *(TextDelta(f"{n} ") for n in range(2_000)), STOP]])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        run = await client.create_run(thread, assistant)
        arrived = 0

        async def watch() -> list[RunEvent]:
            nonlocal arrived
            events = []
            async for event in client.watch(run.name):
                events.append(event)
                if text_of(event) == "a":
                    arrived += 1
                    if arrived == 50:
                        gate.set()
            return events

        streams = await asyncio.gather(*(watch() for _ in range(50)))
        assert all(stream == streams[0] for stream in streams)
        assert [event.sequence for event in streams[0]] == list(range(1, len(streams[0]) + 1))


async def test_a_client_that_leaves_does_not_stop_the_run(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(ScriptedEngine([[TextDelta("a"), gate, TextDelta("b"), STOP]])) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        async for event in stream:
            if text_of(event):
                break
        gate.set()
        rest = client.watch(stream.run.name, after_sequence=stream.last_sequence)
        assert (await rest.result()).state == Run.STATE_COMPLETED
        assert (await messages(client, thread))[-1] == ("completed", "ab")


async def test_the_history_is_the_prompt_of_the_next_run(serve: Serve) -> None:
    engine = ScriptedEngine([HELLO, HELLO, HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client, "one")
        await client.stream(thread, assistant).result()
        await client.create_message(thread, "two")
        await client.stream(thread, assistant, instructions="Now.").result()
        await client.create_message(thread, "three")
        last_two = run_pb2.TruncationStrategy(last_messages=2)
        await client.stream(thread, assistant, truncation_strategy=last_two).result()
    assert [message.content for message in engine.requests[1].messages] == [
        "Now.",
        "one",
        "Hello world",
        "two",
    ]
    assert [message.content for message in engine.requests[2].messages] == ["Hello world", "three"]


async def test_additional_messages_and_instructions(serve: Serve) -> None:
    engine = ScriptedEngine([HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client, "one", instructions="A.")
        stub = run_service_pb2_grpc.RunServiceStub(client.channel)
        existing = [m async for m in client.list_messages(thread)]
        request = run_service_pb2.CreateRunRequest(
            parent=thread,
            run=Run(assistant=assistant),
            additional_instructions="B.",
            additional_messages=[Message(role=existing[0].role, content=existing[0].content)],
        )
        run = await stub.CreateRun(request)
        assert run.instructions == "A.\n\nB."
        await client.watch(run.name).result()
    assert [message.content for message in engine.requests[0].messages] == ["A.\n\nB.", "one", "one"]


async def test_a_deleted_message_leaves_the_prompt(serve: Serve) -> None:
    engine = ScriptedEngine([HELLO, HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client, "one")
        await client.stream(thread, assistant).result()
        first, *_ = [m async for m in client.list_messages(thread)]
        stub = message_service_pb2_grpc.MessageServiceStub(client.channel)
        await stub.DeleteMessage(message_service_pb2.DeleteMessageRequest(name=first.name))
        await client.create_message(thread, "two")
        await client.stream(thread, assistant).result()
    assert [message.content for message in engine.requests[1].messages] == ["Hello world", "two"]


async def test_a_busy_thread_refuses_runs_messages_and_deletion_naming_the_run(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(ScriptedEngine([[gate, *HELLO], HELLO])) as client:
        thread, assistant = await ask(client)
        run = await client.create_run(thread, assistant)
        for call in (
            client.create_run(thread, assistant),
            client.create_message(thread, "more"),
            client.delete_thread(thread),
        ):
            with pytest.raises(RunActive, match="has an active run") as busy:
                await call
            assert busy.value.run == run.name
        gate.set()
        assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED


async def test_only_one_of_many_racing_runs_gets_the_thread(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(ScriptedEngine([[gate, *HELLO]])) as client:
        thread, assistant = await ask(client)
        outcomes = await asyncio.gather(
            *(client.create_run(thread, assistant) for _ in range(20)), return_exceptions=True
        )
        [run] = [outcome for outcome in outcomes if isinstance(outcome, Run)]
        assert sum(isinstance(outcome, RunActive) for outcome in outcomes) == 19
        gate.set()
        await client.watch(run.name).result()


async def test_cancel_keeps_what_was_said_and_frees_the_thread(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("Once upon"), asyncio.Event()], HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        events = []
        async for event in stream:
            events.append(event)
            if text_of(event):
                assert (await client.cancel_run(stream.run.name)).state == Run.STATE_CANCELLING
        assert kinds(events)[-4:] == [
            "run cancelling",
            "message incomplete",
            "step cancelled",
            "run cancelled",
        ]
        assert (await messages(client, thread))[-1] == ("incomplete", "Once upon")
        with pytest.raises(RunEnded):
            await client.cancel_run(stream.run.name)
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED


async def test_cancel_of_a_queued_run_ends_it_at_once(serve: Serve) -> None:
    gates = [asyncio.Event() for _ in range(2)]
    engine = ScriptedEngine([[gate, *HELLO] for gate in gates], slots=1)
    async with serve(engine) as client:
        busy = [await client.create_run(*(await ask(client))) for _ in range(2)]
        queued = await client.create_run(*(await ask(client)))
        assert queued.state == Run.STATE_QUEUED
        assert (await client.cancel_run(queued.name)).state == Run.STATE_CANCELLED
        for gate in gates:
            gate.set()
        for run in busy:
            assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED


async def test_a_queued_run_follows_when_a_slot_is_free(serve: Serve) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([[gate, *HELLO], [gate, *HELLO], HELLO, HELLO], slots=1)
    async with serve(engine) as client:
        runs = [await client.create_run(*(await ask(client))) for _ in range(4)]
        assert [run.state for run in runs[2:]] == [Run.STATE_QUEUED] * 2
        gate.set()
        for run in runs:
            assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED


async def test_forced_deletion_cancels_first(serve: Serve) -> None:
    async with serve(ScriptedEngine([[TextDelta("a"), asyncio.Event()]])) as client:
        thread, assistant = await ask(client)
        await client.create_run(thread, assistant)
        await client.delete_thread(thread, force=True)


async def test_a_limit_makes_the_run_incomplete(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("Once"), TurnEnd(FinishReason.LENGTH, USAGE)]])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        run = await client.stream(thread, assistant, max_output_tokens=1).result()
        assert run.state == Run.STATE_INCOMPLETE
        assert run.incomplete_reason == Run.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS
        assert run.usage.output_tokens == 2
        assert (await messages(client, thread))[-1] == ("incomplete", "Once")
    assert engine.requests[0].max_output_tokens == 1


async def test_a_prompt_over_the_context_fails_with_both_numbers(serve: Serve) -> None:
    engine = ScriptedEngine([[ContextExceeded(prompt_tokens=300, context_tokens=256)]])
    async with serve(engine) as client:
        run = await client.stream(*(await ask(client))).result()
        assert run.state == Run.STATE_FAILED
        assert run.error.code == run_pb2.RunError.CODE_INVALID_PROMPT
        assert "300" in run.error.message
        assert "256" in run.error.message


async def test_an_engine_fault_fails_the_run_and_frees_the_thread(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("half"), EngineFault("it broke")], HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        run = await client.stream(thread, assistant).result()
        assert (run.state, run.error.message) == (Run.STATE_FAILED, "it broke")
        assert (await messages(client, thread))[-1] == ("incomplete", "half")
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED


async def test_a_bug_in_the_engine_is_not_shown_to_the_client(serve: Serve) -> None:
    async with serve(ScriptedEngine([[ZeroDivisionError("secret")], HELLO])) as client:
        thread, assistant = await ask(client)
        run = await client.stream(thread, assistant).result()
        assert (run.state, run.error.message) == (Run.STATE_FAILED, "the server had an internal error")
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED


async def test_an_engine_lost_before_it_spoke_is_tried_again_silently(serve: Serve) -> None:
    engine = ScriptedEngine([[EngineUnavailable("gone")], HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        events = [event async for event in stream]
        assert (stream.run.state, stream.run.attempt) == (Run.STATE_COMPLETED, 1)
        assert kinds(events).count("run in_progress") == 1


async def test_an_engine_lost_in_the_middle_makes_a_new_attempt(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("Hel"), EngineUnavailable("gone")], HELLO])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        events = [event async for event in stream]
        assert kinds(events) == [
            "run queued",
            "run in_progress",
            "step in_progress",
            "message in_progress",
            "'Hel'",
            "run in_progress",
            "step in_progress",
            "message in_progress",
            "'Hello world'",
            "message completed",
            "step completed",
            "run completed",
        ]
        assert (stream.run.attempt, stream.text) == (2, "Hello world")
        assert len({e.step_changed.step.name for e in events if e.HasField("step_changed")}) == 1
        assert await messages(client, thread) == [("completed", "hi"), ("completed", "Hello world")]


async def test_an_engine_that_is_always_lost_fails_the_run_in_the_end(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("Hel"), EngineUnavailable("gone")]] * 5)
    async with serve(engine) as client:
        run = await client.stream(*(await ask(client))).result()
        assert run.state == Run.STATE_FAILED
        assert "5 attempts" in run.error.message
    engine.assert_consumed()


async def test_a_run_without_progress_expires(serve: Serve) -> None:
    async with serve(ScriptedEngine([[TextDelta("a"), asyncio.Event()], HELLO])) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant, ttl=Duration(seconds=1))
        assert (await stream.result()).state == Run.STATE_EXPIRED
        assert (await messages(client, thread))[-1] == ("incomplete", "a")
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED


async def test_a_run_on_an_empty_thread_fails_and_says_what_to_do(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted", instructions="Be kind.")
    thread = await client.create_thread()
    run = await client.stream(thread.name, assistant.name).result()
    assert run.error.code == run_pb2.RunError.CODE_INVALID_PROMPT
    assert run.error.message == "The thread has no messages: create one before the run."


async def test_an_empty_answer_is_an_answer(serve: Serve) -> None:
    async with serve(ScriptedEngine([[STOP]])) as client:
        thread, assistant = await ask(client)
        assert (await client.stream(thread, assistant).result()).state == Run.STATE_COMPLETED
        assert (await messages(client, thread))[-1] == ("completed", "")


async def test_reasoning_is_not_mixed_into_the_answer(serve: Serve) -> None:
    async with serve(ScriptedEngine([[ReasoningDelta("hm"), *HELLO]])) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        await stream.result()
        assert stream.text == "Hello world"


async def test_no_run_waits_for_tool_outputs(client: Client) -> None:
    thread, assistant = await ask(client)
    run = await client.stream(thread, assistant).result()
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    request = run_service_pb2.SubmitToolOutputsRequest(
        name=run.name, tool_outputs=[tool_pb2.ToolOutput(tool_call_id="call_1", output="x")]
    )
    with pytest.raises(Exception, match="does not accept tool outputs"):
        await stub.SubmitToolOutputs(request)
    assert NoActionRequired.reason == "NO_ACTION_REQUIRED"


async def test_a_run_created_twice_with_one_request_id_is_one_run(client: Client) -> None:
    thread, assistant = await ask(client)
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    request = run_service_pb2.CreateRunRequest(
        parent=thread, run=Run(assistant=assistant), request_id="123e4567-e89b-12d3-a456-426614174000"
    )
    first = await stub.CreateRun(request)
    events = [event async for event in stub.CreateRunStream(request)]
    assert events[0].run_changed.run.name == first.name
    assert events[-1].run_changed.run.state == Run.STATE_COMPLETED
    assert (await stub.CreateRun(request)).name == first.name


async def test_runs_are_listed_of_one_thread_and_of_all(client: Client) -> None:
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    first, second = await ask(client), await ask(client)
    made = [(await client.stream(*pair).result()).name for pair in (first, second, first)]
    all_runs = await stub.ListRuns(run_service_pb2.ListRunsRequest(parent="threads/-"))
    assert [run.name for run in all_runs.runs] == made[::-1]
    of_thread = await stub.ListRuns(run_service_pb2.ListRunsRequest(parent=second[0]))
    assert [run.name for run in of_thread.runs] == [made[1]]
