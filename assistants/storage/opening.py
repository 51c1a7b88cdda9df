"""Which database: SQLite in a data directory, or PostgreSQL, whose driver is an extra."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from assistants.domain.errors import DatabaseError
from assistants.storage.data_directory import DataDirectory
from assistants.storage.database import Database
from assistants.storage.sqlite import SqliteDatabase


@asynccontextmanager
async def sqlite_database(data_dir: Path) -> AsyncIterator[Database]:
    """The database in a data directory, brought to the newest form.

    Raises:
        DataDirectoryError: it cannot be used, is of a newer form, or another server has it.
    """
    with DataDirectory(data_dir) as directory:
        database = SqliteDatabase(directory.migrate())
        try:
            yield database
        finally:
            await database.aclose()


@asynccontextmanager
async def postgres_database(url: str, *, shared: bool) -> AsyncIterator[Database]:
    """A PostgreSQL database, which has to be of the newest form already.

    Args:
        url: `postgresql://…`
        shared: whether other servers use it at the same time.

    Raises:
        DatabaseError: it cannot be reached, is of another form, or another server has it.
    """
    with _driver_needed():
        from assistants.storage.postgres import PostgresDatabase
    database = await PostgresDatabase.open(url, shared=shared)
    try:
        yield database
    finally:
        await database.aclose()


def migrate_postgres(url: str) -> str:
    """Brings a PostgreSQL database to the newest form; gives the name of that. Raises DatabaseError."""
    with _driver_needed():
        from assistants.storage import postgres_schema
    return postgres_schema.migrate(url)


@contextmanager
def _driver_needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise DatabaseError(
            "PostgreSQL needs its driver. Run: pip install 'assistants-runtime[cluster]'"
        ) from error
