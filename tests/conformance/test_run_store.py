"""The run store: events and rows in one transaction, claims, fences, pauses and expiry."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from assistants.domain.content import Role, TextPart
from assistants.domain.errors import Fenced, NoActionRequired, RunActive
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState
from assistants.domain.ports import Claim
from assistants.domain.run_event import MessageChanged, RunChanged, StepChanged, TextDelta
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls
from assistants.domain.tool import StepToolCall, ToolOutput
from tests.conformance.stores import NOW, Store, ended


async def test_events_and_rows_say_the_same(store: Store) -> None:
    claim = await store.claimed()
    step = RunStep(
        id=new_id("step"),
        project_id="p",
        thread_id=store.thread.id,
        run_id=claim.run.id,
        index=0,
        state=StepState.IN_PROGRESS,
        details=MessageCreation(message_id="msg_1"),
        attempt=1,
        create_time=NOW,
    )
    message = Message(
        id="msg_1",
        project_id="p",
        thread_id=store.thread.id,
        role=Role.ASSISTANT,
        content=(),
        state=MessageState.IN_PROGRESS,
        run_id=claim.run.id,
        create_time=NOW,
    )
    whole = replace(message, content=(TextPart(value="hi"),), state=MessageState.COMPLETED, end_time=NOW)
    done = replace(step, state=StepState.COMPLETED, end_time=NOW)
    await store.runs.append(
        claim.fence, [StepChanged(step), MessageChanged(message), TextDelta("msg_1", 0, "hi")]
    )
    last = await store.runs.append(claim.fence, [MessageChanged(whole), StepChanged(done), ended(claim)])

    stored = await store.log.read(claim.run.id, after=0, limit=100)
    assert list(stored) == store.told
    assert [event.sequence for event in stored] == list(range(1, last + 1))
    run = await store.runs.get("p", claim.run.id)
    assert run is not None
    assert (run.status, run.last_sequence) == (ended(claim).status, last)
    assert await store.runs.get_step("p", claim.run.id, step.id) == done
    assert await store.messages.get("p", store.thread.id, "msg_1") == replace(whole, position=0)


async def test_a_newer_claim_fences_the_older_one(store: Store) -> None:
    old = await store.claimed()
    new = await store.runs.claim(old.run.id, takeover=True)
    assert new is not None
    assert (new.fence.epoch, new.run.status.attempt) == (2, 2)
    for events in ([TextDelta("m", 0, "zombie")], [ended(old)]):
        with pytest.raises(Fenced):
            await store.runs.append(old.fence, events)
    await store.runs.append(new.fence, [ended(new)])
    assert "zombie" not in repr(await store.log.read(old.run.id, after=0, limit=100))


async def test_a_run_in_progress_is_taken_by_takeover_only(store: Store) -> None:
    claim = await store.claimed()
    assert await store.runs.claim(claim.run.id, takeover=False) is None
    await store.runs.append(claim.fence, [ended(claim)])
    assert await store.runs.claim(claim.run.id, takeover=True) is None
    assert await store.runs.claim("run_x", takeover=True) is None


async def test_a_run_that_is_cancelling_takes_only_its_end(store: Store) -> None:
    claim = await store.claimed()
    cancelling = await store.runs.end_idle("p", claim.run.id, expired=False)
    assert cancelling is not None
    assert cancelling.status.state is RunState.CANCELLING
    for events in ([TextDelta("m", 0, "late")], [ended(claim)]):
        with pytest.raises(Fenced):
            await store.runs.append(claim.fence, events)
    await store.runs.append(claim.fence, [ended(claim, RunState.CANCELLED)])
    with pytest.raises(Fenced):
        await store.runs.append(claim.fence, [ended(claim)])


async def test_a_thread_has_one_active_run(store: Store) -> None:
    claim = await store.claimed()
    with pytest.raises(RunActive):
        await store.claimed()
    await store.runs.append(claim.fence, [ended(claim)])
    await store.claimed()


async def test_progress_postpones_expiry(store: Store) -> None:
    claim = await store.claimed()
    await store.runs.append(claim.fence, [TextDelta("m", 0, "a")])
    run = await store.runs.get("p", claim.run.id)
    assert run is not None
    assert run.status.expire_time is not None
    assert run.status.expire_time - datetime.now(UTC) > timedelta(seconds=590)
    assert await store.runs.overdue(datetime.now(UTC)) == []
    assert [r.id for r in await store.runs.overdue(datetime.now(UTC) + timedelta(seconds=601))] == [run.id]


async def test_nothing_of_another_project_is_seen(store: Store) -> None:
    claim = await store.claimed()
    assert await store.runs.get("q", claim.run.id) is None
    assert await store.runs.end_idle("q", claim.run.id, expired=False) is None
    assert await store.threads.get("q", store.thread.id) is None
    assert await store.runs.set_metadata("q", claim.run.id, {"a": "b"}) is None
    assert await store.runs.active("q", store.thread.id) is None


async def test_attempts_without_a_completed_step_are_counted_unless_forgiven(store: Store) -> None:
    claim = await store.claimed()
    counts = []
    for letting_go in (False, False, True, False):
        if letting_go:
            store.runs.let_go(claim.fence)
        again = await store.runs.claim(claim.run.id, takeover=True)
        assert again is not None
        counts.append(again.fruitless_attempts)
        claim = again
    assert counts == [1, 2, 0, 1]


async def paused(store: Store) -> tuple[Claim, StepToolCall]:
    """A run that waits for one call."""
    claim = await store.claimed()
    call = StepToolCall(id="call_1", name="f", arguments_json="{}")
    step = RunStep(
        id=new_id("step"),
        project_id="p",
        thread_id=store.thread.id,
        run_id=claim.run.id,
        index=0,
        state=StepState.IN_PROGRESS,
        details=ToolCalls(calls=(call,)),
        attempt=1,
        create_time=NOW,
    )
    waiting = replace(claim.run.status, state=RunState.REQUIRES_ACTION, required_action=(call,))
    await store.runs.append(claim.fence, [StepChanged(step), RunChanged(waiting)])
    return claim, call


@pytest.mark.parametrize("take", [True, False], ids=["taken", "queued"])
async def test_outputs_complete_the_step_and_let_the_run_go_on_in_one_append(
    store: Store, take: bool
) -> None:
    paused_claim, call = await paused(store)
    run = paused_claim.run
    assert list(await store.runs.unfinished()) == []
    with pytest.raises(Fenced):
        await store.runs.append(paused_claim.fence, [TextDelta("m", 0, "late")])
    before = len(store.told)
    submitted = await store.runs.submit(
        run, [ToolOutput(tool_call_id=call.id, output="out")], None, take=take
    )
    told = [event.body for event in store.told[before:]]
    assert isinstance(told[0], StepChanged)
    assert told[0].step.state is StepState.COMPLETED
    states = [body.status.state for body in told if isinstance(body, RunChanged)]
    assert states == [RunState.QUEUED, RunState.IN_PROGRESS][: 1 + take]
    assert list(await store.runs.unfinished()) == [run.id]
    claim = submitted.claim or await store.runs.claim(run.id, takeover=False)
    assert claim is not None
    assert (claim.fence.epoch, claim.run.status.attempt, claim.fruitless_attempts) == (2, 2, 0)
    assert claim.steps == (told[0].step,)
    assert claim.run.status.required_action == ()
    assert await store.runs.get("p", run.id) == claim.run
    with pytest.raises(NoActionRequired):
        await store.runs.submit(run, [ToolOutput(tool_call_id=call.id, output="out")], None, take=True)


async def test_a_run_that_went_on_does_not_expire(store: Store) -> None:
    claim, call = await paused(store)
    await store.runs.submit(claim.run, [ToolOutput(tool_call_id=call.id, output="")], None, take=False)
    run = await store.runs.end_idle("p", claim.run.id, expired=True)
    assert run is not None
    assert run.status.state is RunState.QUEUED
