"""Connections that execute Core statements, each compiled to text once.

Statements stay typed by the tables and portable; what is saved is SQLAlchemy's
own execution: on SQLite a point read takes 6 microseconds in place of 45.
"""

from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import ReturningInsert

Record = Any
"""A row, with an attribute a column."""
Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class Upsert:
    """An insert that becomes an update where the key is there; each dialect has a construct of its own."""

    sqlite: ClauseElement
    postgresql: ClauseElement


Statement = ClauseElement | Upsert


def upsert(
    table: Table,
    keys: Sequence[str],
    replaced: Sequence[str],
    *,
    where: ColumnElement[bool] | None = None,
    returning: ColumnElement[Any] | None = None,
) -> Upsert:
    """Inserts a row, or sets the columns `replaced` of the row that has the same `keys`.

    With `where`, only if that holds for the row that is there; what is `returning`
    comes of a row that was inserted or changed.
    """
    on_sqlite, on_postgresql = sqlite.insert(table), postgresql.insert(table)
    to_sqlite: ReturningInsert[Any] | sqlite.Insert = on_sqlite.on_conflict_do_update(
        index_elements=keys, set_={name: on_sqlite.excluded[name] for name in replaced}, where=where
    )
    to_postgresql: ReturningInsert[Any] | postgresql.Insert = on_postgresql.on_conflict_do_update(
        index_elements=keys, set_={name: on_postgresql.excluded[name] for name in replaced}, where=where
    )
    if returning is not None:
        to_sqlite, to_postgresql = to_sqlite.returning(returning), to_postgresql.returning(returning)
    return Upsert(to_sqlite, to_postgresql)


class Connection(Protocol):
    """What the jobs of a database work with. It has no transactions: whoever has it begins and commits."""

    def execute(self, statement: Statement, parameters: Parameters | None = None) -> "Result":
        """Executes a statement that was made once, always with the same names of parameters."""
        ...

    def insert_many(self, statement: Insert, rows: Sequence[Parameters]) -> None:
        """Executes an insert for each of the rows, of which there is at least one."""
        ...

    def lock(self, statement: Statement, parameters: Parameters) -> None:
        """Locks the rows that a `SELECT … FOR UPDATE` finds, until the transaction ends.

        Does nothing where there is one writer at a time anyway.
        """
        ...


class Compiled:
    """A statement as text, and what has to be bound where."""

    __slots__ = ("_constants", "_names", "record", "sql")

    def __init__(self, statement: ClauseElement, dialect: Dialect, given: Sequence[str]) -> None:
        compiled = statement.compile(
            dialect=dialect, column_keys=list(given) or None, compile_kwargs={"render_postcompile": True}
        )
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]
        self._constants = {name: compiled.params[name] for name in self._names if name not in given}
        self.record: type[tuple[Any, ...]] | None = None

    def bind(self, parameters: Parameters) -> list[object]:
        """The values in the order of the text."""
        constants = self._constants
        if not constants:
            return [parameters[name] for name in self._names]
        return [constants[name] if name in constants else parameters[name] for name in self._names]


class _Cursor(Protocol):
    """The part of a DB-API cursor that both drivers have."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None: ...
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def close(self) -> None: ...


class Result:
    """What a statement gave. Reading it in part gives the rest up."""

    __slots__ = ("_compiled", "_cursor")

    def __init__(self, cursor: _Cursor, compiled: Compiled) -> None:
        self._cursor = cursor
        self._compiled = compiled

    @property
    def rowcount(self) -> int:
        """Rows that an update or delete has changed."""
        return self._cursor.rowcount

    def first(self) -> Record | None:
        """The first row, or None."""
        row = self._cursor.fetchone()
        if row is None:
            return None
        record = self._record()
        self._cursor.close()  # a statement that is not at its end would outlive its transaction
        return record(row)

    def one(self) -> Record:
        """The first row, which there is."""
        row = self.first()
        assert row is not None
        return row

    def scalar(self) -> Any:
        """The first value of the first row, or None."""
        row = self._cursor.fetchone()
        self._cursor.close()
        return None if row is None else row[0]

    def scalars(self) -> list[Any]:
        """The first value of each row."""
        return [row[0] for row in self._cursor.fetchall()]

    def all(self) -> list[Record]:
        """All rows."""
        record = self._record()
        return [record(row) for row in self._cursor.fetchall()]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.all())

    def _record(self) -> Any:
        record = self._compiled.record
        if record is None:
            columns = [column[0] for column in self._cursor.description or ()]
            record = self._compiled.record = namedtuple("Record", columns, rename=True)
        return record._make  # type: ignore[attr-defined]
