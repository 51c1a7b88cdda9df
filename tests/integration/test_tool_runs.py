"""Runs that call functions of the client, over the wire: the pause, the outputs, the answer."""

import asyncio
import json
from typing import Any

import pytest

from assistants.client import (
    Message,
    Run,
    RunStep,
    ToolChoice,
    calls_of,
)
from assistants.domain.errors import RunActive
from runtime.errors import EngineUnavailable
from runtime.events import (
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import ChatMessage, ChatRole, FinishReason, NamedToolChoice, ToolChoiceMode, Usage
from tests.integration.conftest import Serve
from tests.integration.tool_turns import (
    CALLED,
    PARIS,
    REQUIRED,
    answer,
    ask,
    call,
    kinds,
    outputs_for,
    rest_of,
    steps_of,
    until_paused,
)


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
