"""Messages in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import sqlalchemy as sa

from assistants.domain.content import Role
from assistants.domain.errors import NotFound
from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.names import thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import RequestKey
from assistants.domain.times import from_micros, to_micros
from assistants.storage.codec import CONTENT, STRING_MAP
from assistants.storage.connection import Connection, Record
from assistants.storage.database import Database
from assistants.storage.paging import PagedSelect
from assistants.storage.requests import made_before
from assistants.storage.tables import MESSAGES, THREADS
from assistants.storage.threads import require_idle

_c = MESSAGES.c
_IN_THREAD = (
    _c.project_id == sa.bindparam("project_id"),
    _c.thread_id == sa.bindparam("thread_id"),
)
_BY_ID = sa.select(MESSAGES).where(*_IN_THREAD, _c.id == sa.bindparam("id"))
_LIST = PagedSelect(MESSAGES, *_IN_THREAD)
_LIST_OF_RUN = PagedSelect(MESSAGES, *_IN_THREAD, _c.run_id == sa.bindparam("run_id"))
_SINCE = sa.select(MESSAGES).where(*_IN_THREAD, _c.position >= sa.bindparam("position")).order_by(_c.position)
_INSERT = sa.insert(MESSAGES)
_TAKE_POSITION = (
    sa.update(THREADS)
    .where(THREADS.c.project_id == sa.bindparam("p_project_id"), THREADS.c.id == sa.bindparam("p_id"))
    .values(next_position=THREADS.c.next_position + 1)
    .returning(THREADS.c.next_position)
)
_SET_METADATA = (
    sa.update(MESSAGES)
    .where(
        _c.project_id == sa.bindparam("p_project_id"),
        _c.thread_id == sa.bindparam("p_thread_id"),
        _c.id == sa.bindparam("p_id"),
    )
    .values(metadata_json=sa.bindparam("metadata_json"))
)
_REWRITE = (
    sa.update(MESSAGES)
    .where(_c.id == sa.bindparam("p_id"))
    .values(
        content_json=sa.bindparam("content_json"),
        state=sa.bindparam("state"),
        incomplete_reason=sa.bindparam("incomplete_reason"),
        end_time=sa.bindparam("end_time"),
    )
)
_DELETE = sa.delete(MESSAGES).where(*_IN_THREAD, _c.id == sa.bindparam("id"))
_FORGET_HISTORY = (
    sa.update(THREADS)
    .where(THREADS.c.id == sa.bindparam("p_id"))
    .values(history_version=THREADS.c.history_version + 1)
)


_FEW = 64
"""Messages that are read faster than they are asked for beside the loop."""


class SqlMessages:
    """MessageRepository."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, message: Message, request: RequestKey | None) -> Message:
        """Appends it. Raises RunActive, RequestIdReused, and NotFound without its thread."""

        def job(connection: Connection) -> Message:
            read = partial(_get, connection, message.project_id, message.thread_id)
            if existing := made_before(connection, message.project_id, request, message.id, read):
                return existing
            require_idle(connection, message.thread_id, project_id=message.project_id)
            return insert_message(connection, message)

        return await self._database.write(job)

    async def get(self, project_id: str, thread_id: str, message_id: str) -> Message | None:
        """None when there is none."""
        return await self._database.read(
            lambda connection: _get(connection, project_id, thread_id, message_id)
        )

    async def list(
        self, project_id: str, thread_id: str, page: PageRequest, *, run_id: str | None
    ) -> Page[Message]:
        """One page, of the messages that a run wrote when one is given."""
        parameters = {"project_id": project_id, "thread_id": thread_id}
        if run_id is None:
            return await self._database.scan(lambda c: _LIST.page(c, page, parameters, decode_message))
        of_run = {**parameters, "run_id": run_id}
        return await self._database.scan(lambda c: _LIST_OF_RUN.page(c, page, of_run, decode_message))

    async def since(
        self, project_id: str, thread_id: str, position: int, *, at_most: int
    ) -> Sequence[Message]:
        """All messages from a position on, in order; `at_most` is how many that can be."""
        parameters = {"project_id": project_id, "thread_id": thread_id, "position": position}

        def job(connection: Connection) -> Sequence[Message]:
            return [decode_message(row) for row in connection.execute(_SINCE, parameters)]

        return await self._database.read(job) if at_most <= _FEW else await self._database.scan(job)

    async def set_metadata(
        self, project_id: str, thread_id: str, message_id: str, metadata: Mapping[str, str]
    ) -> Message | None:
        """Replaces the metadata; None when there is no such message."""

        def job(connection: Connection) -> Message | None:
            connection.execute(
                _SET_METADATA,
                {
                    "p_project_id": project_id,
                    "p_thread_id": thread_id,
                    "p_id": message_id,
                    "metadata_json": STRING_MAP.dump(dict(metadata)),
                },
            )
            return _get(connection, project_id, thread_id, message_id)

        return await self._database.write(job)

    async def delete(self, project_id: str, thread_id: str, message_id: str) -> bool:
        """Deletes it. Raises RunActive while a run is active on the thread."""

        def job(connection: Connection) -> bool:
            require_idle(connection, thread_id, project_id=project_id)
            parameters = {"project_id": project_id, "thread_id": thread_id, "id": message_id}
            deleted = connection.execute(_DELETE, parameters).rowcount == 1
            if deleted:
                connection.execute(_FORGET_HISTORY, {"p_id": thread_id})
            return deleted

        return await self._database.write(job)


