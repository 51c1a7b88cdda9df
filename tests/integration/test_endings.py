"""How runs end, from whatever they were at: the states of run, steps and messages, usage and errors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import (
    Client,
    Message,
    Run,
    RunStep,
    RunStream,
    ToolChoice,
    function_tool,
    user_message,
)
from assistants.v1 import common_pb2
from assistants.v1.run_pb2 import RunError
from runtime.errors import ContextExceeded, EngineFault, OutputInvalid, PromptRejected
from runtime.events import TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import ChatRole, Effort, FinishReason, JsonObjectFormat, ToolChoiceMode, Usage
from tests.integration.conftest import Serve

FIRST, SECOND = Usage(input_tokens=10, output_tokens=4), Usage(input_tokens=20, output_tokens=6)
CALL: list[ScriptedStep] = [ToolCallStart("c", "now"), ToolCallDelta("{}"), ToolCallEnd()]
CALLED: list[ScriptedStep] = [TextDelta("Let me see."), *CALL, TurnEnd(FinishReason.TOOL_CALLS, FIRST)]
TOOLS = [function_tool("now")]

CANCELLED, FAILED, EXPIRED, INCOMPLETE = (
    Run.STATE_CANCELLED,
    Run.STATE_FAILED,
    Run.STATE_EXPIRED,
    Run.STATE_INCOMPLETE,
)
STEP_STATES = {
    CANCELLED: RunStep.STATE_CANCELLED,
    FAILED: RunStep.STATE_FAILED,
    EXPIRED: RunStep.STATE_EXPIRED,
    INCOMPLETE: RunStep.STATE_INCOMPLETE,
}
REASONS = {
    CANCELLED: Message.INCOMPLETE_REASON_RUN_CANCELLED,
    FAILED: Message.INCOMPLETE_REASON_RUN_FAILED,
    EXPIRED: Message.INCOMPLETE_REASON_RUN_EXPIRED,
    INCOMPLETE: Message.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
}


@dataclass(frozen=True)
class Phase:
    """What a run is at when it ends."""

    turns: Sequence[Sequence[ScriptedStep]]
    """Whole turns before; the one that ends the run is added to the last of them."""
    steps: Sequence[str]
    """Kinds of steps; the ones that are whole by then begin with +."""
    texts: Sequence[str]
    """Of messages; whole ones begin with +."""
    usage: int
    """Output tokens of the turns that were whole."""


PHASES = {
    "thinking of an answer": Phase([[]], [], [], 0),
    "speaking": Phase([[TextDelta("half ")]], ["message"], ["half "], 0),
    "calling": Phase(
        [[TextDelta("I ask. "), ToolCallStart("c", "now"), ToolCallDelta('{"a')]],
        ["message", "calls"],
        ["I ask. "],
        0,
    ),
    "speaking after a call": Phase(
        [CALLED, [TextDelta("It ")]],
        ["+message", "+calls", "message"],
        ["+Let me see.", "It "],
        FIRST.output_tokens,
    ),
}


def end_of(state: Run.State.ValueType, gate: asyncio.Event) -> list[ScriptedStep]:
    match state:
        case Run.STATE_FAILED:
            return [EngineFault("it broke")]
        case Run.STATE_INCOMPLETE:
            return [TurnEnd(FinishReason.LENGTH, SECOND)]
        case _:
            return [gate]


async def end(client: Client, stream: RunStream, state: Run.State.ValueType, spoken: Sequence[str]) -> Run:
    """Sees the run to its end, submitting what it asks for on the way, and cancelling it if need be."""
    cancelling = state == CANCELLED and not spoken
    async for event in stream:
        if calls := event.run_changed.run.required_action.tool_calls:
            await client.submit_tool_outputs(stream.run.name, {call.id: "noon" for call in calls})
        begun = [text.removeprefix("+") for text in spoken]
        said = [m.content[0].text.value for m in stream.messages.values() if m.content]
        in_progress = event.run_changed.run.state == Run.STATE_IN_PROGRESS
        if state == CANCELLED and not cancelling and begun and said == begun:
            cancelling = True
            await client.cancel_run(stream.run.name)
        elif cancelling and in_progress:
            await client.cancel_run(stream.run.name)
    return stream.run


@pytest.mark.parametrize("state", [CANCELLED, FAILED, EXPIRED, INCOMPLETE], ids=Run.State.Name)
@pytest.mark.parametrize("name", PHASES)
async def test_an_end_while(serve: Serve, name: str, state: Run.State.ValueType) -> None:
    phase = PHASES[name]
    *before, last = phase.turns
    gate = asyncio.Event()
    engine = ScriptedEngine([*before, [*last, *end_of(state, gate)]])
    async with asyncio.timeout(30), serve(engine) as client:
        assistant = await client.create_assistant(model="scripted", tools=TOOLS)
        ttl = Duration(seconds=1 if state == EXPIRED else 600)
        stream = client.stream_thread_and_run(assistant.name, "What time is it?", ttl=ttl)
        run = await end(client, stream, state, phase.texts)
        assert run.state == state
        assert run == await client.get_run(run.name)
        assert run.HasField("end_time")
        assert not run.HasField("expire_time")
        assert not run.HasField("required_action")
        assert run.HasField("error") == (state == FAILED)
        assert (run.incomplete_reason != 0) == (state == INCOMPLETE)
        assert run.usage.output_tokens == phase.usage + (SECOND.output_tokens if state == INCOMPLETE else 0)
        steps = [step async for step in client.list_run_steps(run.name)]
        thread = run.name.split("/runs/")[0]
        messages = [message async for message in client.list_messages(thread, run=run.name)]
        if name == "thinking of an answer" and state == INCOMPLETE:
            # The turn came to its end, and said nothing.
            assert [step.state for step in steps] == [RunStep.STATE_INCOMPLETE]
            assert [message.state for message in messages] == [Message.STATE_INCOMPLETE]
            return
        kinds = ["message" if step.HasField("message_creation") else "calls" for step in steps]
        assert kinds == [kind.removeprefix("+") for kind in phase.steps]
        assert [step.state for step in steps] == [
            RunStep.STATE_COMPLETED if kind.startswith("+") else STEP_STATES[state] for kind in phase.steps
        ]
        assert all(step.HasField("end_time") for step in steps)
        assert all(step.HasField("error") == (step.state == RunStep.STATE_FAILED) for step in steps)
        assert {step.error.message for step in steps if step.HasField("error")} <= {run.error.message}
        texts = [message.content[0].text.value for message in messages]
        assert texts == [text.removeprefix("+") for text in phase.texts]
        for message, text in zip(messages, phase.texts, strict=True):
            if text.startswith("+"):
                assert (message.state, message.incomplete_reason) == (Message.STATE_COMPLETED, 0)
            else:
                assert (message.state, message.incomplete_reason) == (
                    Message.STATE_INCOMPLETE,
                    REASONS[state],
                )
        await client.create_message(thread, "The thread is free.")


@pytest.mark.parametrize("state", [CANCELLED, EXPIRED], ids=Run.State.Name)
async def test_an_end_while_the_client_is_waited_for(serve: Serve, state: Run.State.ValueType) -> None:
    async with asyncio.timeout(30), serve(ScriptedEngine([CALLED])) as client:
        assistant = await client.create_assistant(model="scripted", tools=TOOLS)
        ttl = Duration(seconds=1 if state == EXPIRED else 600)
        stream = client.stream_thread_and_run(assistant.name, "What time is it?", ttl=ttl)
        (call,) = await stream.next_calls()
        run_id, step_id, call_id = call.idempotency_key.split(":")
        assert stream.run.name.endswith(f"/{run_id}")
        assert call_id == call.id
        if state == CANCELLED:
            cancelled = await client.cancel_run(stream.run.name)
            assert cancelled.state == CANCELLED
        run = await stream.result()
        assert run.state == state
        assert run.usage.output_tokens == FIRST.output_tokens
        spoke, called = [step async for step in client.list_run_steps(run.name)]
        assert (spoke.state, called.state) == (RunStep.STATE_COMPLETED, STEP_STATES[state])
        assert called.name.endswith(f"/{step_id}")
        assert [c.HasField("output") for c in called.tool_calls.tool_calls] == [False]
        (message,) = [m async for m in client.list_messages(run.name.split("/runs/")[0], run=run.name)]
        assert message.state == Message.STATE_COMPLETED


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (EngineFault("it broke"), RunError.CODE_SERVER_ERROR, "it broke"),
        (RuntimeError("a secret"), RunError.CODE_SERVER_ERROR, "the server had an internal error"),
        (PromptRejected("no"), RunError.CODE_INVALID_PROMPT, "no"),
        (ContextExceeded(prompt_tokens=9, context_tokens=8), RunError.CODE_INVALID_PROMPT, "9"),
        (
            OutputInvalid(document="x", violations=("at /n",), usage=SECOND),
            RunError.CODE_OUTPUT_INVALID,
            "at /n",
        ),
    ],
)
async def test_a_failure_has_its_code(
    serve: Serve, failure: Exception, code: RunError.Code.ValueType, message: str
) -> None:
    async with asyncio.timeout(30), serve(ScriptedEngine([[failure]] * 5)) as client:
        assistant = await client.create_assistant(model="scripted")
        run = await client.stream_thread_and_run(assistant.name, "hi").result()
        assert (run.state, run.error.code) == (FAILED, code)
        assert message in run.error.message


async def test_usage_is_the_sum_over_the_steps(serve: Serve) -> None:
    answer: list[ScriptedStep] = [TextDelta("Noon."), TurnEnd(FinishReason.STOP, SECOND)]
    async with asyncio.timeout(30), serve(ScriptedEngine([CALLED, CALLED, answer])) as client:
        assistant = await client.create_assistant(model="scripted", tools=TOOLS)
        stream = client.stream_thread_and_run(assistant.name, "What time is it?")
        while calls := await stream.next_calls():
            await client.submit_tool_outputs(stream.run.name, {call.id: "noon" for call in calls})
        steps = [step async for step in client.list_run_steps(stream.run.name)]
        assert {step.state for step in steps} == {RunStep.STATE_COMPLETED}
        total = 2 * FIRST.output_tokens + SECOND.output_tokens
        assert stream.run.usage.output_tokens == total
        assert sum(step.usage.output_tokens for step in steps) == total


async def test_the_last_turn_that_is_allowed_ends_a_run(serve: Serve) -> None:
    engine = ScriptedEngine([CALLED])
    async with asyncio.timeout(30), serve(engine) as client:
        assistant = await client.create_assistant(model="scripted", tools=TOOLS)
        stream = client.stream_thread_and_run(assistant.name, "What time is it?", max_turns=1)
        while calls := await stream.next_calls():
            await client.submit_tool_outputs(stream.run.name, {call.id: "noon" for call in calls})
        assert (stream.run.state, stream.run.incomplete_reason) == (
            INCOMPLETE,
            Run.INCOMPLETE_REASON_MAX_TURNS,
        )
        steps = [step async for step in client.list_run_steps(stream.run.name)]
        assert {step.state for step in steps} == {RunStep.STATE_COMPLETED}
        engine.assert_consumed()


async def test_what_a_run_sets_holds_for_that_run_alone(serve: Serve) -> None:
    def answer() -> list[ScriptedStep]:
        return [TextDelta("{}"), TurnEnd(FinishReason.STOP, FIRST)]

    engine = ScriptedEngine([answer(), answer()])
    async with asyncio.timeout(30), serve(engine) as client:
        assistant = await client.create_assistant(
            model="scripted",
            instructions="Be kind.",
            tools=TOOLS,
            effort=common_pb2.EFFORT_LOW,
            generation_params=common_pb2.GenerationParams(temperature=0.5, seed=1),
        )
        json_object = common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
        run = await client.stream_thread_and_run(
            assistant.name,
            "hi",
            instructions="Be brief.",
            additional_instructions="And precise.",
            tools=[function_tool("other")],
            tool_choice=ToolChoice(mode=ToolChoice.MODE_NONE),
            parallel_tool_calls=False,
            effort=common_pb2.EFFORT_HIGH,
            response_format=json_object,
            generation_params=common_pb2.GenerationParams(temperature=0.1),
            max_output_tokens=100,
        ).result()
        thread = run.name.split("/runs/")[0]
        await client.stream(thread, assistant.name, additional_messages=[user_message("and?")]).result()
    first, second = engine.requests
    assert first.messages[0].content == "Be brief.\n\nAnd precise."
    assert [tool.name for tool in first.tools] == ["other"]
    assert (first.tool_choice, first.parallel_tool_calls) == (ToolChoiceMode.NONE, False)
    assert (first.effort, first.response_format) == (Effort.HIGH, JsonObjectFormat())
    assert (first.sampling.temperature, first.sampling.seed) == (0.1, 1)
    assert first.max_output_tokens == 100
    assert [(m.role, m.content) for m in second.messages] == [
        (ChatRole.SYSTEM, "Be kind."),
        (ChatRole.USER, "hi"),
        (ChatRole.ASSISTANT, "{}"),
        (ChatRole.USER, "and?"),
    ]
    assert [tool.name for tool in second.tools] == ["now"]
    assert (second.effort, second.sampling.temperature) == (Effort.LOW, 0.5)
    assert second.max_output_tokens is None
