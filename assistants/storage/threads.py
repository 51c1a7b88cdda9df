"""Threads in the database."""

from functools import partial

import sqlalchemy as sa

from assistants.domain.errors import NotFound, RunActive
from assistants.domain.names import run_name, thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import RequestKey
from assistants.domain.thread import Thread
from assistants.domain.times import from_micros, to_micros
from assistants.storage.codec import STRING_MAP
from assistants.storage.connection import Connection, Record
from assistants.storage.database import Database
from assistants.storage.paging import PagedSelect
from assistants.storage.requests import made_before
from assistants.storage.tables import MESSAGES, RUN_EVENTS, RUN_STEPS, RUNS, THREADS

_c = THREADS.c
_OF_PROJECT = _c.project_id == sa.bindparam("project_id")
_BY_ID = sa.select(THREADS).where(_OF_PROJECT, _c.id == sa.bindparam("id"))
_LIST = PagedSelect(THREADS, _OF_PROJECT)
_INSERT = sa.insert(THREADS)
_REPLACE = (
    sa.update(THREADS)
    .where(
        _c.project_id == sa.bindparam("p_project_id"),
        _c.id == sa.bindparam("p_id"),
        _c.revision == sa.bindparam("p_revision"),
    )
    .values(
        metadata_json=sa.bindparam("metadata_json"),
        revision=sa.bindparam("revision"),
        update_time=sa.bindparam("update_time"),
    )
)
_MOVE_START = (
    sa.update(THREADS)
    .where(
        _c.project_id == sa.bindparam("p_project_id"),
        _c.id == sa.bindparam("p_id"),
        _c.context_start < sa.bindparam("position"),
    )
    .values(context_start=sa.bindparam("position"))
)
_LOCK = sa.select(_c.id).where(_OF_PROJECT, _c.id == sa.bindparam("thread_id")).with_for_update()
_THREAD_AND_RUN = sa.select(
    _c.id,
    sa.select(RUNS.c.id)
    .where(RUNS.c.thread_id == sa.bindparam("thread_id"), RUNS.c.holds_thread == sa.true())
    .scalar_subquery()
    .label("active_run"),
).where(_OF_PROJECT, _c.id == sa.bindparam("thread_id"))
_DELETE = sa.delete(THREADS).where(_OF_PROJECT, _c.id == sa.bindparam("id"))
_DELETE_REVISION = _DELETE.where(_c.revision == sa.bindparam("revision"))
_DELETE_CONTENT = (
    sa.delete(RUN_EVENTS).where(
        RUN_EVENTS.c.run_id.in_(sa.select(RUNS.c.id).where(RUNS.c.thread_id == sa.bindparam("id")))
    ),
    sa.delete(RUN_STEPS).where(
        RUN_STEPS.c.run_id.in_(sa.select(RUNS.c.id).where(RUNS.c.thread_id == sa.bindparam("id")))
    ),
    sa.delete(RUNS).where(RUNS.c.thread_id == sa.bindparam("id")),
    sa.delete(MESSAGES).where(MESSAGES.c.thread_id == sa.bindparam("id")),
)


class SqlThreads:
    """ThreadRepository."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, thread: Thread, request: RequestKey | None) -> Thread:
        """Stores it, or gives the one that the request id made."""

        def job(connection: Connection) -> Thread:
            read = partial(get_thread, connection, thread.project_id)
            if existing := made_before(connection, thread.project_id, request, thread.id, read):
                return existing
            insert_thread(connection, thread)
            return thread

        return await self._database.write(job)

    async def get(self, project_id: str, thread_id: str) -> Thread | None:
        """None when there is none."""
        return await self._database.read(lambda connection: get_thread(connection, project_id, thread_id))

    async def list(self, project_id: str, page: PageRequest) -> Page[Thread]:
        """One page."""
        return await self._database.scan(
            lambda connection: _LIST.page(connection, page, {"project_id": project_id}, _decode)
        )

    async def replace(self, thread: Thread, *, revision: int) -> bool:
        """Stores the new metadata if the stored revision is still `revision`."""
        parameters = {
            "p_project_id": thread.project_id,
            "p_id": thread.id,
            "p_revision": revision,
            "metadata_json": STRING_MAP.dump(dict(thread.metadata)),
            "revision": thread.revision,
            "update_time": to_micros(thread.update_time),
        }
        return await self._database.write(
            lambda connection: connection.execute(_REPLACE, parameters).rowcount == 1
        )

    async def set_context_start(self, project_id: str, thread_id: str, position: int) -> None:
        """Moves the first position that prompts use; never backwards."""
        parameters = {"p_project_id": project_id, "p_id": thread_id, "position": position}
        await self._database.write(
            lambda connection: connection.execute(_MOVE_START, parameters), durable=False
        )

    async def delete(self, project_id: str, thread_id: str, *, revision: int | None) -> bool:
        """Deletes it and all that is in it. Raises RunActive while a run is active."""

        def job(connection: Connection) -> bool:
            try:
                require_idle(connection, thread_id, project_id=project_id)
            except NotFound:
                return False
            parameters: dict[str, object] = {"project_id": project_id, "id": thread_id}
            if revision is None:
                deleted = connection.execute(_DELETE, parameters).rowcount == 1
            else:
                deleted = (
                    connection.execute(_DELETE_REVISION, {**parameters, "revision": revision}).rowcount == 1
                )
            if deleted:
                for statement in _DELETE_CONTENT:
                    connection.execute(statement, {"id": thread_id})
            return deleted

        return await self._database.write(job)


def insert_thread(connection: Connection, thread: Thread) -> None:
    """Stores a new thread."""
    connection.execute(
        _INSERT,
        {
            "id": thread.id,
            "project_id": thread.project_id,
            "metadata_json": STRING_MAP.dump(dict(thread.metadata)),
            "revision": thread.revision,
            "next_position": thread.next_position,
            "history_version": thread.history_version,
            "context_start": thread.context_start,
            "create_time": to_micros(thread.create_time),
            "update_time": to_micros(thread.update_time),
        },
    )


def lock_thread(connection: Connection, thread_id: str, *, project_id: str) -> None:
    """Lets nobody else begin or end a run on it, or write to it, until the transaction ends."""
    connection.lock(_LOCK, {"project_id": project_id, "thread_id": thread_id})


def require_idle(connection: Connection, thread_id: str, *, project_id: str) -> None:
    """Locks the thread; raises NotFound when the project has none, RunActive while a run holds it."""
    holder = lock_and_see_holder(connection, thread_id, project_id=project_id)
    if holder is not None:
        raise RunActive(thread=thread_name(thread_id), run=run_name(thread_id, holder))


def lock_and_see_holder(connection: Connection, thread_id: str, *, project_id: str) -> str | None:
    """Locks the thread; gives the id of the run that holds it. Raises NotFound without such a thread."""
    lock_thread(connection, thread_id, project_id=project_id)
    row = connection.execute(_THREAD_AND_RUN, {"project_id": project_id, "thread_id": thread_id}).first()
    if row is None:
        raise NotFound("thread", thread_name(thread_id))
    holder: str | None = row.active_run
    return holder


def get_thread(connection: Connection, project_id: str, thread_id: str) -> Thread | None:
    """None when there is none."""
    row = connection.execute(_BY_ID, {"project_id": project_id, "id": thread_id}).first()
    return None if row is None else _decode(row)


def _decode(row: Record) -> Thread:
    return Thread(
        id=row.id,
        project_id=row.project_id,
        metadata=STRING_MAP.load(row.metadata_json),
        revision=row.revision,
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
        history_version=row.history_version,
        context_start=row.context_start,
        next_position=row.next_position,
    )
