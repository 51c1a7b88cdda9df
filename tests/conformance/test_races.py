"""Two servers at one database, and many callers at each: every rule holds at any interleaving."""

import asyncio

from assistants.domain.errors import Fenced, NotFound, RequestIdReused, RunActive
from assistants.domain.message import Message
from assistants.domain.run_event import TextDelta
from assistants.domain.run_states import RunState
from tests.conformance.stores import Store, ended, new_thread, request_key

CALLS = 20


async def test_positions_of_messages_have_no_gaps(store: Store, peer: Store) -> None:
    made = await asyncio.gather(
        *((store, peer)[n % 2].messages.create(store.message(str(n)), None) for n in range(CALLS))
    )
    assert sorted(message.position for message in made) == list(range(CALLS))
    stored = await store.messages.since("p", store.thread.id, 0, at_most=CALLS)
    assert [message.position for message in stored] == list(range(CALLS))
    assert {message.id for message in stored} == {message.id for message in made}


async def test_of_many_creates_on_one_thread_one_is_stored(store: Store, peer: Store) -> None:
    outcomes = await asyncio.gather(
        *((store, peer)[n % 2].queued([store.message()]) for n in range(CALLS)), return_exceptions=True
    )
    (run,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {type(refusal) for refusal in refusals} == {RunActive}
    assert {str(refusal).rpartition("/")[2] for refusal in refusals} == {run.id}
    assert len(await store.messages.since("p", store.thread.id, 0, at_most=CALLS)) == 1


async def test_of_many_claims_one_gets_the_run(store: Store, peer: Store) -> None:
    run = await store.queued()
    claims = await asyncio.gather(
        *((store, peer)[n % 2].runs.claim(run.id, takeover=False) for n in range(CALLS))
    )
    (claim,) = [claim for claim in claims if claim is not None]
    assert (claim.fence.epoch, claim.run.status.attempt) == (1, 1)


async def test_of_many_takeovers_the_last_one_may_write(store: Store, peer: Store) -> None:
    run = await store.queued()
    claims = await asyncio.gather(
        *((store, peer)[n % 2].runs.claim(run.id, takeover=True) for n in range(CALLS))
    )
    epochs = [claim.fence.epoch for claim in claims if claim is not None]
    assert sorted(epochs) == list(range(1, CALLS + 1))
    outcomes = await asyncio.gather(
        *(
            (store, peer)[n % 2].runs.append(claim.fence, [TextDelta("m", 0, str(claim.fence.epoch))])
            for n, claim in enumerate(claims)
            if claim is not None
        ),
        return_exceptions=True,
    )
    written = [
        epoch for epoch, outcome in zip(epochs, outcomes, strict=True) if not isinstance(outcome, Exception)
    ]
    assert written == [CALLS]
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {Fenced}


async def test_appends_of_two_servers_take_sequences_without_a_gap(store: Store, peer: Store) -> None:
    claim = await store.claimed()
    last = await asyncio.gather(
        *(
            (store, peer)[n % 2].runs.append(claim.fence, [TextDelta("m", 0, str(n))] * (n % 3 + 1))
            for n in range(CALLS)
        )
    )
    events = await store.log.read(claim.run.id, after=0, limit=100)
    assert [event.sequence for event in events] == list(range(1, max(last) + 1))
    for told in (store.told, peer.told):
        assert [event.sequence for event in told] == sorted(event.sequence for event in told)
    assert sorted([*store.told, *peer.told], key=lambda event: event.sequence) == list(events)


async def test_a_run_ends_once_although_it_is_cancelled_and_completed_at_once(
    store: Store, peer: Store
) -> None:
    for _ in range(CALLS):
        claim = await store.claimed()
        completed, cancelling = await asyncio.gather(
            store.runs.append(claim.fence, [ended(claim)]),
            peer.runs.end_idle("p", claim.run.id, expired=False),
            return_exceptions=True,
        )
        run = await peer.runs.get("p", claim.run.id)
        assert run is not None
        assert not isinstance(cancelling, BaseException)
        if isinstance(completed, Fenced):
            assert run.status.state is RunState.CANCELLING
            await store.runs.append(claim.fence, [ended(claim, RunState.CANCELLED)])
        else:
            assert run.status.state is RunState.COMPLETED


async def test_a_request_that_is_sent_twice_at_once_is_done_once(store: Store, peer: Store) -> None:
    async def create(at: Store) -> Message:
        return await at.messages.create(store.message(), request_key())

    made = await asyncio.gather(*(create((store, peer)[n % 2]) for n in range(CALLS)))
    assert len({message.id for message in made}) == 1
    assert len(await store.messages.since("p", store.thread.id, 0, at_most=CALLS)) == 1


async def test_one_of_two_requests_with_one_id_is_refused(store: Store, peer: Store) -> None:
    outcomes = await asyncio.gather(
        store.messages.create(store.message(), request_key(fingerprint="a")),
        peer.messages.create(store.message(), request_key(fingerprint="b")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes].count(RequestIdReused) == 1


async def test_a_thread_is_deleted_whole_although_it_is_written_to_meanwhile(
    store: Store, peer: Store
) -> None:
    for _ in range(CALLS):
        thread = new_thread()
        await store.threads.create(thread, None)
        views = Store(store.database, thread=thread), Store(peer.database, thread=thread)
        outcomes = await asyncio.gather(
            views[0].messages.create(views[0].message(), None),
            views[1].queued([views[1].message()]),
            views[0].threads.delete("p", thread.id, revision=None),
            views[1].messages.create(views[1].message(), None),
            return_exceptions=True,
        )
        assert all(
            isinstance(outcome, NotFound | RunActive) or not isinstance(outcome, BaseException)
            for outcome in outcomes
        ), outcomes
        if outcomes[2] is True:
            assert await store.messages.since("p", thread.id, 0, at_most=9) == []
            assert (await store.runs.active("p", thread.id)) is None
