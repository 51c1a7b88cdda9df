"""Request ids: the same create, sent twice, is done once."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa

from assistants.domain.errors import RequestIdReused
from assistants.domain.ports import RequestKey
from assistants.domain.times import now_micros
from assistants.storage.connection import Connection, upsert
from assistants.storage.database import Database
from assistants.storage.tables import REQUESTS

T = TypeVar("T")

KEPT = timedelta(hours=24)
_KEPT_MICROS = KEPT // timedelta(microseconds=1)

_THIS = (
    REQUESTS.c.project_id == sa.bindparam("p_project_id"),
    REQUESTS.c.method == sa.bindparam("p_method"),
    REQUESTS.c.request_id == sa.bindparam("p_request_id"),
)
_FORGET = sa.delete(REQUESTS).where(REQUESTS.c.create_time <= sa.bindparam("oldest"))
# First, and not after a look: of two that do the same request at once, the second waits here.
_TAKE = upsert(
    REQUESTS,
    ("project_id", "method", "request_id"),
    ("fingerprint", "resource_id", "create_time"),
    where=REQUESTS.c.create_time <= sa.bindparam("oldest"),
    returning=REQUESTS.c.resource_id,
)
_FIND = sa.select(REQUESTS.c.fingerprint, REQUESTS.c.resource_id).where(*_THIS).with_for_update()
_TAKE_AGAIN = (
    sa.update(REQUESTS)
    .where(*_THIS)
    .values(resource_id=sa.bindparam("resource_id"), create_time=sa.bindparam("create_time"))
)


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
    now = now_micros()
    taken = connection.execute(
        _TAKE,
        {
            "project_id": project_id,
            "method": request.method,
            "request_id": request.request_id,
            "fingerprint": request.fingerprint,
            "resource_id": new_id,
            "create_time": now,
            "oldest": now - _KEPT_MICROS,
        },
    ).first()
    if taken is not None:
        return None
    this = {"p_project_id": project_id, "p_method": request.method, "p_request_id": request.request_id}
    row = connection.execute(_FIND, this).one()
    if row.fingerprint != request.fingerprint:
        raise RequestIdReused.of(request.request_id)
    existing = read(row.resource_id)
    if existing is None:  # it was deleted since: the request makes another one
        connection.execute(_TAKE_AGAIN, {**this, "resource_id": new_id, "create_time": now})
    return existing


class SqlRequests:
    """Request ids as a whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget_old(self) -> None:
        """Deletes those that are older than they are kept."""
        oldest = now_micros() - _KEPT_MICROS
        await self._database.write(
            lambda connection: connection.execute(_FORGET, {"oldest": oldest}), durable=False
        )
