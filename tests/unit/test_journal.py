"""The journal keeps order, joins deltas, and tells of a refusal."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from assistants.domain.errors import Fenced
from assistants.domain.ports import Fence
from assistants.domain.run import RunStatus
from assistants.domain.run_event import EventBody, RunChanged, TextDelta, ToolCallDelta
from assistants.domain.run_states import RunState
from assistants.runs.journal import Journal

FENCE = Fence(project_id="p", thread_id="t", run_id="r", epoch=1)
CHANGED = RunChanged(RunStatus(state=RunState.IN_PROGRESS))


class SlowStore:
    """Takes appends only while its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.appends: list[Sequence[EventBody]] = []
        self.refuse = False

    async def append(self, fence: Fence, events: Sequence[EventBody]) -> int:
        self.entered.set()
        await self.gate.wait()
        if self.refuse:
            raise Fenced(fence.run_id)
        self.appends.append(events)
        return len(events)


def journal_on(store: Any) -> Journal:
    return Journal(store, FENCE)


async def test_deltas_that_wait_become_one_event() -> None:
    store = SlowStore()
    journal = journal_on(store)
    journal.append(TextDelta("m", 0, "a"))
    await store.entered.wait()
    for letter in "bcd":
        journal.append(TextDelta("m", 0, letter))
    store.gate.set()
    await journal.flush()
    assert store.appends == [[TextDelta("m", 0, "a")], [TextDelta("m", 0, "bcd")]]


async def test_other_events_keep_their_place_between_deltas() -> None:
    store = SlowStore()
    store.gate.set()
    journal = journal_on(store)
    journal.append(TextDelta("m", 0, "a"), TextDelta("m", 0, "b"), CHANGED, TextDelta("m", 0, "c"))
    journal.append(TextDelta("m", 1, "d"), TextDelta("m", 1, "e", reasoning=True), TextDelta("n", 1, "f"))
    await journal.flush()
    assert [event for events in store.appends for event in events] == [
        TextDelta("m", 0, "ab"),
        CHANGED,
        TextDelta("m", 0, "c"),
        TextDelta("m", 1, "d"),
        TextDelta("m", 1, "e", reasoning=True),
        TextDelta("n", 1, "f"),
    ]


async def test_a_refused_append_is_told_by_the_next_call() -> None:
    store = SlowStore()
    store.refuse = True
    store.gate.set()
    journal = journal_on(store)
    journal.append(CHANGED)
    with pytest.raises(Fenced):
        await journal.flush()
    with pytest.raises(Fenced):
        journal.append(CHANGED)


async def test_cancelling_who_waits_does_not_cancel_the_append() -> None:
    store = SlowStore()
    journal = journal_on(store)
    journal.append(CHANGED)
    await store.entered.wait()
    waiting = asyncio.create_task(journal.flush())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.gate.set()
    await journal.flush()
    assert store.appends == [[CHANGED]]


async def test_pieces_of_one_call_become_one_event_and_those_of_two_do_not() -> None:
    store = SlowStore()
    journal = journal_on(store)
    journal.append(CHANGED)
    await store.entered.wait()
    journal.append(ToolCallDelta("s", 0, id="call_1", name="f"))
    journal.append(ToolCallDelta("s", 0, arguments_json='{"a"'), ToolCallDelta("s", 0, arguments_json=": 1}"))
    journal.append(ToolCallDelta("s", 1, id="call_2", name="g"), ToolCallDelta("s", 1, arguments_json="{}"))
    journal.append()
    store.gate.set()
    await journal.flush()
    assert store.appends[1] == [
        ToolCallDelta("s", 0, id="call_1", name="f", arguments_json='{"a": 1}'),
        ToolCallDelta("s", 1, id="call_2", name="g", arguments_json="{}"),
    ]
