"""Runs that call functions of the client, over the wire: the pause, the outputs, and what can go wrong."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import (
    Client,
    Message,
    Run,
    RunEvent,
    RunStep,
    RunStream,
    Tool,
    ToolChoice,
    calls_of,
    function_tool,
    text_of,
)
from assistants.client_errors import error_of
from assistants.domain.errors import InvalidArgument, NoActionRequired, NotFound, RunActive
from assistants.v1 import common_pb2, run_pb2, run_service_pb2, run_service_pb2_grpc, tool_pb2
from runtime.errors import EngineUnavailable, OutputInvalid, SchemaRejected
from runtime.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import ChatMessage, ChatRole, FinishReason, NamedToolChoice, ToolChoiceMode, Usage, Vote
from tests.integration.conftest import Serve

USAGE = Usage(input_tokens=10, output_tokens=4, reasoning_output_tokens=1)
STOP = TurnEnd(FinishReason.STOP, USAGE)
CALLED = TurnEnd(FinishReason.TOOL_CALLS, USAGE)
WEATHER = function_tool(
    "get_weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NOW = function_tool("now")
REQUIRED = ToolChoice(mode=ToolChoice.MODE_REQUIRED)
PARIS = '{"city": "Paris"}'
SCHEMA = common_pb2.ResponseFormat(
    json_schema=common_pb2.JsonSchema(
        name="answer",
        schema_json='{"type": "object", "properties": {"n": {"type": "integer"}}}',
    )
)


def call(name: str = "get_weather", *pieces: str) -> list[ScriptedStep]:
    return [ToolCallStart("call_0", name), *map(ToolCallDelta, pieces or (PARIS,)), ToolCallEnd()]


def answer(text: str = "Sunny.") -> list[ScriptedStep]:
    return [TextDelta(text), STOP]


async def ask(client: Client, text: str = "hi", **assistant: Any) -> tuple[str, str]:
    """An assistant with tools, and a thread with one message; gives thread and assistant."""
    made = await client.create_assistant(**{"model": "scripted", "tools": [WEATHER, NOW], **assistant})
    thread = await client.create_thread()
    await client.create_message(thread.name, text)
    return thread.name, made.name


def kinds(events: Sequence[RunEvent]) -> list[str]:
    """Event kinds with the new state, and the pieces of deltas."""
    named = []
    for event in events:
        match event.WhichOneof("event"):
            case "run_changed":
                named.append("run " + Run.State.Name(event.run_changed.run.state)[6:].lower())
            case "step_changed":
                step = event.step_changed.step
                kind = str(step.WhichOneof("details")).removesuffix("_creation")
                named.append(f"{kind} step " + RunStep.State.Name(step.state)[6:].lower())
            case "message_changed":
                state = event.message_changed.message.state
                named.append("message " + Message.State.Name(state)[6:].lower())
            case "step_delta":
                named += [f"{c.index}:{c.name}:{c.arguments_json}" for c in event.step_delta.tool_calls]
            case _:
                named.append(repr(text_of(event)))
    return named


async def until_paused(stream: RunStream) -> list[RunEvent]:
    events = []
    async for event in stream:
        events.append(event)
        if calls_of(event):
            return events
    raise AssertionError(f"the run did not pause: {stream.run}")


async def rest_of(stream: RunStream) -> list[RunEvent]:
    return [event async for event in stream]


async def steps_of(client: Client, run: str) -> list[RunStep]:
    return [step async for step in client.list_run_steps(run)]


def outputs_for(calls: Sequence[tool_pb2.ToolCall], output: str = "sunny") -> dict[str, str]:
    return {call.id: output for call in calls}


async def test_a_run_pauses_for_its_calls_and_goes_on_with_the_outputs(serve: Serve) -> None:
    gate = asyncio.Event()
    calling: list[ScriptedStep] = [
        ToolCallStart("call_0", "get_weather"),
        ToolCallDelta('{"city"'),
        gate,
        ToolCallDelta(': "Paris"}'),
        ToolCallEnd(),
        CALLED,
    ]
    engine = ScriptedEngine([calling, answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client, instructions="Be kind.")
        stream = client.stream(thread, assistant)
        events = []
        async for event in stream:
            events.append(event)
            if event.HasField("step_delta"):
                gate.set()
            if calls := calls_of(event):
                break
        assert kinds(events) == [
            "run queued",
            "run in_progress",
            "tool_calls step in_progress",
            '0:get_weather:{"city"',
            '0::: "Paris"}',
            "tool_calls step in_progress",
            "run requires_action",
        ]
        [paused_call] = calls
        assert (paused_call.name, json.loads(paused_call.arguments_json)) == (
            "get_weather",
            {"city": "Paris"},
        )
        assert paused_call.id.startswith("call_0")
        assert len(paused_call.id) == len("call_") + 26
        assert events[3].step_delta.tool_calls[0].id == paused_call.id
        assert events[4].step_delta.tool_calls[0].id == ""
        assert not events[2].step_changed.step.tool_calls.tool_calls
        assert events[5].step_changed.step.tool_calls.tool_calls == [paused_call]
        paused = await client.get_run(stream.run.name)
        assert paused == stream.run
        assert paused.usage.output_tokens == 4
        assert paused.HasField("expire_time")
        with pytest.raises(RunActive):
            await client.create_message(thread, "more")

        submitted = await client.submit_tool_outputs(paused.name, {paused_call.id: "sunny"})
        assert submitted.state == Run.STATE_IN_PROGRESS
        assert not submitted.HasField("required_action")
        rest = await rest_of(stream)
        assert kinds(rest) == [
            "tool_calls step completed",
            "run queued",
            "run in_progress",
            "message step in_progress",
            "message in_progress",
            "'Sunny.'",
            "message completed",
            "message step completed",
            "run completed",
        ]
        assert [event.sequence for event in events + rest] == list(range(1, 17))
        run = stream.run
        assert (run.usage.input_tokens, run.usage.output_tokens) == (20, 8)
        assert run.usage.reasoning_output_tokens == 2
        assert run.attempt == 2
        assert run == await client.get_run(run.name)
        steps = await steps_of(client, run.name)
        assert list(stream.steps.values()) == steps
        assert [step.usage.output_tokens for step in steps] == [4, 4]
        [called] = steps[0].tool_calls.tool_calls
        assert (called.id, called.output, called.builtin) == (paused_call.id, "sunny", False)
        assert [event async for event in client.watch(run.name)] == events + rest

    first, second = engine.requests
    assert [tool.name for tool in first.tools] == ["get_weather", "now"]
    assert second.messages == (
        *first.messages,
        ChatMessage(
            role=ChatRole.ASSISTANT,
            tool_calls=(second.messages[-2].tool_calls[0],),
        ),
        ChatMessage(role=ChatRole.TOOL, content="sunny", tool_call_id=paused_call.id),
    )
    assert second.messages[-2].tool_calls[0].id == paused_call.id
    assert second.messages[-2].tool_calls[0].arguments_json == PARIS


async def test_two_calls_of_one_turn_share_a_step(serve: Serve) -> None:
    engine = ScriptedEngine([[*call(), *call("now", "{}"), CALLED], answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        events = await until_paused(stream)
        assert kinds(events)[-4:] == [
            f"0:get_weather:{PARIS}",
            "1:now:{}",
            "tool_calls step in_progress",
            "run requires_action",
        ]
        first, second = stream.run.required_action.tool_calls
        assert first.id != second.id
        await client.submit_tool_outputs(stream.run.name, {second.id: "noon", first.id: ""})
        assert (await stream.result()).state == Run.STATE_COMPLETED
        [step, _] = await steps_of(client, stream.run.name)
        assert [made.output for made in step.tool_calls.tool_calls] == ["", "noon"]
        assert all(made.HasField("output") for made in step.tool_calls.tool_calls)
    tools = [m for m in engine.requests[1].messages if m.role is ChatRole.TOOL]
    assert [(m.tool_call_id, m.content) for m in tools] == [(first.id, ""), (second.id, "noon")]


async def test_a_turn_that_speaks_then_calls_makes_two_steps(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("Let me see."), *call(), CALLED], answer(), answer("Again.")])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        events = await until_paused(stream)
        assert kinds(events)[2:] == [
            "message step in_progress",
            "message in_progress",
            "'Let me see.'",
            "tool_calls step in_progress",
            f"0:get_weather:{PARIS}",
            "message completed",
            "message step completed",
            "tool_calls step in_progress",
            "run requires_action",
        ]
        await client.submit_tool_outputs(stream.run.name, outputs_for(stream.run.required_action.tool_calls))
        await stream.result()
        steps = await steps_of(client, stream.run.name)
        assert [step.WhichOneof("details") for step in steps] == [
            "message_creation",
            "tool_calls",
            "message_creation",
        ]
        assert [step.index for step in steps] == [0, 1, 2]
        assert [step.HasField("usage") for step in steps] == [False, True, True]
        assert stream.text == "Let me see.Sunny."
        await client.create_message(thread, "And now?")
        await client.stream(thread, assistant).result()
    second, third = engine.requests[1:]
    assert [(m.role.value, m.content) for m in second.messages] == [
        ("user", "hi"),
        ("assistant", "Let me see."),
        ("tool", "sunny"),
    ]
    assert second.messages[1].tool_calls
    # What is left for later runs is what the thread has.
    assert [(m.role.value, m.content) for m in third.messages] == [
        ("user", "hi"),
        ("assistant", "Let me see."),
        ("assistant", "Sunny."),
        ("user", "And now?"),
    ]


async def test_several_rounds_are_one_run(serve: Serve) -> None:
    rounds = 4
    engine = ScriptedEngine([*([*call(), CALLED] for _ in range(rounds)), answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        seen = []
        while calls := await stream.next_calls():
            seen += [made.id for made in calls]
            await client.submit_tool_outputs(stream.run.name, outputs_for(calls, str(len(seen))))
        assert stream.run.state == Run.STATE_COMPLETED
        assert len(set(seen)) == rounds
        assert len(await steps_of(client, stream.run.name)) == rounds + 1
        assert stream.run.usage.output_tokens == 4 * (rounds + 1)
    last = engine.requests[-1].messages
    assert [m.content for m in last if m.role is ChatRole.TOOL] == ["1", "2", "3", "4"]
    assert [r.tool_choice for r in engine.requests] == [ToolChoiceMode.AUTO] * (rounds + 1)


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        (REQUIRED, ToolChoiceMode.REQUIRED),
        (ToolChoice(tool="now"), NamedToolChoice(name="now")),
        (ToolChoice(mode=ToolChoice.MODE_NONE), ToolChoiceMode.NONE),
    ],
)
async def test_a_choice_that_demands_a_call_holds_for_the_first_turn_only(
    serve: Serve, choice: ToolChoice, asked: object
) -> None:
    calls = asked is not ToolChoiceMode.NONE
    engine = ScriptedEngine([[*call("now", "{}"), CALLED], answer()] if calls else [answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant, tool_choice=choice, parallel_tool_calls=False)
        if calls:
            waiting = await stream.next_calls()
            await client.submit_tool_outputs(stream.run.name, outputs_for(waiting))
        assert (await stream.result()).state == Run.STATE_COMPLETED
    expected = [asked, ToolChoiceMode.AUTO] if calls else [asked]
    assert [request.tool_choice for request in engine.requests] == expected
    assert not engine.requests[0].parallel_tool_calls


async def paused(client: Client, **run: Any) -> RunStream:
    """A run that waits for two calls."""
    stream = client.stream(*(await ask(client)), **run)
    await until_paused(stream)
    return stream


TWO_CALLS: list[ScriptedStep] = [*call(), *call("now", "{}"), CALLED]


async def test_outputs_that_do_not_fit_the_calls_are_refused_and_the_run_waits(serve: Serve) -> None:
    async with serve(ScriptedEngine([TWO_CALLS, answer()])) as client:
        stream = await paused(client)
        name = stream.run.name
        first, second = (made.id for made in stream.run.required_action.tool_calls)
        stub = run_service_pb2_grpc.RunServiceStub(client.channel)

        async def refused(*ids: str) -> dict[str, list[str]]:
            outputs = [tool_pb2.ToolOutput(tool_call_id=call_id, output="x") for call_id in ids]
            request = run_service_pb2.SubmitToolOutputsRequest(name=name, tool_outputs=outputs)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.SubmitToolOutputs(request)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            told = error_of(error.value)
            assert isinstance(told, InvalidArgument)
            fields: dict[str, list[str]] = {}
            for violation in told.violations:
                fields.setdefault(violation.field, []).append(violation.description)
            return fields

        missing = await refused(first)
        assert missing == {
            "tool_outputs": [
                f"Expected tool outputs for call_ids ['{first}', '{second}'], got ['{first}']",
                f"has no output for the call '{second}'",
            ]
        }
        unknown = await refused(first, second, "call_x")
        assert unknown["tool_outputs[2].tool_call_id"] == ["must be an open call of the run, got 'call_x'"]
        double = await refused(first, second, first)
        assert double["tool_outputs[2].tool_call_id"] == [f"must be given once, got '{first}' again"]
        assert list(await refused()) == ["tool_outputs"]
        assert list(await refused("")) == ["tool_outputs[0].tool_call_id"]
        with pytest.raises(InvalidArgument, match="at most 256000 characters, got 256001"):
            await client.submit_tool_outputs(name, {first: "x" * 256_001, second: ""})
        assert (await client.get_run(name)).state == Run.STATE_REQUIRES_ACTION
        assert (await client.get_run(name)).last_sequence == stream.last_sequence

        await client.submit_tool_outputs(name, {first: "x" * 256_000, second: ""})
        assert (await stream.result()).state == Run.STATE_COMPLETED
        with pytest.raises(NoActionRequired, match="'completed'"):
            await client.submit_tool_outputs(name, {first: "", second: ""})
        with pytest.raises(NotFound):
            await client.submit_tool_outputs(name + "x", {first: ""})


async def test_a_run_that_is_executing_takes_no_outputs(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(ScriptedEngine([[gate, *answer()]])) as client:
        run = await client.create_run(*(await ask(client)))
        with pytest.raises(NoActionRequired, match="'in_progress'"):
            await client.submit_tool_outputs(run.name, {"call_x": ""})
        gate.set()
        assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED


async def test_outputs_sent_twice_under_one_request_id_are_taken_once(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(ScriptedEngine([TWO_CALLS, [gate, *answer()]])) as client:
        stream = await paused(client)
        stub = run_service_pb2_grpc.RunServiceStub(client.channel)
        request = run_service_pb2.SubmitToolOutputsRequest(
            name=stream.run.name,
            tool_outputs=[
                tool_pb2.ToolOutput(tool_call_id=made.id, output="x")
                for made in stream.run.required_action.tool_calls
            ],
            request_id="0d7f5b0e-6f0a-4b51-9d52-3d3a3a1d1b10",
        )
        first, *others = await asyncio.gather(*(stub.SubmitToolOutputs(request) for _ in range(5)))
        assert all(other.name == first.name for other in others)
        gate.set()
        run = await stream.result()
        assert run.state == Run.STATE_COMPLETED
        assert (await stub.SubmitToolOutputs(request)) == run
        states = [
            event.run_changed.run.state
            async for event in client.watch(run.name)
            if event.HasField("run_changed")
        ]
        assert states.count(Run.STATE_QUEUED) == 2
        request.tool_outputs[0].output = "y"
        with pytest.raises(grpc.aio.AioRpcError, match="was used with another request"):
            await stub.SubmitToolOutputs(request)


async def test_of_many_racing_submissions_one_is_taken(serve: Serve) -> None:
    async with serve(ScriptedEngine([TWO_CALLS, answer()])) as client:
        stream = await paused(client)
        outputs = outputs_for(stream.run.required_action.tool_calls)
        outcomes = await asyncio.gather(
            *(client.submit_tool_outputs(stream.run.name, outputs) for _ in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Run) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, NoActionRequired) for outcome in outcomes) == 9
        assert (await stream.result()).state == Run.STATE_COMPLETED


async def test_a_paused_run_holds_no_slot_and_waits_for_one_after_its_outputs(serve: Serve) -> None:
    gates = [asyncio.Event() for _ in range(2)]
    turns = [TWO_CALLS, *([gate, *answer()] for gate in gates), answer("At last.")]
    async with serve(ScriptedEngine(turns, slots=1)) as client:
        stream = await paused(client)
        busy = [await client.create_run(*(await ask(client))) for _ in range(2)]
        assert [run.state for run in busy] == [Run.STATE_IN_PROGRESS] * 2
        outputs = outputs_for(stream.run.required_action.tool_calls)
        assert (await client.submit_tool_outputs(stream.run.name, outputs)).state == Run.STATE_QUEUED
        for gate in gates:
            gate.set()
        assert (await stream.result()).state == Run.STATE_COMPLETED
        assert stream.text == "At last."


async def test_cancel_while_paused_ends_run_and_step_at_once(serve: Serve) -> None:
    async with serve(ScriptedEngine([TWO_CALLS, answer()])) as client:
        stream = await paused(client)
        cancelled = await client.cancel_run(stream.run.name)
        assert cancelled.state == Run.STATE_CANCELLED
        assert not cancelled.HasField("required_action")
        assert kinds(await rest_of(stream)) == ["tool_calls step cancelled", "run cancelled"]
        [step] = await steps_of(client, stream.run.name)
        assert [made.HasField("output") for made in step.tool_calls.tool_calls] == [False, False]
        with pytest.raises(NoActionRequired, match="'cancelled'"):
            await client.submit_tool_outputs(stream.run.name, outputs_for(step.tool_calls.tool_calls))
        thread = stream.run.name.rsplit("/", 2)[0]
        again = await client.stream(thread, stream.run.assistant).result()
        assert again.state == Run.STATE_COMPLETED


async def test_a_run_whose_outputs_do_not_come_expires(serve: Serve) -> None:
    async with serve(ScriptedEngine([TWO_CALLS])) as client:
        stream = await paused(client, ttl=Duration(seconds=1))
        assert kinds(await rest_of(stream)) == ["tool_calls step expired", "run expired"]
        with pytest.raises(NoActionRequired, match="'expired'"):
            await client.submit_tool_outputs(
                stream.run.name, outputs_for(next(iter(stream.steps.values())).tool_calls.tool_calls)
            )


async def test_cancel_in_the_middle_of_a_call_keeps_only_whole_calls(serve: Serve) -> None:
    calling: list[ScriptedStep] = [
        *call(),
        ToolCallStart("call_1", "get_weather"),
        ToolCallDelta('{"ci'),
        asyncio.Event(),
    ]
    async with serve(ScriptedEngine([calling])) as client:
        stream = client.stream(*(await ask(client)))
        async for event in stream:
            if any(piece.index == 1 for piece in event.step_delta.tool_calls):
                await client.cancel_run(stream.run.name)
        assert stream.run.state == Run.STATE_CANCELLED
        [step] = await steps_of(client, stream.run.name)
        assert step.state == RunStep.STATE_CANCELLED
        assert [made.arguments_json for made in step.tool_calls.tool_calls] == [PARIS]
        assert list(stream.steps.values()) == [step]


async def test_a_paused_run_goes_on_with_another_server(serve: Serve) -> None:
    async with serve(ScriptedEngine([[TextDelta("Wait."), *TWO_CALLS]])) as client:
        stream = await paused(client)
    engine = ScriptedEngine([answer()])
    async with serve(engine) as client:
        watching = client.watch(stream.run.name, after_sequence=stream.last_sequence)
        assert await client.get_run(stream.run.name) == stream.run
        outputs = outputs_for(stream.run.required_action.tool_calls)
        await client.submit_tool_outputs(stream.run.name, outputs)
        assert (await watching.result()).state == Run.STATE_COMPLETED
        assert len(await steps_of(client, stream.run.name)) == 3
    [request] = engine.requests
    assert [(m.role.value, m.content) for m in request.messages] == [
        ("user", "hi"),
        ("assistant", "Wait."),
        ("tool", "sunny"),
        ("tool", "sunny"),
    ]
    assert [made.id for made in request.messages[1].tool_calls] == list(outputs)


async def test_a_call_that_is_lost_in_the_middle_is_begun_again(serve: Serve) -> None:
    lost: list[ScriptedStep] = [
        TextDelta("Let me"),
        ToolCallStart("call_0", "now"),
        ToolCallDelta("{"),
        EngineUnavailable("gone"),
    ]
    engine = ScriptedEngine([lost, [TextDelta("Let me see."), *call(), CALLED], answer()])
    async with serve(engine) as client:
        stream = client.stream(*(await ask(client)), tool_choice=REQUIRED)
        events = await until_paused(stream)
        assert stream.run.attempt == 2
        [made] = stream.run.required_action.tool_calls
        assert made.name == "get_weather"
        await client.submit_tool_outputs(stream.run.name, outputs_for([made]))
        await stream.result()
        steps = await steps_of(client, stream.run.name)
        assert list(stream.steps.values()) == steps
        assert [step.state for step in steps] == [RunStep.STATE_COMPLETED] * 3
        assert stream.text == "Let me see.Sunny."
        assert kinds(events).count("message in_progress") == 2
    choices = [request.tool_choice for request in engine.requests]
    assert choices == [ToolChoiceMode.REQUIRED, ToolChoiceMode.REQUIRED, ToolChoiceMode.AUTO]


@pytest.mark.parametrize("paused_again", [False, True], ids=["then answers", "then calls"])
async def test_what_a_repeated_turn_does_without_is_ended(serve: Serve, paused_again: bool) -> None:
    spoke_and_called: list[ScriptedStep] = [
        TextDelta("Let me"),
        ToolCallStart("call_0", "now"),
        EngineUnavailable("gone"),
    ]
    again: list[ScriptedStep] = [*call(), CALLED] if paused_again else answer()
    async with serve(ScriptedEngine([spoke_and_called, again, answer()])) as client:
        stream = client.stream(*(await ask(client)))
        while calls := await stream.next_calls():
            await client.submit_tool_outputs(stream.run.name, outputs_for(calls))
        assert stream.run.state == Run.STATE_COMPLETED
        steps = await steps_of(client, stream.run.name)
        assert sorted(stream.steps.values(), key=lambda step: step.index) == steps
        thread = stream.run.name.rsplit("/", 2)[0]
        stored = [message async for message in client.list_messages(thread, run=stream.run.name)]
        assert list(stream.messages.values()) == stored
        assert stream.text == "Sunny."
        if paused_again:
            assert [step.state for step in steps] == [
                RunStep.STATE_CANCELLED,
                RunStep.STATE_COMPLETED,
                RunStep.STATE_COMPLETED,
            ]
            assert stored[0].incomplete_reason == Message.INCOMPLETE_REASON_ATTEMPT_LOST
        else:
            assert [step.state for step in steps] == [RunStep.STATE_COMPLETED, RunStep.STATE_CANCELLED]


async def test_resuming_is_no_fruitless_attempt(serve: Serve) -> None:
    rounds = 7
    lost: list[ScriptedStep] = [TextDelta("x"), EngineUnavailable("gone")]
    turns = [turn for _ in range(rounds) for turn in (lost, [*call(), CALLED])]
    async with serve(ScriptedEngine([*turns, answer()])) as client:
        stream = client.stream(*(await ask(client)))
        while calls := await stream.next_calls():
            await client.submit_tool_outputs(stream.run.name, outputs_for(calls))
        assert stream.run.state == Run.STATE_COMPLETED
        assert stream.run.attempt == 2 * rounds + 1


async def test_limits_hold_for_the_whole_run(serve: Serve) -> None:
    calling: list[ScriptedStep] = [*call(), CALLED]
    reading: list[ScriptedStep] = [
        *call(),
        TurnEnd(FinishReason.TOOL_CALLS, Usage(input_tokens=390, output_tokens=4)),
    ]
    engine = ScriptedEngine([calling] * 4 + [reading])
    async with serve(engine) as client:

        async def ends(**limits: Any) -> Run:
            stream = client.stream(*(await ask(client)), **limits)
            while calls := await stream.next_calls():
                await client.submit_tool_outputs(stream.run.name, outputs_for(calls))
            return stream.run

        run = await ends(max_turns=2)
        assert (run.state, run.incomplete_reason) == (
            Run.STATE_INCOMPLETE,
            Run.INCOMPLETE_REASON_MAX_TURNS,
        )
        assert [step.state for step in await steps_of(client, run.name)] == [RunStep.STATE_COMPLETED] * 2
        run = await ends(max_output_tokens=8)
        assert run.incomplete_reason == Run.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS
        assert run.usage.output_tokens == 8
        run = await ends(max_input_tokens=400)  # what is left does not hold the next prompt
        assert run.incomplete_reason == Run.INCOMPLETE_REASON_MAX_INPUT_TOKENS
        assert run.usage.input_tokens == 390
    assert [request.max_output_tokens for request in engine.requests] == [None, None, 8, 4, None]


async def test_reasoning_stays_within_its_run(serve: Serve) -> None:
    thinking: list[ScriptedStep] = [ReasoningDelta("hm "), ReasoningDelta("hm"), *call(), CALLED]
    engine = ScriptedEngine([thinking, answer(), answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        await until_paused(stream)
        assert not stream.messages
        await client.submit_tool_outputs(stream.run.name, outputs_for(stream.run.required_action.tool_calls))
        await stream.result()
        told = repr([event async for event in client.watch(stream.run.name)])
        [step, _] = await steps_of(client, stream.run.name)
        stub = run_service_pb2_grpc.RunServiceStub(client.channel)
        got = await stub.GetRunStep(run_service_pb2.GetRunStepRequest(name=step.name))
        assert "hm" not in told + repr(step) + repr(got)
        await client.create_message(thread, "next")
        await client.stream(thread, assistant).result()
    assert engine.requests[1].messages[-2].reasoning == "hm hm"
    assert not any(message.reasoning for message in engine.requests[2].messages)


async def test_reasoning_is_its_own_part_when_asked_for(serve: Serve) -> None:
    engine = ScriptedEngine(
        [[ReasoningDelta("hm"), *call(), CALLED], [ReasoningDelta("so"), *answer()], answer()]
    )
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant, include_reasoning=True)
        await until_paused(stream)
        [step] = [step for step in stream.steps.values() if step.HasField("tool_calls")]
        assert step.tool_calls.reasoning == "hm"
        await client.submit_tool_outputs(stream.run.name, outputs_for(stream.run.required_action.tool_calls))
        await stream.result()
        stored = [message async for message in client.list_messages(thread, run=stream.run.name)]
        assert [[part.WhichOneof("part") for part in message.content] for message in stored] == [
            ["reasoning"],
            ["reasoning", "text"],
        ]
        assert list(stream.messages.values()) == stored
        assert stream.text == "Sunny."
        await client.create_message(thread, "next")
        await client.stream(thread, assistant).result()
    assert [m.content for m in engine.requests[1].messages] == ["hi", "", "sunny"]
    assert [m.content for m in engine.requests[2].messages] == ["hi", "Sunny.", "next"]


async def test_votes_and_an_early_close_are_kept_on_the_step(serve: Serve) -> None:
    end = TurnEnd(
        FinishReason.STOP,
        USAGE,
        votes=(Vote(answer="42", count=3), Vote(answer="41", count=1)),
        closed_early=True,
    )
    engine = ScriptedEngine([[TextDelta("42"), end]])
    async with serve(engine) as client:
        stream = client.stream(*(await ask(client)), consensus=4)
        await stream.result()
        [step] = await steps_of(client, stream.run.name)
        assert [(vote.answer, vote.count) for vote in step.votes] == [("42", 3), ("41", 1)]
        assert step.closed_early
    assert engine.requests[0].consensus == 4


def invalid(document: str) -> OutputInvalid:
    usage = Usage(input_tokens=10, output_tokens=3)
    return OutputInvalid(document=document, violations=(f"/n: {document!r} is no n",), usage=usage)


async def test_an_answer_that_misses_its_schema_is_asked_for_again(serve: Serve) -> None:
    engine = ScriptedEngine([[invalid("a")], [invalid("b")], answer('{"n": 1}')])
    async with serve(engine) as client:
        stream = client.stream(*(await ask(client)), response_format=SCHEMA, max_output_tokens=100)
        events = [event async for event in stream]
        assert stream.run.state == Run.STATE_COMPLETED
        assert stream.text == '{"n": 1}'
        assert kinds(events).count("run in_progress") == 1
        assert (stream.run.usage.input_tokens, stream.run.usage.output_tokens) == (30, 10)
        [step] = await steps_of(client, stream.run.name)
        assert step.usage == stream.run.usage
    first, second, third = engine.requests
    assert second.messages[:-2] == first.messages
    assert third.messages[:-2] == second.messages
    told, objection = second.messages[-2:]
    assert (told.role, told.content) == (ChatRole.ASSISTANT, "a")
    assert "/n: 'a' is no n" in objection.content
    assert [request.max_output_tokens for request in engine.requests] == [100, 97, 94]


async def test_a_run_fails_when_no_answer_satisfies_its_schema(serve: Serve) -> None:
    engine = ScriptedEngine([[invalid(text)] for text in "abc"])
    async with serve(engine) as client:
        run = await client.stream(*(await ask(client)), response_format=SCHEMA).result()
        assert run.state == Run.STATE_FAILED
        assert run.error.code == run_pb2.RunError.CODE_OUTPUT_INVALID
        assert "/n: 'c' is no n" in run.error.message
        assert run.usage.output_tokens == 9
    engine.assert_consumed()


async def test_a_schema_that_the_engine_refuses_fails_the_run(serve: Serve) -> None:
    rejected = SchemaRejected("keyword 'not' has no grammar", subject="response_format", path="/not")
    async with serve(ScriptedEngine([[rejected]])) as client:
        run = await client.stream(*(await ask(client)), response_format=SCHEMA).result()
        assert run.error.code == run_pb2.RunError.CODE_INVALID_PROMPT
        assert "/not" in run.error.message


async def test_an_engine_that_calls_what_it_was_not_given_is_at_fault(serve: Serve) -> None:
    async with serve(ScriptedEngine([[*call("rm_rf", "{}"), CALLED], [*answer()[:-1], CALLED]])) as client:
        for _ in range(2):
            run = await client.stream(*(await ask(client))).result()
            assert run.state == Run.STATE_FAILED
            assert run.error.code == run_pb2.RunError.CODE_SERVER_ERROR


def schema_tool(schema: str, **fields: Any) -> Tool:
    return Tool(function=tool_pb2.FunctionTool(name="f", parameters_json=schema, **fields))


BAD: Sequence[tuple[Mapping[str, Any], str, str]] = [
    ({"tools": [function_tool("a b")]}, "tools[0].function.name", "must match"),
    ({"tools": [function_tool("x" * 65)]}, "tools[0].function.name", "must match"),
    ({"tools": [NOW, WEATHER, NOW]}, "tools[2].function.name", "must be unique in the list, got 'now'"),
    ({"tools": [function_tool("f", "x" * 4_097)]}, "tools[0].function.description", "4096"),
    ({"tools": [function_tool(f"f{n}") for n in range(129)]}, "tools", "0 to 128 items, got 129"),
    ({"tools": [NOW, schema_tool("{")]}, "tools[1].function.parameters_json", "schema"),
    (
        {"tools": [schema_tool('{"type": "object", "properties": {"a": {"type": "strange"}}}')]},
        "tools[0].function.parameters_json",
        "/properties/a",
    ),
    (
        {"tools": [schema_tool('{"type": "object", "properties": {"a": {}}}', strict=True)]},
        "tools[0].function.parameters_json",
        "schema",
    ),
    (
        {
            "response_format": common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="a b", schema_json="{}")
            )
        },
        "response_format.json_schema.name",
        "must match",
    ),
    (
        {
            "response_format": common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="a", schema_json="[]")
            )
        },
        "response_format.json_schema.schema_json",
        "schema",
    ),
]


@pytest.mark.parametrize(("fields", "path", "rule"), BAD, ids=range(len(BAD)))
async def test_bad_tools_and_formats_are_refused_before_anything_is_stored(
    client: Client, fields: Mapping[str, Any], path: str, rule: str
) -> None:
    def told(error: InvalidArgument, prefix: str) -> str:
        return next(v.description for v in error.violations if v.field == f"{prefix}.{path}")

    with pytest.raises(InvalidArgument) as refused:
        await client.create_assistant(model="scripted", **fields)
    assert rule in told(refused.value, "assistant")
    assert [assistant async for assistant in client.list_assistants()] == []
    thread, assistant = await ask(client)
    made = await client.get_assistant(assistant)
    made.ClearField("tools")
    for name, value in fields.items():
        if isinstance(value, list):
            made.tools.extend(value)
        else:
            getattr(made, name).CopyFrom(value)
    with pytest.raises(InvalidArgument):
        await client.update_assistant(made, *fields)
    with pytest.raises(InvalidArgument) as refused:
        await client.create_run(thread, assistant, **fields)
    assert rule in told(refused.value, "run")
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    assert not (await stub.ListRuns(run_service_pb2.ListRunsRequest(parent="threads/-"))).runs


async def test_a_choice_that_cannot_be_met_is_refused(client: Client) -> None:
    thread, assistant = await ask(client)
    with pytest.raises(InvalidArgument, match=r"run\.tool_choice\.tool: must name one of tools .*'f'"):
        await client.create_run(thread, assistant, tool_choice=ToolChoice(tool="f"))
    thread, assistant = await ask(client, tools=[])
    with pytest.raises(InvalidArgument, match=r"run\.tool_choice\.mode: must not be required without tools"):
        await client.create_run(thread, assistant, tool_choice=REQUIRED)
    run = await client.stream(thread, assistant, tool_choice=ToolChoice(mode=ToolChoice.MODE_NONE)).result()
    assert run.state == Run.STATE_COMPLETED
