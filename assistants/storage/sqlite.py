"""SQLite in WAL mode: one writer thread that commits in groups, and readers beside it.

Measured: one COMMIT for many transactions, over statements built once, makes some
1,000 durable runs a second; ORM objects make 120 and aiosqlite 25.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from assistants.domain.errors import StorageFull
from assistants.storage.database import Job
from assistants.storage.sqlite_connection import SqliteConnection

T = TypeVar("T")

_MAX_GROUP = 256
_READ_THREADS = 2
RETRY_AFTER_S = 1.0
"""When a client may try again whose write the disk did not take."""


@dataclass(slots=True)
class _Write:
    job: Job[Any]
    durable: bool
    done: asyncio.Future[Any]
    on_commit: Callable[[Any], None] | None
    result: Any = None
    error: Exception | None = None


class SqliteDatabase:
    """Database on one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._held_back: _Write | None = None
        self._closed = False
        self._read_connection = SqliteConnection(path)
        self._readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="sqlite-read")
        self._reader_connections: queue.SimpleQueue[SqliteConnection] = queue.SimpleQueue()
        for _ in range(_READ_THREADS):
            self._reader_connections.put(SqliteConnection(path))
        self._writer = threading.Thread(target=self._write_groups, name="sqlite-write", daemon=True)
        self._writer.start()

    def write(
        self,
        job: Job[T],
        *,
        durable: bool = True,
        on_commit: Callable[[T], None] | None = None,
        key: str | None = None,
    ) -> asyncio.Future[T]:
        """Runs `job` in a transaction of its own, after all that were given before, whatever their key."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._writes.put(_Write(job, durable, done, on_commit))
        return done

    async def read(self, job: Job[T]) -> T:
        """Runs a point read right here: 0.06 ms, less than handing it over."""
        return job(self._read_connection)

    async def scan(self, job: Job[T]) -> T:
        """Runs a longer read beside the loop."""
        return await self._loop.run_in_executor(self._readers, self._scan, job)

    def _scan(self, job: Job[T]) -> T:
        connection = self._reader_connections.get()
        try:
            return job(connection)
        finally:
            self._reader_connections.put(connection)

    async def aclose(self) -> None:
        """Commits what was given and closes the file. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._writes.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._read_connection.close()
        while not self._reader_connections.empty():
            self._reader_connections.get().close()

    # The writer thread.

    def _write_groups(self) -> None:
        with closing(SqliteConnection(self._path)) as connection:
            while first := self._next_write():
                group: list[_Write] = []
                _commit(connection, self._group(first, group), group, durable=first.durable)
                self._loop.call_soon_threadsafe(_deliver, group)

    def _next_write(self) -> _Write | None:
        write, self._held_back = self._held_back, None
        return write or self._writes.get()

    def _group(self, first: _Write, group: list[_Write]) -> Iterator[_Write]:
        """Gives writes for one COMMIT: also those that arrive while the first are being made."""
        write: _Write | None = first
        while write is not None:
            group.append(write)
            yield write
            if len(group) == _MAX_GROUP:
                return
            try:
                write = self._writes.get_nowait()
            except queue.Empty:
                return
            # SQLite cannot change its mind about fsync within a transaction; and
            # None, the end, is for the next look.
            if write is None or (write.durable and not first.durable):
                self._held_back = write
                if write is None:
                    self._writes.put(None)
                return


def _commit(
    connection: SqliteConnection, writes: Iterator[_Write], group: list[_Write], *, durable: bool
) -> None:
    """Makes the writes in one transaction; `group` is filled with those that were begun."""
    raw = connection.raw
    first = next(writes)  # whatever fails from here on, at least this one is told
    try:
        if raw.in_transaction:  # it could not even be undone before
            raw.execute("ROLLBACK")
        raw.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        raw.execute("BEGIN IMMEDIATE")
        for write in chain((first,), writes):
            raw.execute("SAVEPOINT job")
            try:
                write.result = write.job(connection)
            except Exception as error:
                if not raw.in_transaction:  # a full disk undoes the whole group
                    raise
                write.error = _told(error)
                raw.execute("ROLLBACK TO job")
            raw.execute("RELEASE job")
        raw.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - a full disk, say: nothing was committed, and all are told
        for write in group:
            write.error = _told(error)
        if raw.in_transaction:
            with suppress(sqlite3.Error):  # the next group tries again
                raw.execute("ROLLBACK")


def _told(error: Exception) -> Exception:
    """What whoever waits is told: a disk that takes nothing may take it later."""
    if isinstance(error, sqlite3.Error):
        primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary_code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            told = StorageFull(f"the database cannot be written: {error}", retry_after_s=RETRY_AFTER_S)
            told.__cause__ = error
            return told
    return error


def _deliver(group: list[_Write]) -> None:
    for write in group:
        if write.error is None and write.on_commit is not None:
            write.on_commit(write.result)
        if write.done.done():  # whoever waited was cancelled
            continue
        if write.error is not None:
            write.done.set_exception(write.error)
        else:
            write.done.set_result(write.result)
