"""Keyset paging over (create_time, id), with statements built once."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Table

from assistants.domain.page import Cursor, Page, PageRequest
from assistants.domain.times import from_micros, to_micros
from assistants.storage.connection import Connection, Record

T = TypeVar("T")


class PagedSelect:
    """The four statements of a list: each order, from the start or from a cursor."""

    def __init__(self, table: Table, *conditions: ColumnElement[bool]) -> None:
        key = sa.tuple_(table.c.create_time, table.c.id)
        cursor = sa.tuple_(sa.bindparam("cursor_time"), sa.bindparam("cursor_id"))
        base = sa.select(table).where(*conditions).limit(sa.bindparam("page_limit"))
        newest_first = base.order_by(table.c.create_time.desc(), table.c.id.desc())
        oldest_first = base.order_by(table.c.create_time, table.c.id)
        self._statements = {
            (True, False): newest_first,
            (True, True): newest_first.where(key < cursor),
            (False, False): oldest_first,
            (False, True): oldest_first.where(key > cursor),
        }

    def page(
        self,
        connection: Connection,
        request: PageRequest,
        parameters: Mapping[str, object],
        decode: Callable[[Record], T],
    ) -> Page[T]:
        """One page; reads one row more than asked to know whether there is another."""
        after = request.after
        bound = {**parameters, "page_limit": request.size + 1}
        if after is not None:
            bound |= {"cursor_time": to_micros(after.create_time), "cursor_id": after.id}
        statement = self._statements[request.descending, after is not None]
        rows = connection.execute(statement, bound).all()
        kept = rows[: request.size]
        more = len(rows) > request.size
        last = kept[-1] if more else None
        return Page(
            items=tuple(decode(row) for row in kept),
            next=None if last is None else Cursor(create_time=from_micros(last.create_time), id=last.id),
        )