def insert_placed_message(connection: Connection, message: Message) -> None:
    """Stores a message that has its position already."""
    connection.execute(_INSERT, _encode(message))


def insert_message(connection: Connection, message: Message) -> Message:
    """Appends it to its thread and gives it with its position. Raises NotFound without its thread."""
    taken = connection.execute(
        _TAKE_POSITION, {"p_project_id": message.project_id, "p_id": message.thread_id}
    ).scalar()
    if taken is None:
        raise NotFound("thread", thread_name(message.thread_id))
    placed = replace(message, position=taken - 1)
    insert_placed_message(connection, placed)
    return placed


def write_message(connection: Connection, message: Message) -> None:
    """Appends a run's message, or writes the content and state of one that it began before."""
    parameters = {
        "p_id": message.id,
        "content_json": CONTENT.dump(message.content),
        "state": message.state,
        "incomplete_reason": message.incomplete_reason,
        "end_time": message.end_time and to_micros(message.end_time),
    }
    if connection.execute(_REWRITE, parameters).rowcount == 0:
        insert_message(connection, message)


def _get(connection: Connection, project_id: str, thread_id: str, message_id: str) -> Message | None:
    parameters = {"project_id": project_id, "thread_id": thread_id, "id": message_id}
    row = connection.execute(_BY_ID, parameters).first()
    return None if row is None else decode_message(row)


def _encode(message: Message) -> dict[str, object]:
    return {
        "id": message.id,
        "project_id": message.project_id,
        "thread_id": message.thread_id,
        "position": message.position,
        "role": message.role,
        "content_json": CONTENT.dump(message.content),
        "state": message.state,
        "incomplete_reason": message.incomplete_reason,
        "assistant_id": message.assistant_id,
        "run_id": message.run_id,
        "metadata_json": STRING_MAP.dump(dict(message.metadata)),
        "create_time": to_micros(message.create_time),
        "end_time": message.end_time and to_micros(message.end_time),
    }


def decode_message(row: Record) -> Message:
    """The message of a row."""
    return Message(
        id=row.id,
        project_id=row.project_id,
        thread_id=row.thread_id,
        role=Role(row.role),
        content=CONTENT.load(row.content_json),
        state=MessageState(row.state),
        incomplete_reason=row.incomplete_reason and MessageIncompleteReason(row.incomplete_reason),
        assistant_id=row.assistant_id,
        run_id=row.run_id,
        metadata=STRING_MAP.load(row.metadata_json),
        create_time=from_micros(row.create_time),
        end_time=row.end_time and from_micros(row.end_time),
        position=row.position,
    )
