"""A disk that takes nothing any more: writes are refused in full, and taken again when there is room."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assistants.domain.errors import StorageFull
from assistants.domain.ids import new_id
from assistants.domain.thread import Thread
from assistants.storage.connection import Connection
from assistants.storage.data_directory import DataDirectory
from assistants.storage.sqlite import SqliteDatabase
from assistants.storage.sqlite_connection import SqliteConnection
from assistants.storage.threads import SqlThreads

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MUCH = {"text": "x" * 512}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with DataDirectory(tmp_path) as directory:
        return directory.migrate()


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(path)
    yield database
    await database.aclose()


async def allow_pages(database: SqliteDatabase, more: int) -> None:
    """Lets the database grow by some pages: the rest of the disk is full."""

    def job(connection: Connection) -> None:
        assert isinstance(connection, SqliteConnection)
        pages = connection.raw.execute("PRAGMA page_count").fetchone()[0]
        connection.raw.execute(f"PRAGMA max_page_count = {pages + more}")

    await database.write(job)


async def create(threads: SqlThreads) -> str:
    thread = Thread(id=new_id("thread"), project_id="p", metadata=MUCH, create_time=NOW, update_time=NOW)
    return (await threads.create(thread, None)).id


def stored(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ids = {row[0] for row in connection.execute("SELECT id FROM threads")}
    connection.close()
    return ids


async def test_what_was_accepted_is_stored_and_what_was_refused_is_not(
    database: SqliteDatabase, path: Path
) -> None:
    threads = SqlThreads(database)
    await allow_pages(database, 8)
    # All at once, so that they share their commits.
    outcomes = await asyncio.gather(*(create(threads) for _ in range(400)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert refused
    assert {type(error) for error in refused} == {StorageFull}
    assert all(error.retry_after_s > 0 for error in refused if isinstance(error, StorageFull))
    accepted = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert stored(path) == accepted


async def test_reads_go_on_and_writes_do_so_when_there_is_room_again(
    database: SqliteDatabase, path: Path
) -> None:
    threads = SqlThreads(database)
    first = await create(threads)
    await allow_pages(database, 2)
    accepted = {first}
    with pytest.raises(StorageFull, match="full"):
        while True:
            accepted.add(await create(threads))
    assert await threads.get("p", first) is not None
    with pytest.raises(StorageFull):
        for _ in range(50):
            accepted.add(await create(threads))
    await allow_pages(database, 1_000)
    accepted.add(await create(threads))
    assert stored(path) == accepted
