"""Outputs of tool calls: which are taken and which are refused, and runs that wait for them."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import (
    Run,
    RunStep,
)
from assistants.client_errors import error_of
from assistants.domain.errors import InvalidArgument, NoActionRequired, NotFound
from assistants.v1 import run_service_pb2, run_service_pb2_grpc, tool_pb2
from runtime.events import (
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from runtime.testing import ScriptedEngine, ScriptedStep
from tests.integration.conftest import Serve
from tests.integration.tool_turns import (
    PARIS,
    TWO_CALLS,
    answer,
    ask,
    call,
    kinds,
    outputs_for,
    paused,
    rest_of,
    steps_of,
)


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
