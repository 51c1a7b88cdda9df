"""The form of a PostgreSQL database: migrated by command, and checked by every server that starts."""

import re

import psycopg
import sqlalchemy as sa
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DBAPIError

from assistants.domain.errors import DatabaseError
from assistants.storage import schema
from assistants.storage.postgres_connection import connect


def migrate(conninfo: str) -> str:
    """Brings the database to the newest form; gives that. Servers of the form before may go on meanwhile.

    Raises:
        DatabaseError: it cannot be reached or changed, or is of a newer form than this version knows.
    """
    _revision(conninfo)  # tells what is wrong with the connection, if anything is
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=sa.NullPool
    )
    try:
        schema.migrate(engine)
    except DBAPIError as error:
        raise DatabaseError(f"{_named(conninfo)} cannot be migrated: {_line(error.orig)}") from error
    except CommandError as error:
        raise DatabaseError(f"{_named(conninfo)} is of a newer version: {error}") from error
    return schema.newest_revision()


def check(conninfo: str) -> None:
    """Looks whether the database is of the form that this version works with.

    Raises:
        DatabaseError: it is not, or cannot be reached; with the command that migrates it.
    """
    revision = _revision(conninfo)
    if revision == schema.newest_revision():
        return
    if revision is not None and not schema.is_older(revision):
        raise DatabaseError(
            f"{_named(conninfo)} is of a newer version, {revision}, than this server, "
            f"{schema.newest_revision()}: it was changed by `assistants migrate` of a newer release, "
            "and needs servers of that"
        )
    found = "has no tables yet" if revision is None else f"is of an older version, {revision}"
    raise DatabaseError(
        f"{_named(conninfo)} {found}. Run: assistants migrate --database-url {without_password(conninfo)}"
    )


def without_password(conninfo: str) -> str:
    """A URL to show to people."""
    shown = re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", conninfo)
    return re.sub(r"\b(password=)[^&\s]+", r"\1***", shown)


def _revision(conninfo: str) -> str | None:
    try:
        with connect(conninfo) as raw:
            row = raw.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    except psycopg.Error as error:
        raise DatabaseError(f"{_named(conninfo)} cannot be reached: {_line(error)}") from error
    return None if row is None else str(row[0])


def _named(conninfo: str) -> str:
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        raise DatabaseError(f"--database-url is no URL of PostgreSQL: {_line(error)}") from error
    name, host = given.get("dbname"), given.get("host")
    return f"database {name or ''!r}" + (f" at {host}" if host else "")


def _line(error: BaseException | None) -> str:
    """The first line of what the database said: the rest is for its programmers."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
