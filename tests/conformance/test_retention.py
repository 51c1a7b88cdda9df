"""Events of ended runs are kept for a time, and then all but the last are deleted, a few at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from assistants.domain.ports import Claim
from assistants.domain.run_event import RunChanged, TextDelta
from assistants.domain.run_states import RunState
from assistants.storage.retention import SqlEventRetention
from tests.conformance.stores import Store

ENDED = datetime(2026, 3, 1, tzinfo=UTC)


async def run_of(store: Store, *, events: int, ended: datetime | None) -> Claim:
    """A run with so many events."""
    claim = await store.claimed()
    deltas = [TextDelta("m", 0, str(number)) for number in range(events - 2 - (ended is not None))]
    await store.runs.append(claim.fence, deltas)
    if ended is not None:
        status = replace(claim.run.status, state=RunState.COMPLETED, end_time=ended, expire_time=None)
        await store.runs.append(claim.fence, [RunChanged(status)])
    return claim


async def sequences(store: Store, claim: Claim) -> list[int]:
    return [event.sequence for event in await store.log.read(claim.run.id, after=0, limit=10_000)]


async def test_the_last_event_stays_and_says_how_the_run_ended(store: Store) -> None:
    claim = await run_of(store, events=20, ended=ENDED)
    retention = SqlEventRetention(store.database)
    assert await retention.prune(ENDED - timedelta(microseconds=1), at_most=100) == 0
    assert await retention.prune(ENDED, at_most=100) == 19
    assert await sequences(store, claim) == [20]
    (event,) = await store.log.read(claim.run.id, after=0, limit=10)
    run = await store.runs.get("p", claim.run.id)
    assert run is not None
    assert event.body == RunChanged(run.status)
    assert run.last_sequence == 20
    assert await retention.prune(ENDED, at_most=100) == 0, "a run is pruned once"


async def test_no_more_is_deleted_at_once_than_asked_for_and_what_is_left_has_no_gap(store: Store) -> None:
    first = await run_of(store, events=25, ended=ENDED)
    second = await run_of(store, events=10, ended=ENDED + timedelta(seconds=1))
    retention = SqlEventRetention(store.database)
    later = ENDED + timedelta(days=1)
    counts = [await retention.prune(later, at_most=10) for _ in range(4)]
    assert counts == [10, 10, 10, 3]
    assert await sequences(store, first) == [25]
    assert await sequences(store, second) == [10]


async def test_events_of_runs_that_go_on_are_kept(store: Store) -> None:
    claim = await run_of(store, events=10, ended=None)
    retention = SqlEventRetention(store.database)
    assert await retention.prune(datetime.now(UTC) + timedelta(days=365), at_most=100) == 0
    assert await sequences(store, claim) == list(range(1, 11))


async def test_half_pruned_journals_begin_later_and_have_no_gap(store: Store) -> None:
    claim = await run_of(store, events=30, ended=ENDED)
    await SqlEventRetention(store.database).prune(ENDED, at_most=7)
    assert await sequences(store, claim) == list(range(8, 31))
