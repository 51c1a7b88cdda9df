"""The database dies and comes back: what was accepted is done once, and clients need not notice."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from assistants.storage import postgres_schema
from tests.cluster_parts import Postgres, postgres_server
from tests.recovery.journals import SHORT, Reader, ask, assert_done_once, ended
from tests.recovery.test_server_killed import CLIENTS, Traffic, run_names
from tests.serving import SCRIPTED, serving

KILLS = 3
RUNS_BETWEEN_KILLS = (5, 25)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A database server to kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    url = server.create_database()
    postgres_schema.migrate(url)
    return url


async def test_every_accepted_run_is_done_once_although_the_database_is_killed_again_and_again(
    tmp_path: Path, server: Postgres, url: str
) -> None:
    chance = random.Random(21)
    traffic = Traffic()
    async with asyncio.timeout(110), AsyncExitStack() as opened:
        process = await opened.enter_async_context(serving(tmp_path, *SCRIPTED, "--database-url", url))
        client = await opened.enter_async_context(process.client())
        assistant = await client.create_assistant(model="scripted")
        users = [
            asyncio.create_task(traffic.make(process, assistant.name, number)) for number in range(CLIENTS)
        ]
        for _ in range(KILLS):
            await traffic.more(chance.randint(*RUNS_BETWEEN_KILLS))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await traffic.more(CLIENTS)
        traffic.enough = True
        await asyncio.gather(*users)

        for name, question in traffic.accepted.items():
            await client.watch(name).result()
            told = await ended(client, name)
            assert_done_once(told)
            assert told.text == question
            thread = name.split("/runs/")[0]
            assert len([message async for message in client.list_messages(thread)]) == 2
        assert sorted([name async for name in run_names(process)]) == sorted(traffic.accepted)
        assert await process.terminate() == 0


@pytest.mark.real_model
async def test_a_stream_ends_with_the_whole_answer_although_the_database_was_killed(
    tmp_path: Path, server: Postgres, url: str
) -> None:
    options = ("--slots", "1", "--context-tokens", "1024", "--database-url", url)
    async with (
        asyncio.timeout(100),
        serving(tmp_path, *options) as process,
        process.client() as client,
    ):
        thread, assistant = await ask(client, SHORT)
        reader = Reader(client.stream(thread.name, assistant.name))
        await reader.pieces(5)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        events = await reader.end()

        told = await ended(client, reader.stream.run.name)
        assert_done_once(told)
        assert reader.stream.text == told.text
        assert events == told.events, "what was seen of two attempts is what is stored"


async def test_a_stream_ends_although_the_answer_to_the_last_commit_was_lost(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with (
            asyncio.timeout(60),
            losing_one_answer(path, url, of=b'"state":"completed"') as (through, lost),
            serving(path / "data", *SCRIPTED, "--database-url", through) as process,
            process.client() as client,
        ):
            thread, assistant = await ask(client, "Hello there", model="scripted")
            stream = client.stream(thread.name, assistant.name)
            run = await stream.result()
            assert lost.is_set()
            told = await ended(client, run.name)
            assert_done_once(told)
            assert told.run.attempt == 1
            assert stream.text == told.text == "Hello there"


@asynccontextmanager
async def losing_one_answer(
    directory: Path, url: str, *, of: bytes
) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the database that passes everything on, but one answer to a COMMIT.

    Gives its URL, and what is set when that has happened: the transaction with the
    bytes `of` was committed, and its connection closed.
    """
    socket = Path(str(psycopg.conninfo.conninfo_to_dict(url)["host"])) / ".s.PGSQL.5432"
    lost = asyncio.Event()

    async def connect(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        database, to_database = await asyncio.open_unix_connection(socket)
        seen = losing = False

        async def ask_database() -> None:
            nonlocal seen, losing
            while data := await client.read(1 << 16):
                seen = seen or of in data
                losing = seen and b"COMMIT" in data and not lost.is_set()
                to_database.write(data)

        async def answer() -> None:
            while (data := await database.read(1 << 16)) and not losing:
                to_client.write(data)
            if losing:
                lost.set()

        talking = [asyncio.create_task(ask_database()), asyncio.create_task(answer())]
        await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
        for task in talking:
            task.cancel()
        to_database.close()
        to_client.close()

    server = await asyncio.start_unix_server(connect, directory / ".s.PGSQL.5432")
    try:
        yield url.replace(str(socket.parent), str(directory)), lost
    finally:
        server.close()
