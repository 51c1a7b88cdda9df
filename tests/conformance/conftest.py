"""Both databases, empty and migrated, and the repositories over them.

SQLite serves one server, PostgreSQL several: `peer` is a second server's view of the
same database.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assistants.storage.data_directory import DataDirectory
from assistants.storage.database import Database
from assistants.storage.postgres import PostgresDatabase
from assistants.storage.sqlite import SqliteDatabase
from tests.conformance.stores import Store

Open = Callable[[], Awaitable[Database]]


@pytest.fixture(params=["sqlite", "postgresql"])
async def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the test's database, once for each server that uses it."""
    async with AsyncExitStack() as opened:
        if request.param == "sqlite":
            path = opened.enter_context(DataDirectory(tmp_path)).migrate()
        else:
            url: str = request.getfixturevalue("migrated_url")

        async def open_once() -> Database:
            database: Database
            if request.param == "sqlite":
                database = SqliteDatabase(path)
            else:
                database = await PostgresDatabase.open(url, shared=True)
            opened.push_async_callback(database.aclose)
            return database

        yield open_once


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database()


@pytest.fixture
async def store(database: Database) -> Store:
    """A server's view of a database with one thread."""
    store = Store(database)
    await store.threads.create(store.thread, None)
    return store


@pytest.fixture
async def peer(store: Store, open_database: Open) -> Store:
    """Another server's view of the same."""
    return Store(await open_database(), thread=store.thread)
