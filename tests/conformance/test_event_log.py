"""The event log: journals in pages, and told to whoever listens."""

from assistants.domain.run_event import RunEvent, TextDelta
from tests.conformance.stores import Store, ended


async def test_a_journal_is_read_from_any_sequence_in_pages(store: Store) -> None:
    claim = await store.claimed()
    for number in range(10):
        await store.runs.append(claim.fence, [TextDelta("m", 0, str(number))])
    last = await store.runs.append(claim.fence, [ended(claim)])
    everything = list(await store.log.read(claim.run.id, after=0, limit=100))
    assert [event.sequence for event in everything] == list(range(1, last + 1))
    for after in range(last + 1):
        page = await store.log.read(claim.run.id, after=after, limit=4)
        assert list(page) == everything[after : after + 4]
    assert await store.log.read("run_x", after=0, limit=4) == []


async def test_listeners_are_told_what_the_log_has(store: Store) -> None:
    told: dict[str, list[RunEvent]] = {}
    store.log.subscribe(lambda run_id, events: told.setdefault(run_id, []).extend(events))
    claims = []
    for _ in range(3):
        claim = await store.claimed()
        await store.runs.append(claim.fence, [TextDelta("m", 0, "a"), TextDelta("m", 0, "b")])
        await store.runs.append(claim.fence, [ended(claim)])
        claims.append(claim)
    for claim in claims:
        assert told[claim.run.id] == list(await store.log.read(claim.run.id, after=0, limit=100))


async def test_what_is_told_is_stored_already(store: Store, peer: Store) -> None:
    told: list[RunEvent] = []
    store.log.subscribe(lambda run_id, events: told.extend(events))
    claim = await store.claimed()
    await store.runs.append(claim.fence, [TextDelta("m", 0, "a")])
    assert list(await peer.log.read(claim.run.id, after=0, limit=100)) == told
