"""A connection to a SQLite file."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Insert
from sqlalchemy.dialects import sqlite

from assistants.storage.connection import Compiled, Parameters, Result, Statement, Upsert

_DIALECT = sqlite.dialect()
_compiled: dict[Statement, Compiled] = {}
"""By statement: statements are made once, at import, and live as long as the process."""


class SqliteConnection:
    """Connection on SQLite."""

    def __init__(self, path: Path) -> None:
        self.raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "busy_timeout = 10000", "cache_size = -16384"):
            self.raw.execute(f"PRAGMA {pragma}")

    def execute(self, statement: Statement, parameters: Parameters | None = None) -> Result:
        """Executes a statement that was made once, always with the same names of parameters."""
        given = parameters or {}
        compiled = _compiled.get(statement)
        if compiled is None:
            compiled = _compile(statement, given)
        return Result(self.raw.execute(compiled.sql, compiled.bind(given)), compiled)

    def insert_many(self, statement: Insert, rows: Sequence[Parameters]) -> None:
        """Executes an insert for each of the rows, of which there is at least one."""
        compiled = _compiled.get(statement)
        if compiled is None:
            compiled = _compile(statement, rows[0])
        self.raw.executemany(compiled.sql, [compiled.bind(row) for row in rows])

    def lock(self, statement: Statement, parameters: Parameters) -> None:
        """Does nothing: there is one writer at a time."""

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self.raw.close()


def _compile(statement: Statement, given: Parameters) -> Compiled:
    text = statement.sqlite if isinstance(statement, Upsert) else statement
    compiled = _compiled[statement] = Compiled(text, _DIALECT, tuple(given))
    return compiled
