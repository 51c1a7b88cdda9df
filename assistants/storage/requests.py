"""Request ids: the same create, sent twice, is done once."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa

from assistants.domain.errors import RequestIdReused
from assistants.domain.ports import RequestKey
from assistants.domain.times import now_micros
from assistants.storage.connection import Connection
from assistants.storage.sqlite import SqliteDatabase
from assistants.storage.tables import REQUESTS

T = TypeVar("T")

KEPT = timedelta(hours=24)
_KEPT_MICROS = KEPT // timedelta(microseconds=1)

_FIND = sa.select(REQUESTS.c.fingerprint, REQUESTS.c.resource_id).where(
    REQUESTS.c.project_id == sa.bindparam("project_id"),
    REQUESTS.c.method == sa.bindparam("method"),
    REQUESTS.c.request_id == sa.bindparam("request_id"),
    REQUESTS.c.create_time > sa.bindparam("oldest"),
)
_FORGET = sa.delete(REQUESTS).where(REQUESTS.c.create_time <= sa.bindparam("oldest"))
# What the request made before may have been deleted since: then it makes another one.
_RECORD = sa.insert(REQUESTS).prefix_with("OR REPLACE")


def made_before(
    connection: Connection,
    project_id: str,
    request: RequestKey | None,
    new_id: str,
    read: Callable[[str], T | None],
) -> T | None:
    """What the request made before; if nothing, it is recorded as making `new_id` in this transaction.

    Raises:
        RequestIdReused: the id was used with another request.
    """
    if request is None:
        return None
    made = _find(connection, project_id, request)
    existing = None if made is None else read(made)
    if existing is None:
        _record(connection, project_id, request, new_id)
    return existing


def _find(connection: Connection, project_id: str, request: RequestKey) -> str | None:
    row = connection.execute(
        _FIND,
        {
            "project_id": project_id,
            "method": request.method,
            "request_id": request.request_id,
            "oldest": now_micros() - _KEPT_MICROS,
        },
    ).first()
    if row is None:
        return None
    if row.fingerprint != request.fingerprint:
        raise RequestIdReused.of(request.request_id)
    resource_id: str = row.resource_id
    return resource_id


def _record(connection: Connection, project_id: str, request: RequestKey, resource_id: str) -> None:
    connection.execute(
        _RECORD,
        {
            "project_id": project_id,
            "method": request.method,
            "request_id": request.request_id,
            "fingerprint": request.fingerprint,
            "resource_id": resource_id,
            "create_time": now_micros(),
        },
    )


class SqliteRequests:
    """Request ids as a whole."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def forget_old(self) -> None:
        """Deletes those that are older than they are kept."""
        oldest = now_micros() - _KEPT_MICROS
        await self._database.write(
            lambda connection: connection.execute(_FORGET, {"oldest": oldest}), durable=False
        )
