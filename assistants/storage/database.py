"""The seam to a database: jobs over a connection, in transactions of their own."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from assistants.storage.connection import Connection

T = TypeVar("T")
Job = Callable[[Connection], T]
"""Reads or writes over a connection, synchronously.

It may run in any thread and, on PostgreSQL, more than once: a transaction that lost
a race is done again. So it changes nothing but the database, and locks the rows
that it decides by before it looks at them.
"""


class Database(Protocol):
    """One database, used by one event loop."""

    def write(
        self,
        job: Job[T],
        *,
        durable: bool = True,
        on_commit: Callable[[T], None] | None = None,
        key: str | None = None,
    ) -> asyncio.Future[T]:
        """Runs `job` in a transaction of its own; the future resolves after the COMMIT.

        An exception of the job undoes that job alone. The job is done, and
        `on_commit(result)` called on the loop, even if nobody waits any more.

        Args:
            job: what is done.
            durable: whether it survives the loss of power; any survives kill -9 of this process.
            on_commit: called before the future resolves.
            key: writes with the same key are done, and `on_commit` called, in the order of calls.

        Raises (by the future):
            Unavailable: the database is gone; whether the job was done may be unknown.
        """
        ...

    async def read(self, job: Job[T]) -> T:
        """Runs a point read. Raises Unavailable."""
        ...

    async def scan(self, job: Job[T]) -> T:
        """Runs a longer read. Raises Unavailable."""
        ...

    async def aclose(self) -> None:
        """Commits what was given and closes the database. May be called twice."""
        ...
