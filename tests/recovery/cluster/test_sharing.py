"""Any server takes any call, wherever the run is executed."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from assistants.client import Client, Run, RunEvent
from tests.paced_http import answer, words
from tests.recovery.cluster.conftest import StartServer
from tests.recovery.cluster.runs import create
from tests.recovery.journals import Reader, assert_done_once, ended
from tests.recovery.test_tool_runs_killed import assert_called_once, outputs_of, paused

WATCHERS = 100


async def test_watchers_of_all_servers_see_the_same(start_server: StartServer) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        servers = [await start_server(slots=1), await start_server(slots=1)]
        clients = [await opened.enter_async_context(server.client()) for server in servers]
        names = [await create(clients[0], words(200, every_ms=5)) for _ in range(4)]

        async def watch(client: Client, name: str, after: int) -> Sequence[RunEvent]:
            return [event async for event in client.watch(name, after_sequence=after)]

        watching = {
            (name, number): asyncio.create_task(watch(clients[number % 2], name, 0))
            for number in range(WATCHERS // len(names))
            for name in names
        }
        # Those that come in the middle, on either side.
        for name in names:
            await Reader(clients[0].watch(name)).pieces(20)
            after = (await clients[1].get_run(name)).last_sequence
            for number, client in enumerate(clients):
                watching[name, -number - 1] = asyncio.create_task(watch(client, name, after))
        for (name, _), task in watching.items():
            seen = await task
            told = await ended(clients[1], name)
            assert_done_once(told)
            assert told.text == answer(200)
            assert seen == told.events[len(told.events) - len(seen) :]
            assert len(seen) in {len(told.events), len(told.events) - seen[0].sequence + 1}


async def test_a_run_is_cancelled_wherever_it_is_executed(start_server: StartServer) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        servers = [await start_server(slots=1) for _ in range(2)]
        clients = [await opened.enter_async_context(server.client()) for server in servers]
        names = [await create(clients[0], words(10_000, every_ms=20)) for _ in range(4)]
        now = asyncio.get_running_loop().time
        took = []
        for number, name in enumerate(names):
            await Reader(clients[number % 2].watch(name)).pieces(3)
            begin = now()
            await clients[number % 2].cancel_run(name)
            assert (await clients[number % 2].watch(name).result()).state == Run.STATE_CANCELLED
            took.append(now() - begin)
        print(f"cancelled in {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms")
        # Both have their slots again.
        for client in clients:
            name = await create(client, words(3, every_ms=1))
            assert (await client.watch(name).result()).state == Run.STATE_COMPLETED


async def test_outputs_are_submitted_to_any_server(start_server: StartServer) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        scripted = ("--engine", "scripted")
        servers = [await start_server(slots=1, engine=scripted) for _ in range(2)]
        clients = [await opened.enter_async_context(server.client()) for server in servers]
        now = asyncio.get_running_loop().time
        took = []
        for number in range(10):
            creator, submitter = clients[number % 2], clients[1 - number % 2]
            stream = await paused(creator, str(number))
            begin = now()
            await submitter.submit_tool_outputs(stream.run.name, outputs_of(stream))
            async for _ in stream:
                pass
            took.append(now() - begin)
            await assert_called_once(submitter, stream.run.name, str(number))
        print(f"went on in {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms")
