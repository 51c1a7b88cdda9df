"""Journals in the database."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from assistants.domain.run_event import RunEvent
from assistants.domain.times import from_micros
from assistants.storage.codec import EVENT_BODY
from assistants.storage.connection import Connection, Record
from assistants.storage.database import Database
from assistants.storage.tables import RUN_EVENTS

Listener = Callable[[str, Sequence[RunEvent]], None]

_c = RUN_EVENTS.c
_READ = (
    sa.select(_c.sequence, _c.attempt, _c.event_time, _c.body_json)
    .where(_c.run_id == sa.bindparam("run_id"), _c.sequence > sa.bindparam("after"))
    .order_by(_c.sequence)
    .limit(sa.bindparam("page_limit"))
)


class SqlEventLog:
    """EventLog; the run store writes to it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Listener] = []

    async def read(self, run_id: str, *, after: int, limit: int) -> Sequence[RunEvent]:
        """Events after a sequence, in order."""
        parameters = {"run_id": run_id, "after": after, "page_limit": limit}

        def job(connection: Connection) -> Sequence[RunEvent]:
            return [_decode(row) for row in connection.execute(_READ, parameters)]

        return await self._database.scan(job)

    def subscribe(self, listener: Listener) -> None:
        """Calls `listener(run_id, events)` on the loop after each commit, in order."""
        self._listeners.append(listener)

    def publish(self, run_id: str, events: Sequence[RunEvent]) -> None:
        """Tells the listeners of events that are committed."""
        for listener in self._listeners:
            listener(run_id, events)


def _decode(row: Record) -> RunEvent:
    return RunEvent(
        sequence=row.sequence,
        attempt=row.attempt,
        event_time=from_micros(row.event_time),
        body=EVENT_BODY.load(row.body_json),
    )
