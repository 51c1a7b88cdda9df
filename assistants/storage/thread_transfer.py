"""Whole threads in the database."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import sqlalchemy as sa

from assistants.domain.errors import AlreadyExists, NotFound
from assistants.domain.names import message_name, run_name, step_name, thread_name
from assistants.domain.ports import RequestKey
from assistants.domain.run import Run
from assistants.domain.run_event import RunChanged, RunEvent
from assistants.domain.thread import Thread
from assistants.domain.thread_content import ThreadContent
from assistants.storage import run_rows, run_turns
from assistants.storage.codec import RUN_STEP
from assistants.storage.connection import Connection, Record
from assistants.storage.database import Database
from assistants.storage.messages import decode_message, insert_placed_message
from assistants.storage.requests import made_before
from assistants.storage.run_events import insert_events, write_step
from assistants.storage.tables import MESSAGES, RUN_STEPS, RUNS, THREADS
from assistants.storage.threads import get_thread, insert_thread, require_idle

_OF_THREAD = "thread_id"
_MESSAGES = (
    sa.select(MESSAGES).where(MESSAGES.c.thread_id == sa.bindparam(_OF_THREAD)).order_by(MESSAGES.c.position)
)
_RUNS = (
    sa.select(RUNS)
    .where(RUNS.c.thread_id == sa.bindparam(_OF_THREAD))
    .order_by(RUNS.c.create_time, RUNS.c.id)
)
_STEPS = (
    sa.select(RUN_STEPS.c.step_json)
    .join(RUNS, RUNS.c.id == RUN_STEPS.c.run_id)
    .where(RUNS.c.thread_id == sa.bindparam(_OF_THREAD))
    .order_by(RUNS.c.create_time, RUNS.c.id, RUN_STEPS.c.index)
)
_TAKEN = {
    table.name: sa.select(table.c.id).where(table.c.id == sa.bindparam("id"))
    for table in (THREADS, MESSAGES, RUNS, RUN_STEPS)
}
_INSERT_RUN = sa.insert(RUNS)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A thread as the database has it: others wait while it is read, not while it is decoded."""

    thread: Thread
    messages: Sequence[Record]
    runs: Sequence[Record]
    steps: Sequence[str]

    def decode(self) -> ThreadContent:
        return ThreadContent(
            thread=self.thread,
            messages=tuple(map(decode_message, self.messages)),
            runs=tuple(map(run_rows.decode_run, self.runs)),
            steps=tuple(map(RUN_STEP.load, self.steps)),
        )


class SqlThreadTransfer:
    """ThreadTransfer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, project_id: str, thread_id: str) -> ThreadContent | None:
        """All of a thread at one moment; None when there is none. Raises RunActive while a run is active."""

        # In a transaction that writes, so that nobody else does: these are several statements.
        def job(connection: Connection) -> _Rows | None:
            try:
                require_idle(connection, thread_id, project_id=project_id)
            except NotFound:
                return None
            thread = get_thread(connection, project_id, thread_id)
            assert thread is not None
            parameters = {_OF_THREAD: thread_id}
            return _Rows(
                thread,
                connection.execute(_MESSAGES, parameters).all(),
                connection.execute(_RUNS, parameters).all(),
                connection.execute(_STEPS, parameters).scalars(),
            )

        rows = await self._database.write(job, durable=False)
        return None if rows is None else await asyncio.to_thread(rows.decode)

    async def store(self, content: ThreadContent, request: RequestKey | None) -> Thread:
        """Stores a thread whole under its ids, or gives the one that the request id made."""
        thread = content.thread

        def job(connection: Connection) -> Thread:
            read = partial(get_thread, connection, thread.project_id)
            if existing := made_before(connection, thread.project_id, request, thread.id, read):
                return existing
            for table, kind, id_, name in _ids(content):
                if connection.execute(_TAKEN[table], {"id": id_}).first() is not None:
                    raise AlreadyExists(kind, name)
            insert_thread(connection, thread)
            for message in content.messages:
                insert_placed_message(connection, message)
            for run in content.runs:
                _insert_run(connection, run)
            for step in content.steps:
                write_step(connection, step)
            return thread

        return await self._database.write(job)


def _ids(content: ThreadContent) -> Iterable[tuple[str, str, str, str]]:
    """Table, kind, id and name of all that is stored."""
    thread = content.thread
    yield THREADS.name, "thread", thread.id, thread_name(thread.id)
    for message in content.messages:
        yield MESSAGES.name, "message", message.id, message_name(thread.id, message.id)
    for run in content.runs:
        yield RUNS.name, "run", run.id, run_name(thread.id, run.id)
    for step in content.steps:
        yield RUN_STEPS.name, "run step", step.id, step_name(thread.id, step.run_id, step.id)


def _insert_run(connection: Connection, run: Run) -> None:
    """Stores a run that has ended as if its events had been pruned."""
    stored = replace(run, last_sequence=max(run.last_sequence, 1))
    columns = {**run_rows.encode_run(stored, epoch=run.status.attempt), **run_turns.NOT_WAITING}
    connection.execute(_INSERT_RUN, {**columns, "retained_since": None})
    assert run.status.end_time is not None
    last = RunEvent(
        sequence=stored.last_sequence,
        attempt=run.status.attempt,
        event_time=run.status.end_time,
        body=RunChanged(run.status),
    )
    insert_events(connection, run.project_id, run.id, [last])
