"""Calls on one thread that cross each other: each ends with a status that makes sense; no slot is lost."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

from assistants.client import Client, Run
from assistants.domain.errors import NotFound, RunActive, RunEnded
from tests.serving import SCRIPTED, serving

THREADS = 60
WORDS = " ".join(["word"] * 300)


async def tried(call: Awaitable[object]) -> None:
    """Lets a call fail as it may when another was faster."""
    with suppress(NotFound, RunActive, RunEnded):
        await call


async def test_a_thread_is_deleted_while_its_runs_are_made_streamed_and_cancelled(tmp_path: Path) -> None:
    async with asyncio.timeout(30), serving(tmp_path, *SCRIPTED, "--slots", "2") as server:
        async with server.client() as client:
            assistant = (await client.create_assistant(model="scripted")).name

            async def race(number: int) -> None:
                thread = (await client.create_thread()).name
                await client.create_message(thread, WORDS)
                calls = [
                    tried(client.stream(thread, assistant).result()),
                    tried(_create_and_cancel(client, thread, assistant)),
                    tried(client.create_message(thread, WORDS)),
                    tried(client.delete_thread(thread, force=True)),
                    tried(client.delete_thread(thread, force=True)),
                ]
                turned = number % len(calls)
                await asyncio.gather(*calls[turned:], *calls[:turned])

            await asyncio.gather(*(race(number) for number in range(THREADS)))
            assert await _complete(client, assistant, runs=8)
            assert await server.terminate() == 0
        assert "Traceback" not in await server.stderr()


async def test_many_cancel_the_same_runs(tmp_path: Path) -> None:
    async with asyncio.timeout(30), serving(tmp_path, *SCRIPTED, "--slots", "2") as server:
        async with server.client() as client:
            assistant = (await client.create_assistant(model="scripted")).name

            async def race() -> Run:
                thread = (await client.create_thread()).name
                await client.create_message(thread, WORDS)
                run = await client.create_run(thread, assistant)
                await asyncio.gather(*(tried(client.cancel_run(run.name)) for _ in range(4)))
                return await client.watch(run.name).result()

            runs = await asyncio.gather(*(race() for _ in range(THREADS)))
            assert {run.state for run in runs} <= {Run.STATE_CANCELLED, Run.STATE_COMPLETED}
            assert await _complete(client, assistant, runs=8)
            assert await server.terminate() == 0
        assert "Traceback" not in await server.stderr()


async def _create_and_cancel(client: Client, thread: str, assistant: str) -> None:
    run = await client.create_run(thread, assistant)
    await client.cancel_run(run.name)


async def _complete(client: Client, assistant: str, *, runs: int) -> bool:
    """Whether more runs than there are slots complete."""
    threads = [await client.create_thread() for _ in range(runs)]
    for thread in threads:
        await client.create_message(thread.name, "hello")
    ended = await asyncio.gather(*(client.stream(thread.name, assistant).result() for thread in threads))
    return {run.state for run in ended} == {Run.STATE_COMPLETED}
