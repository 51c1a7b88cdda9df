"""The broker or the database dies and comes back: what was accepted is done, what is in hand goes on."""

import asyncio
from contextlib import AsyncExitStack

from assistants.client import Run
from assistants.server.health import NATS, RUN_SERVICE
from tests.cluster_parts import NatsServer, Postgres
from tests.paced_http import PacedServer, answer, words
from tests.recovery.cluster.conftest import StartServer
from tests.recovery.cluster.runs import create
from tests.recovery.journals import Reader, assert_done_once, ended
from tests.serving import NOT_SERVING, SERVING


async def test_without_the_broker_runs_go_on_are_watched_and_are_accepted(
    start_server: StartServer, nats_broker: NatsServer, paced: PacedServer
) -> None:
    paced.held_at = 60
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        servers = [await start_server(slots=2) for _ in range(2)]
        clients = [await opened.enter_async_context(server.client()) for server in servers]
        names = [await create(clients[0], words(100, every_ms=20)) for _ in range(4)]
        readers = [Reader(client.watch(name)) for name in names for client in clients]
        await asyncio.gather(*(reader.pieces(1) for reader in readers))
        health = [await opened.enter_async_context(server.health(NATS)) for server in servers]
        for states in health:
            assert await anext(states) == SERVING

        nats_broker.kill()
        for states in health:
            assert await anext(states) == NOT_SERVING
        for server in servers:
            async with server.health(RUN_SERVICE) as states:
                assert await anext(states) == SERVING
        accepted = [await create(client, words(5, every_ms=1)) for client in clients]
        await asyncio.gather(*(reader.pieces(2) for reader in readers))
        for name in accepted:
            assert (await clients[0].get_run(name)).state == Run.STATE_QUEUED

        await asyncio.gather(*(reader.text(answer(60)) for reader in readers))
        await nats_broker.start()
        for states in health:
            assert await anext(states) == SERVING
        paced.released.set()
        for number, reader in enumerate(readers):
            told = await ended(clients[0], names[number // 2])
            assert_done_once(told)
            assert told.text == answer(100)
            assert told.run.attempt == 1, "nobody took over what was well"
            assert await reader.end() == told.events
        for name in accepted:
            assert (await clients[1].watch(name).result()).state == Run.STATE_COMPLETED
            assert_done_once(await ended(clients[0], name))


async def test_a_broker_that_has_lost_its_memory_loses_no_run(
    start_server: StartServer, nats_broker: NatsServer
) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        dying = await start_server(slots=1)
        client = await opened.enter_async_context(dying.client())
        names = [await create(client, words(40, every_ms=50)) for _ in range(4)]
        await Reader(client.watch(names[0])).pieces(3)
        nats_broker.kill()
        nats_broker.forget()
        await nats_broker.start()
        second = await start_server(slots=4)
        other = await opened.enter_async_context(second.client())
        await dying.killed()  # nobody but the rows know what it had in hand
        for name in names:
            assert (await other.watch(name).result()).state == Run.STATE_COMPLETED
            told = await ended(other, name)
            assert_done_once(told)
            assert told.text == answer(40)


async def test_without_the_broker_a_run_is_cancelled_by_the_next_write_that_is_refused(
    start_server: StartServer, nats_broker: NatsServer
) -> None:
    async with asyncio.timeout(100), AsyncExitStack() as opened:
        first = await start_server(slots=4)
        client = await opened.enter_async_context(first.client())
        names = [
            await create(client, words(10_000, every_ms=20)),
            await create(client, words(2, every_ms=20_000)),
        ]
        await asyncio.gather(*(Reader(client.watch(name)).pieces(1) for name in names))
        second = await start_server(slots=4)
        other = await opened.enter_async_context(second.client())
        nats_broker.kill()
        async with second.health(NATS) as states:
            while await anext(states) != NOT_SERVING:
                pass
        # The second one writes nothing for long: the sweep finds it.
        for name in names:
            assert (await other.cancel_run(name)).state == Run.STATE_CANCELLING
            assert (await other.watch(name).result()).state == Run.STATE_CANCELLED
        assert await first.terminate() == 0
        assert "Traceback" not in await first.stderr()


async def test_a_database_that_was_killed_loses_no_run(start_server: StartServer, postgres: Postgres) -> None:
    async with asyncio.timeout(110), AsyncExitStack() as opened:
        servers = [await start_server(slots=2) for _ in range(2)]
        clients = [await opened.enter_async_context(server.client()) for server in servers]
        names = [await create(clients[0], words(60, every_ms=50)) for _ in range(6)]
        readers = [Reader(client.watch(name)) for name in names for client in clients]
        await asyncio.gather(*(reader.pieces(1) for reader in readers[:4]))
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        for number, reader in enumerate(readers):
            seen = await reader.end()
            told = await ended(clients[0], names[number // 2])
            assert_done_once(told)
            assert told.text == answer(60)
            assert seen == told.events
        for server in servers:
            assert await server.terminate() == 0
            assert "Traceback" not in await server.stderr()
