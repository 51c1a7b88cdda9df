"""Alembic's entry: brings a database to the newest form."""

from alembic import context
from sqlalchemy import Engine, text

from assistants.storage.tables import METADATA

_KEY = "(1095980884, 2)"
"""Of the advisory lock under which one process migrates at a time."""

engine: Engine = context.config.attributes["engine"]
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock{_KEY}"))
            # A change of a table that waits for one long query makes all others wait as well.
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        context.run_migrations()
