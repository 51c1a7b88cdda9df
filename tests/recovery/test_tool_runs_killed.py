"""The server dies while a run calls functions: nothing is lost, and no call and no step is made twice."""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assistants.client import Client, Run, RunStep, RunStream, ToolChoice, calls_of, function_tool
from tests.recovery.journals import Ended, ended
from tests.serving import SCRIPTED, ServerProcess, serving

REQUIRED = ToolChoice(mode=ToolChoice.MODE_REQUIRED)
LOOK_UP = function_tool(
    "look_up", "Looks it up.", {"type": "object", "properties": {"q": {"type": "string"}}}
)
OUTPUT = "it was found at last"
KILLS = 3
CLIENTS = 6
RUNS_BETWEEN_KILLS = (3, 12)


async def calling(client: Client, query: str) -> RunStream:
    """A run that calls with the query, and then answers with the output: so does the scripted engine."""
    assistant = await client.create_assistant(model="scripted", tools=[LOOK_UP])
    thread = await client.create_thread()
    await client.create_message(thread.name, arguments_for(query))
    return client.stream(thread.name, assistant.name, tool_choice=REQUIRED)


def arguments_for(query: str) -> str:
    return json.dumps({"q": query})


async def paused(client: Client, query: str) -> RunStream:
    stream = await calling(client, query)
    assert await stream.next_calls()
    return stream


def outputs_of(stream: RunStream) -> dict[str, str]:
    return {call.id: OUTPUT for call in stream.run.required_action.tool_calls}


async def assert_called_once(client: Client, name: str, query: str) -> Ended:
    """One call, carried out once; then one answer."""
    told = await ended(client, name)
    assert told.run.state == Run.STATE_COMPLETED, told.run
    called, answered = told.steps
    assert (called.state, answered.state) == (RunStep.STATE_COMPLETED, RunStep.STATE_COMPLETED)
    [call] = called.tool_calls.tool_calls
    assert (call.name, call.arguments_json, call.output) == ("look_up", arguments_for(query), OUTPUT)
    assert told.text == OUTPUT
    # Whoever watched has seen one pause and one completion of the step.
    assert told.states.count(Run.STATE_REQUIRES_ACTION) == 1
    completed = [e for e in told.events if e.step_changed.step.state == RunStep.STATE_COMPLETED]
    assert [e.step_changed.step for e in completed] == [called, answered]
    assert told.run.usage.output_tokens == called.usage.output_tokens + answered.usage.output_tokens
    return told


async def test_a_paused_run_outlives_the_server(tmp_path: Path) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        stream = await paused(client, "x")
        before = stream.run
        await server.killed()
        await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        assert await client.get_run(before.name) == before
        await client.submit_tool_outputs(before.name, outputs_of(stream))
        assert (await stream.result()).state == Run.STATE_COMPLETED
        told = await assert_called_once(client, before.name, "x")
        assert told.run.attempt == 2


async def test_a_paused_run_can_be_cancelled_after_a_kill(tmp_path: Path) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        stream = await paused(client, "x")
        await server.killed()
        await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        assert (await client.cancel_run(stream.run.name)).state == Run.STATE_CANCELLED
        told = await ended(client, stream.run.name)
        [step] = told.steps
        assert step.state == RunStep.STATE_CANCELLED


@pytest.mark.parametrize("answered", [True, False], ids=["after the answer", "before the answer"])
async def test_outputs_that_were_submitted_right_before_a_kill_are_used(
    tmp_path: Path, answered: bool
) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        streams = [await paused(client, str(number)) for number in range(8)]
        submissions = [
            asyncio.create_task(client.submit_tool_outputs(stream.run.name, outputs_of(stream)))
            for stream in streams
        ]
        if answered:
            await submissions[-1]
        else:
            await asyncio.sleep(0)  # they are sent, and nothing has come back
        await server.killed()
        await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        # What was not answered is sent again, under the same request id.
        await asyncio.gather(*submissions)
        for number, stream in enumerate(streams):
            assert (await stream.result()).state == Run.STATE_COMPLETED
            await assert_called_once(client, stream.run.name, str(number))


async def test_a_kill_in_the_middle_of_the_arguments_repeats_the_turn(tmp_path: Path) -> None:
    query = "word " * 50_000
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        stream = await calling(client, query)
        kills = 0
        async for event in stream:
            if event.HasField("step_delta") and kills < 2 and event.attempt == kills + 1:
                kills += 1
                await server.killed()
                server = await opened.enter_async_context(
                    serving(tmp_path, *SCRIPTED, address=server.address)
                )
            if calls_of(event):
                await client.submit_tool_outputs(stream.run.name, outputs_of(stream))
        told = await assert_called_once(client, stream.run.name, query)
        assert kills
        # A kill that came too late, after the pause, made no new attempt.
        assert 2 <= told.run.attempt <= kills + 2
        assert list(stream.steps.values()) == list(told.steps)


async def test_calling_runs_are_done_once_although_the_server_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    traffic = Traffic()
    async with asyncio.timeout(120), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        users = [asyncio.create_task(traffic.make(server, number)) for number in range(CLIENTS)]
        for _ in range(KILLS):
            await traffic.more(chance.randint(*RUNS_BETWEEN_KILLS))
            await server.killed()
            server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        await traffic.more(CLIENTS)
        traffic.enough = True
        await asyncio.gather(*users)
        for name, query in traffic.done.items():
            await assert_called_once(client, name, query)


class Traffic:
    """Clients that create runs, carry out their calls, and see them to the end."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}
        """Queries by name of the run."""
        self.enough = False
        self._news = asyncio.Condition()

    async def more(self, count: int) -> None:
        """Waits until that many further runs are done."""
        wanted = len(self.done) + count
        async with self._news:
            await self._news.wait_for(lambda: len(self.done) >= wanted)

    async def make(self, server: ServerProcess, number: int) -> None:
        async with server.client() as client:
            made = 0
            while not self.enough:
                made += 1
                query = f"{number} {made} " + "again and " * 300
                stream = await calling(client, query)
                while await stream.next_calls():
                    await client.submit_tool_outputs(stream.run.name, outputs_of(stream))
                assert stream.run.state == Run.STATE_COMPLETED
                async with self._news:
                    self.done[stream.run.name] = query
                    self._news.notify_all()
