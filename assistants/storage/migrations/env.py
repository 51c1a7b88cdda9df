"""Alembic's entry: brings a database to the newest form."""

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from assistants.storage.tables import METADATA

engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
