"""A connection to a PostgreSQL server."""

from collections.abc import Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.raw_cursor import RawCursor
from sqlalchemy import Insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from assistants.storage.connection import Compiled, Parameters, Result, Statement, Upsert

RawConnection = psycopg.Connection[tuple[object, ...]]

# Its parameters are PostgreSQL's own, so that psycopg has nothing to translate.
_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_compiled: dict[Statement, Compiled] = {}
"""By statement: statements are made once, at import, and live as long as the process."""
_compiled_rows: dict[tuple[Insert, int], Compiled] = {}
"""Inserts of several rows, by how many."""
_ROWS_AT_ONCE = 8

_SESSION = (
    # A server that was stopped within a transaction must not keep its rows locked for others.
    "SET idle_in_transaction_session_timeout = '5s'",
    "SET lock_timeout = '10s'",
    # Nor one whose machine is gone.
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
)
_DEFAULTS = {
    "application_name": "assistants",
    "connect_timeout": 5,
    # A network that says nothing for some ten seconds has lost the connection.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""What the URL may say otherwise."""


def connect(conninfo: str, *, application: str | None = None) -> RawConnection:
    """Opens a connection on which each statement commits by itself unless it is within BEGIN and COMMIT.

    Args:
        conninfo: a `postgresql://` URL, or key=value words of libpq.
        application: how others see it; None is what the URL says.

    Raises:
        psycopg.OperationalError: the server cannot be reached, or refuses.
    """
    parameters: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(conninfo)}
    if application is not None:
        parameters["application_name"] = application
    raw = psycopg.connect(
        make_conninfo(**parameters),
        autocommit=True,
        cursor_factory=RawCursor,
        client_encoding="utf8",
    )
    try:
        raw.execute("; ".join(_SESSION), prepare=False)
    except BaseException:
        raw.close()
        raise
    return raw


class PostgresConnection:
    """Connection on PostgreSQL. psycopg prepares what is executed often by itself."""

    def __init__(self, raw: RawConnection) -> None:
        self.raw = raw

    def execute(self, statement: Statement, parameters: Parameters | None = None) -> Result:
        """Executes a statement that was made once, always with the same names of parameters."""
        given = parameters or {}
        compiled = _compiled.get(statement)
        if compiled is None:
            compiled = _compile(statement, given)
        return Result(self.raw.execute(compiled.sql, compiled.bind(given)), compiled)

    def insert_many(self, statement: Insert, rows: Sequence[Parameters]) -> None:
        """Executes an insert of all the rows, of which there is at least one, a few at a time."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            few = rows[start : start + _ROWS_AT_ONCE]
            compiled = _compiled_rows.get((statement, len(few)))
            if compiled is None:
                compiled = _compile_rows(statement, few)
            values = {f"{name}_{number}": row[name] for number, row in enumerate(few) for name in row}
            self.raw.execute(compiled.sql, compiled.bind(values))

    def lock(self, statement: Statement, parameters: Parameters) -> None:
        """Locks the rows that a `SELECT … FOR UPDATE` finds, until the transaction ends."""
        self.execute(statement, parameters)


def _compile(statement: Statement, given: Parameters) -> Compiled:
    text = statement.postgresql if isinstance(statement, Upsert) else statement
    compiled = _compiled[statement] = Compiled(text, _DIALECT, tuple(given))
    return compiled


def _compile_rows(statement: Insert, rows: Sequence[Parameters]) -> Compiled:
    columns = statement.table.c
    values = [
        {name: sa.bindparam(f"{name}_{number}", type_=columns[name].type) for name in row}
        for number, row in enumerate(rows)
    ]
    given = [parameter.key for row in values for parameter in row.values()]
    compiled = Compiled(statement.values(values), _DIALECT, given)
    _compiled_rows[statement, len(rows)] = compiled
    return compiled
