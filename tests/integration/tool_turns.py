"""Turns with tool calls for a scripted engine, and what tests look at in the runs that they make."""

from collections.abc import Sequence
from typing import Any

from assistants.client import (
    Client,
    Message,
    Run,
    RunEvent,
    RunStep,
    RunStream,
    ToolChoice,
    calls_of,
    function_tool,
    text_of,
)
from assistants.v1 import common_pb2, tool_pb2
from runtime.events import (
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.testing import ScriptedStep
from runtime.types import FinishReason, Usage

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


async def paused(client: Client, **run: Any) -> RunStream:
    """A run that waits for two calls."""
    stream = client.stream(*(await ask(client)), **run)
    await until_paused(stream)
    return stream


TWO_CALLS: list[ScriptedStep] = [*call(), *call("now", "{}"), CALLED]
