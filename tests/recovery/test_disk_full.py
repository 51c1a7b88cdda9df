"""The disk of a real server fills up while runs are executed: nothing is lost, and all goes on with room."""

import asyncio
import resource
import sqlite3
from pathlib import Path

import grpc
import psutil
import pytest

from assistants.client import Client, Run
from assistants.client_errors import error_of
from assistants.domain.errors import StorageFull
from assistants.v1 import thread_service_pb2, thread_service_pb2_grpc
from tests.recovery.journals import assert_done_once, ended
from tests.serving import SCRIPTED, ServerProcess, serving

WORDS = " ".join(["word"] * 2_000)
RUNS = 12


def largest_file(data_dir: Path) -> int:
    return max(path.stat().st_size for path in data_dir.iterdir())


def limit_files(server: ServerProcess, size: int) -> None:
    """Lets no file of the server grow beyond a size, as a full disk does."""
    psutil.Process(server.pid).rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def refused(client: Client) -> StorageFull:
    """Creates threads until one is refused."""
    stub = thread_service_pb2_grpc.ThreadServiceStub(client.channel)
    thread = thread_service_pb2.Thread(metadata={str(number): "x" * 512 for number in range(16)})
    while True:
        try:
            await stub.CreateThread(thread_service_pb2.CreateThreadRequest(thread=thread))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            told = error_of(error)
            assert isinstance(told, StorageFull)
            return told


async def test_runs_outlive_a_full_disk(tmp_path: Path) -> None:
    async with asyncio.timeout(100), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        assistant = await client.create_assistant(model="scripted")
        before = await client.stream_thread_and_run(assistant.name, "hello").result()
        limit_files(server, largest_file(tmp_path) + 400_000)
        # More than there is room for; their clients wait until there is.
        running = [
            asyncio.create_task(client.stream_thread_and_run(assistant.name, WORDS).result())
            for _ in range(RUNS)
        ]
        told = await refused(client)
        assert "cannot be written" in told.message
        assert told.retry_after_s > 0
        assert await client.get_run(before.name) == before, "reads go on"
        limit_files(server, resource.RLIM_INFINITY)
        runs = await asyncio.gather(*running)
        assert {run.state for run in runs} == {Run.STATE_COMPLETED}
        for run in runs:
            assert_done_once(await ended(client, run.name))
        assert await server.terminate() == 0
    with sqlite3.connect(tmp_path / "assistants.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a restart"])
async def test_a_run_that_met_a_full_disk_is_taken_up(tmp_path: Path, again: bool) -> None:
    async with asyncio.timeout(100), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        assistant = await client.create_assistant(model="scripted")
        thread = await client.create_thread()
        await client.create_message(thread.name, WORDS * 20)
        # Room for the run, and not for the answer, which is as long as the question.
        limit_files(server, largest_file(tmp_path) + 100_000)
        run = await client.create_run(thread.name, assistant.name)
        await refused(client)
        if not again:
            limit_files(server, resource.RLIM_INFINITY)
            assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED
        await server.killed()
    async with asyncio.timeout(60), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        assert (await client.watch(run.name).result()).state == Run.STATE_COMPLETED
        told = await ended(client, run.name)
        assert_done_once(told)
        assert told.run.attempt > 1
