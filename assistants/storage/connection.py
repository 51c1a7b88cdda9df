"""A connection that executes Core statements, each compiled to text once.

Statements stay typed by the tables and portable; what is saved is SQLAlchemy's
own execution: a point read takes 6 microseconds in place of 45.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

Record = Any
"""A row, with an attribute a column."""
Parameters = Mapping[str, object]

_DIALECT = sqlite.dialect()


class _Compiled:
    """A statement as text, and what has to be bound where."""

    __slots__ = ("_constants", "_names", "record", "sql")

    def __init__(self, statement: ClauseElement, given: Sequence[str]) -> None:
        compiled = statement.compile(
            dialect=_DIALECT, column_keys=list(given) or None, compile_kwargs={"render_postcompile": True}
        )
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]
        self._constants = {name: compiled.params[name] for name in self._names if name not in given}
        self.record: type[tuple[Any, ...]] | None = None

    def bind(self, parameters: Parameters) -> list[object]:
        constants = self._constants
        if not constants:
            return [parameters[name] for name in self._names]
        return [constants[name] if name in constants else parameters[name] for name in self._names]


_compiled: dict[ClauseElement, _Compiled] = {}
"""By statement: statements are made once, at import, and live as long as the process."""


class Connection:
    """One SQLite connection without transactions of its own: whoever has it begins and commits."""

    def __init__(self, path: Path) -> None:
        self.raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "busy_timeout = 10000", "cache_size = -16384"):
            self.raw.execute(f"PRAGMA {pragma}")

    def execute(self, statement: ClauseElement, parameters: Parameters | None = None) -> "Result":
        """Executes a statement that was made once, always with the same names of parameters."""
        given = parameters or {}
        compiled = _compiled.get(statement)
        if compiled is None:
            compiled = _compiled[statement] = _Compiled(statement, tuple(given))
        return Result(self.raw.execute(compiled.sql, compiled.bind(given)), compiled)

    def insert_many(self, statement: ClauseElement, rows: Sequence[Parameters]) -> None:
        """Executes an insert for each of the rows, of which there is at least one."""
        compiled = _compiled.get(statement)
        if compiled is None:
            compiled = _compiled[statement] = _Compiled(statement, tuple(rows[0]))
        self.raw.executemany(compiled.sql, [compiled.bind(row) for row in rows])

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self.raw.close()


class Result:
    """What a statement gave. Reading it in part gives the rest up."""

    __slots__ = ("_compiled", "_cursor")

    def __init__(self, cursor: sqlite3.Cursor, compiled: _Compiled) -> None:
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
            columns = [column[0] for column in self._cursor.description]
            record = self._compiled.record = namedtuple("Record", columns, rename=True)
        return record._make  # type: ignore[attr-defined]
