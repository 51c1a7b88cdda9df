"""kill -9 right before and right after each write of a run: it ends once, with one answer, without a gap."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assistants.client import Client, Message, Run, RunStep, ToolCall, ToolChoice, function_tool
from tests.recovery.journals import Ended, Reader, ended
from tests.recovery.killed_at import AFTER, BEFORE
from tests.serving import SCRIPTED, ServerProcess, serving

WRITE_POINTS = (
    "run:queued",
    "run:in_progress",
    "step:in_progress",
    "tool_call_delta",
    "step:in_progress#2",  # the calls are whole
    "run:requires_action",
    "step:completed",
    "run:queued#2",
    "run:in_progress#2",
    "step:in_progress#3",
    "message:in_progress",
    "delta",
    "message:completed",
    "step:completed#2",
    "run:completed",
)
"""All events of a run that calls a function and then answers, in their order."""
NEVER = "never"
QUESTION = '{"question": "why?"}'
OUTPUT = "because it is so"


def entry(point: str, moment: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.recovery.killed_at", point, moment)


async def answered(client: Client, assistant: str) -> tuple[str, list[ToolCall]]:
    """Lets a run call a function and answer, over however many servers; gives it and its calls."""
    stream = client.stream_thread_and_run(
        assistant,
        QUESTION,
        tools=[function_tool("ask", parameters={"type": "object"})],
        tool_choice=ToolChoice(mode=ToolChoice.MODE_REQUIRED),
    )
    asked: list[ToolCall] = []
    while calls := await stream.next_calls():
        asked += calls
        await client.submit_tool_outputs(stream.run.name, {call.id: OUTPUT for call in calls})
    return stream.run.name, asked


def assert_whole(told: Ended, asked: list[ToolCall]) -> None:
    """The run called once, and answered once."""
    assert told.run.state == Run.STATE_COMPLETED, told.run
    call_step, message_step = told.steps
    assert {step.state for step in told.steps} == {RunStep.STATE_COMPLETED}
    (call,) = call_step.tool_calls.tool_calls
    assert (call.arguments_json, call.output) == (QUESTION, OUTPUT)
    assert call.idempotency_key == ":".join(
        (told.run.name.rsplit("/", 1)[1], call_step.name.rsplit("/", 1)[1], call.id)
    )
    assert [asked_call.idempotency_key for asked_call in asked] == [call.idempotency_key], "asked for once"
    (message,) = told.messages
    assert message.state == Message.STATE_COMPLETED
    assert message.name == message_step.message_creation.message
    assert told.text == OUTPUT
    assert told.states.count(Run.STATE_COMPLETED) == 1
    assert told.run.usage.output_tokens == sum(step.usage.output_tokens for step in told.steps)


async def next_server(
    opened: AsyncExitStack, data_dir: Path, address: str, point: str, moment: str
) -> ServerProcess:
    return await opened.enter_async_context(
        serving(data_dir, *SCRIPTED, address=address, entry=entry(point, moment))
    )


async def test_these_are_all_write_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer commits for a run is just what is killed at below."""
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "points"
    record.touch()
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await next_server(opened, tmp_path / "data", "127.0.0.1:0", NEVER, AFTER)
        client = await opened.enter_async_context(server.client())
        assistant = await client.create_assistant(model="scripted")
        name, asked = await answered(client, assistant.name)
        assert_whole(await ended(client, name), asked)
    points = list(dict.fromkeys(record.read_text(encoding="utf-8").split()))
    assert tuple(points) == WRITE_POINTS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", [BEFORE, AFTER])
async def test_a_run_outlives_a_kill_at_each_of_its_writes(tmp_path: Path, moment: str) -> None:
    async with asyncio.timeout(280), AsyncExitStack() as opened:
        server = await next_server(opened, tmp_path, "127.0.0.1:0", WRITE_POINTS[0], moment)
        client = await opened.enter_async_context(server.client())
        assistant = await client.create_assistant(model="scripted")
        for point, following in zip(WRITE_POINTS, (*WRITE_POINTS[1:], NEVER), strict=True):
            answering = asyncio.create_task(answered(client, assistant.name))
            assert await server.exited() == -9, f"not killed at {point}"
            assert not answering.done(), point
            # The next one goes on with what this one left, and then is killed itself; but where
            # the run was not stored, it is made anew, and not to be killed again.
            stored = moment == AFTER or point not in ("run:queued", "run:in_progress")
            armed = following if stored else NEVER
            server = await next_server(opened, tmp_path, server.address, armed, moment)
            name, asked = await answering
            if not stored:
                await server.killed()
                server = await next_server(opened, tmp_path, server.address, following, moment)
            watched = Reader(client.watch(name))
            told = await ended(client, name)
            assert await watched.end() == told.events
            try:
                assert_whole(told, asked)
            except AssertionError as error:
                error.add_note(f"killed {moment} {point}")
                raise
