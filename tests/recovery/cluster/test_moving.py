"""A run moves when its server dies, stops or freezes: nothing is lost, and watchers see one more attempt."""

import asyncio
from contextlib import AsyncExitStack

from assistants.client import Client, Run
from tests.paced_http import PacedServer, answer, words
from tests.recovery.cluster.conftest import StartServer
from tests.recovery.cluster.runs import create
from tests.recovery.journals import Reader, assert_done_once, ended
from tests.serving import ServerProcess

RUNS = 4


async def test_the_runs_of_a_killed_server_go_on_elsewhere(
    start_server: StartServer, paced: PacedServer
) -> None:
    paced.held_at = 20
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        first = await start_server()
        client = await opened.enter_async_context(first.client())
        names = [await create(client, words(60, every_ms=5)) for _ in range(RUNS)]
        second = await start_server()
        other = await opened.enter_async_context(second.client())
        readers = [Reader(other.watch(name)) for name in names]
        await asyncio.gather(*(reader.pieces(5) for reader in readers))
        now = asyncio.get_running_loop().time
        killed_at = now()
        await first.killed()
        paced.released.set()
        await asyncio.gather(*(reader.attempt(2) for reader in readers))
        print(f"taken over {now() - killed_at:.2f} s after kill -9")
        await _assert_done(other, names, readers, count=60, attempt=2)


async def test_the_runs_of_a_server_that_stops_go_on_at_once(
    start_server: StartServer, paced: PacedServer
) -> None:
    paced.held_at = 20
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        first = await start_server()
        client = await opened.enter_async_context(first.client())
        names = [await create(client, words(60, every_ms=5)) for _ in range(RUNS)]
        second = await start_server()
        other = await opened.enter_async_context(second.client())
        readers = [Reader(other.watch(name)) for name in names]
        await asyncio.gather(*(reader.pieces(5) for reader in readers))
        now = asyncio.get_running_loop().time
        told_at = now()
        first.tell_to_stop()
        paced.released.set()
        await asyncio.gather(*(reader.attempt(2) for reader in readers))
        print(f"handed over {now() - told_at:.2f} s after SIGTERM")
        assert await first.exited() == 0
        assert "Traceback" not in await first.stderr()
        await _assert_done(other, names, readers, count=60, attempt=2)


async def test_a_server_that_was_frozen_writes_nothing_into_runs_that_have_moved(
    start_server: StartServer, paced: PacedServer
) -> None:
    paced.held_at = 20
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        frozen = await start_server()
        client = await opened.enter_async_context(frozen.client())
        names = [await create(client, words(80, every_ms=5)) for _ in range(RUNS)]
        second = await start_server()
        other = await opened.enter_async_context(second.client())
        readers = [Reader(other.watch(name)) for name in names]
        await asyncio.gather(*(reader.pieces(5) for reader in readers))
        now = asyncio.get_running_loop().time
        frozen_at = now()
        frozen.freeze()
        paced.released.set()  # all that it has missed waits for it
        await asyncio.gather(*(reader.attempt(2) for reader in readers))
        print(f"taken over {now() - frozen_at:.2f} s after SIGSTOP")
        frozen.thaw()
        await _assert_done(other, names, readers, count=80, attempt=2)
        # The one that was frozen sees the same, and is as good as any.
        for name in names:
            assert_done_once(await ended(client, name))
        told = await create(client, words(3, every_ms=1))
        assert (await client.watch(told).result()).state == Run.STATE_COMPLETED
        assert "Traceback" not in await _stopped(frozen)


async def test_what_waits_for_a_slot_goes_to_whoever_has_one(
    start_server: StartServer, paced: PacedServer
) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        small = await start_server(slots=1)
        client = await opened.enter_async_context(small.client())
        names = [await create(client, words(10_000, every_ms=20)) for _ in range(6)]
        assert len([name for name in names if (await client.get_run(name)).state == Run.STATE_QUEUED]) >= 4
        await start_server(slots=2)
        for name in names:
            await Reader(client.watch(name)).pieces(1)
        for name in names:
            await client.cancel_run(name)
            assert (await client.watch(name).result()).state == Run.STATE_CANCELLED
        assert len(paced.asked) == 6, "nothing was done twice"


async def _assert_done(
    client: Client, names: list[str], readers: list[Reader], *, count: int, attempt: int
) -> None:
    for name, reader in zip(names, readers, strict=True):
        seen = await reader.end()
        told = await ended(client, name)
        assert_done_once(told)
        assert told.text == answer(count)
        assert told.run.attempt == attempt
        assert seen == told.events, "the watcher of another server saw each event once and in order"


async def _stopped(server: ServerProcess) -> str:
    assert await server.terminate() == 0
    return await server.stderr()
