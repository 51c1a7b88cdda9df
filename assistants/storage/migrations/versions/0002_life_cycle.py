"""Runs that wait for their thread, and events that are kept for a time."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FINAL = ("cancelled", "failed", "completed", "incomplete", "expired")


def upgrade() -> None:
    op.add_column("runs", sa.Column("waiting_rank", sa.Integer(), nullable=True))
    op.add_column("runs", sa.Column("waiting_messages_json", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("retained_since", sa.BigInteger(), nullable=True))
    runs = sa.table("runs", sa.column("state"), sa.column("retained_since"))
    # When they ended stands in JSON only: their events are kept a whole time from now.
    op.execute(sa.update(runs).where(runs.c.state.in_(_FINAL)).values(retained_since=time.time_ns() // 1_000))
    op.create_index(
        "runs_waiting",
        "runs",
        ["thread_id", "waiting_rank", "create_time", "id"],
        sqlite_where=sa.text("waiting_rank IS NOT NULL"),
        postgresql_where=sa.text("waiting_rank IS NOT NULL"),
    )
    op.create_index(
        "runs_retained",
        "runs",
        ["retained_since"],
        sqlite_where=sa.text("retained_since IS NOT NULL"),
        postgresql_where=sa.text("retained_since IS NOT NULL"),
    )
