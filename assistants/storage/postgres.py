"""PostgreSQL: one connection and one READ COMMITTED transaction a job, in threads beside the loop.

What SQLite's one writer keeps in order by itself is kept in order here by locks of
rows, which the jobs take, and by keys: the writes of one run follow each other, so
that its events are told in the order of their sequences.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from assistants.domain.errors import DatabaseError, Unavailable
from assistants.storage import postgres_schema
from assistants.storage.database import Job
from assistants.storage.postgres_connection import PostgresConnection, connect
from assistants.storage.postgres_hold import HeldElsewhere, PostgresHold

T = TypeVar("T")

_WRITE_THREADS = 8
_READ_THREADS = 4
_MOST_TRIES = 5
_LONGEST_PAUSE_S = 0.02
_RETRY_AFTER_S = 1.0
_UNKNOWN = "it is not known whether the change was stored"

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_UNHURRIED = f"{_BEGIN}; SET LOCAL synchronous_commit = off"
_RACES = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    # Somebody has inserted what was not there when the job looked: the next look finds it.
    psycopg.errors.UniqueViolation,
)
_OUTAGES = (psycopg.OperationalError, psycopg.InterfaceError)

_logger = logging.getLogger(__name__)


class PostgresDatabase:
    """Database on a PostgreSQL server, used by one event loop. It has at most one connection a thread."""

    @classmethod
    async def open(cls, conninfo: str, *, shared: bool) -> "PostgresDatabase":
        """Checks the form of the database, and takes hold of it.

        Args:
            conninfo: a `postgresql://` URL, or key=value words of libpq.
            shared: whether other servers use it at the same time.

        Raises:
            DatabaseError: it cannot be reached, is of another form, or another server has it.
        """
        await asyncio.to_thread(postgres_schema.check, conninfo)
        try:
            hold = await asyncio.to_thread(PostgresHold, conninfo, shared=shared)
        except (HeldElsewhere, psycopg.Error) as error:
            raise DatabaseError(str(error).strip()) from error
        return cls(conninfo, hold)

    def __init__(self, conninfo: str, hold: PostgresHold) -> None:
        """Connects when there is something to do; `hold` is kept until `aclose`."""
        self._conninfo = conninfo
        self._hold = hold
        self._loop = asyncio.get_running_loop()
        self._writers = ThreadPoolExecutor(_WRITE_THREADS, thread_name_prefix="postgres-write")
        self._readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="postgres-read")
        self._idle: list[PostgresConnection] = []
        self._writing: set[asyncio.Task[Any]] = set()
        self._newest: dict[str, asyncio.Task[Any]] = {}
        """By key: the write that the next one has to follow."""
        self._closed = False
        self._answers = True

    def write(
        self,
        job: Job[T],
        *,
        durable: bool = True,
        on_commit: Callable[[T], None] | None = None,
        key: str | None = None,
    ) -> asyncio.Future[T]:
        """Runs `job` in a transaction of its own, after those that were given with the same key."""
        # What was told must not be taken back by a crash of the database that we outlive:
        # its sequences would be given out again.
        unhurried = not durable and on_commit is None
        before = None if key is None else self._newest.get(key)
        task = self._loop.create_task(self._write(before, partial(_transact, job, unhurried), on_commit))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        if key is not None:
            self._newest[key] = task
            task.add_done_callback(partial(self._forget, key))
        return asyncio.shield(task)  # it goes on if whoever waits is cancelled

    async def read(self, job: Job[T]) -> T:
        """Runs a read in another thread."""
        return await self._loop.run_in_executor(self._readers, self._carry_out, partial(_look, job))

    async def scan(self, job: Job[T]) -> T:
        """Runs a read in another thread."""
        return await self.read(job)

    async def aclose(self) -> None:
        """Commits what was given and closes all connections. May be called twice."""
        if self._closed:
            return
        self._closed = True
        while self._writing:
            await asyncio.wait(tuple(self._writing))
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        self._close_idle()
        self._hold.close()

    async def _write(
        self,
        before: asyncio.Task[Any] | None,
        transact: Callable[[PostgresConnection, "_Progress"], T],
        on_commit: Callable[[T], None] | None,
    ) -> T:
        if before is not None:
            await asyncio.wait((before,))
        result = await self._loop.run_in_executor(self._writers, self._carry_out, transact)
        if on_commit is not None:
            on_commit(result)
        return result

    def _forget(self, key: str, task: asyncio.Task[Any]) -> None:
        if self._newest[key] is task:
            del self._newest[key]

    # In any thread.

    def _carry_out(self, action: Callable[[PostgresConnection, "_Progress"], T]) -> T:
        """Does it on a connection, again if it lost a race or found a connection that was gone."""
        tries = 0
        while True:
            tries += 1
            connection, progress = self._take(), _Progress()
            try:
                result = action(connection, progress)
                if not self._answers:
                    self._answers = True
                    _logger.info("the database can be used again")
                return result
            except _RACES:
                if tries == _MOST_TRIES:
                    raise
            except psycopg.errors.ReadOnlySqlTransaction as error:
                connection.raw.close()  # what was the primary server is so no longer
                self._close_idle()
                raise self._unavailable(error) from error
            except psycopg.Error as error:
                if not connection.raw.closed:  # the connection is well, and the statement was refused
                    if isinstance(error, _OUTAGES):  # for want of disk, memory or patience
                        raise self._unavailable(error) from error
                    raise
                self._close_idle()  # most likely they are gone as well
                if progress.committing:
                    raise self._unavailable(error, _UNKNOWN) from error
                if tries > 1:
                    raise self._unavailable(error) from error
            finally:
                self._give_back(connection)
            time.sleep(random.uniform(0, _LONGEST_PAUSE_S))

    def _take(self) -> PostgresConnection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        try:
            self._hold.ensure()
            return PostgresConnection(connect(self._conninfo))
        except (HeldElsewhere, *_OUTAGES) as error:
            raise self._unavailable(error) from error

    def _give_back(self, connection: PostgresConnection) -> None:
        raw = connection.raw
        if raw.closed:
            return
        try:
            if raw.pgconn.transaction_status != TransactionStatus.IDLE:
                raw.execute("ROLLBACK")
        except psycopg.Error:
            raw.close()
        else:
            self._idle.append(connection)

    def _unavailable(self, error: Exception, remark: str = "") -> Unavailable:
        """What callers are told; why is for whoever operates the server, once an outage."""
        if self._answers:
            self._answers = False
            _logger.warning("the database cannot be used: %s", str(error).strip() or type(error).__name__)
        message = "the database cannot be used now" + (f"; {remark}" if remark else "")
        return Unavailable(message, retry_after_s=_RETRY_AFTER_S)

    def _close_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().raw.close()
            except IndexError:  # another thread was faster
                return


class _Progress:
    """How far a transaction came."""

    __slots__ = ("committing",)

    def __init__(self) -> None:
        self.committing = False


def _transact(job: Job[T], unhurried: bool, connection: PostgresConnection, progress: _Progress) -> T:
    connection.raw.execute(_BEGIN_UNHURRIED if unhurried else _BEGIN, prepare=False)
    result = job(connection)
    progress.committing = True
    connection.raw.execute("COMMIT", prepare=False)
    return result


def _look(job: Job[T], connection: PostgresConnection, _: _Progress) -> T:
    return job(connection)
