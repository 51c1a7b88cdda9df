"""How long events are kept: from the end of their run."""

from datetime import datetime

import sqlalchemy as sa

from assistants.domain.times import to_micros
from assistants.storage.connection import Connection
from assistants.storage.database import Database
from assistants.storage.tables import RUN_EVENTS, RUNS

_RUNS_AT_ONCE = 64

_e = RUN_EVENTS.c
_ENDED = (
    sa.select(RUNS.c.id, RUNS.c.last_sequence)
    .where(RUNS.c.retained_since <= sa.bindparam("ended_before"))
    .order_by(RUNS.c.retained_since)
    .limit(_RUNS_AT_ONCE)
)
# The last event stays: it has the final state, and says how many there were.
_DELETE = sa.delete(RUN_EVENTS).where(
    _e.run_id == sa.bindparam("p_run_id"),
    _e.sequence < sa.bindparam("last_sequence"),
    _e.sequence
    < sa.select(sa.func.min(_e.sequence)).where(_e.run_id == sa.bindparam("p_run_id")).scalar_subquery()
    + sa.bindparam("at_most"),
)
_PRUNED = sa.update(RUNS).where(RUNS.c.id == sa.bindparam("p_run_id")).values(retained_since=sa.null())


class SqlEventRetention:
    """EventRetention."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prune(self, ended_before: datetime, *, at_most: int) -> int:
        """Deletes all but the last event of runs that ended before a moment; gives how many it deleted."""

        def job(connection: Connection) -> int:
            deleted = 0
            for row in connection.execute(_ENDED, {"ended_before": to_micros(ended_before)}).all():
                room = at_most - deleted
                parameters = {"p_run_id": row.id, "last_sequence": row.last_sequence, "at_most": room}
                count = connection.execute(_DELETE, parameters).rowcount
                deleted += count
                if count == room:
                    break  # there may be more of this run
                connection.execute(_PRUNED, {"p_run_id": row.id})
            return deleted

        return await self._database.write(job, durable=False)
