"""Assistants, threads and messages: what is stored is read, paged, replaced and deleted as it was given."""

from dataclasses import replace
from datetime import timedelta

import pytest

from assistants.domain.assistant import Assistant, AssistantSettings
from assistants.domain.content import Role, TextPart
from assistants.domain.errors import NotFound, RequestIdReused, RunActive
from assistants.domain.ids import new_id
from assistants.domain.message import MessageIncompleteReason, MessageState
from assistants.domain.page import PageRequest
from assistants.domain.run_event import MessageChanged
from tests.conformance.stores import NOW, Store, ended, new_thread, request_key

HARD_TEXT = "zero \x00, quote ', percent %s %(x)s $1, \\u0000, \U0001f41d, \u202e"
"""What one driver or another may take for its own."""


def assistant() -> Assistant:
    return Assistant(
        id=new_id("asst"),
        project_id="p",
        settings=AssistantSettings(model="m", instructions=HARD_TEXT),
        revision=1,
        create_time=NOW,
        update_time=NOW,
    )


async def test_an_assistant_is_stored_replaced_and_deleted(store: Store) -> None:
    stored = await store.assistants.create(assistant(), None)
    assert await store.assistants.get("p", stored.id) == stored
    assert await store.assistants.get("q", stored.id) is None
    changed = replace(
        stored, settings=replace(stored.settings, description="b"), revision=stored.revision + 1
    )
    assert await store.assistants.replace(changed, revision=stored.revision)
    assert not await store.assistants.replace(changed, revision=stored.revision)
    assert await store.assistants.get("p", stored.id) == changed
    assert not await store.assistants.delete("p", stored.id, revision=stored.revision)
    assert not await store.assistants.delete("q", stored.id, revision=None)
    assert await store.assistants.delete("p", stored.id, revision=changed.revision)
    assert await store.assistants.get("p", stored.id) is None


@pytest.mark.parametrize("descending", [True, False])
async def test_pages_give_everything_once_in_order(store: Store, descending: bool) -> None:
    made = [
        await store.assistants.create(
            replace(assistant(), create_time=NOW + timedelta(microseconds=number // 3)), None
        )
        for number in range(10)
    ]
    seen: list[Assistant] = []
    page = await store.assistants.list("p", PageRequest(size=3, descending=descending))
    seen += page.items
    while page.next is not None:
        page = await store.assistants.list("p", PageRequest(size=3, descending=descending, after=page.next))
        seen += page.items
    assert seen == sorted(made, key=lambda each: (each.create_time, each.id), reverse=descending)
    assert (await store.assistants.list("q", PageRequest(size=3))).items == ()


async def test_a_thread_is_stored_replaced_and_deleted_with_all_that_is_in_it(store: Store) -> None:
    thread = replace(new_thread(), metadata={"key": HARD_TEXT})
    await store.threads.create(thread, None)
    assert await store.threads.get("p", thread.id) == thread
    changed = replace(thread, metadata={}, revision=thread.revision + 1)
    assert await store.threads.replace(changed, revision=thread.revision)
    assert not await store.threads.replace(changed, revision=thread.revision)
    await store.threads.set_context_start("p", thread.id, 5)
    await store.threads.set_context_start("p", thread.id, 3)
    stored = await store.threads.get("p", thread.id)
    assert stored == replace(changed, context_start=5)

    inside = Store(store.database, thread=thread)
    await inside.messages.create(inside.message(), None)
    claim = await inside.claimed()
    with pytest.raises(RunActive):
        await store.threads.delete("p", thread.id, revision=None)
    await inside.runs.append(claim.fence, [ended(claim)])
    assert not await store.threads.delete("p", thread.id, revision=thread.revision)
    assert await store.threads.delete("p", thread.id, revision=changed.revision)
    assert await store.threads.get("p", thread.id) is None
    assert await store.runs.get("p", claim.run.id) is None
    assert await store.log.read(claim.run.id, after=0, limit=10) == []
    assert await store.messages.since("p", thread.id, 0, at_most=10) == []
    assert not await store.threads.delete("p", thread.id, revision=None)


async def test_a_message_is_stored_changed_and_deleted(store: Store) -> None:
    message = await store.messages.create(store.message(HARD_TEXT), None)
    assert message.position == 0
    assert await store.messages.get("p", store.thread.id, message.id) == message
    assert await store.messages.get("q", store.thread.id, message.id) is None
    changed = await store.messages.set_metadata("p", store.thread.id, message.id, {"a": HARD_TEXT})
    assert changed == replace(message, metadata={"a": HARD_TEXT})
    assert await store.messages.set_metadata("q", store.thread.id, message.id, {}) is None
    before = await store.threads.get("p", store.thread.id)
    assert await store.messages.delete("p", store.thread.id, message.id)
    after = await store.threads.get("p", store.thread.id)
    assert before is not None
    assert after is not None
    assert after.history_version == before.history_version + 1
    assert not await store.messages.delete("p", store.thread.id, message.id)


async def test_a_message_needs_a_thread_that_no_run_holds(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.messages.create(replace(store.message(), thread_id="thread_x"), None)
    message = await store.messages.create(store.message(), None)
    claim = await store.claimed()
    for refused in (
        store.messages.create(store.message(), None),
        store.messages.delete("p", store.thread.id, message.id),
    ):
        with pytest.raises(RunActive, match=claim.run.id):
            await refused
    assert len(await store.messages.since("p", store.thread.id, 0, at_most=10)) == 1


async def test_a_run_s_messages_are_listed_by_themselves(store: Store) -> None:
    await store.messages.create(store.message(), None)
    claim = await store.claimed()
    own = replace(
        store.message(),
        role=Role.ASSISTANT,
        content=(TextPart(value="half"),),
        state=MessageState.INCOMPLETE,
        incomplete_reason=MessageIncompleteReason.RUN_CANCELLED,
        assistant_id="asst_1",
        run_id=claim.run.id,
    )
    await store.runs.append(claim.fence, [MessageChanged(own)])
    page = PageRequest(size=10)
    listed = await store.messages.list("p", store.thread.id, page, run_id=claim.run.id)
    assert listed.items == (replace(own, position=1),)
    assert len((await store.messages.list("p", store.thread.id, page, run_id=None)).items) == 2


async def test_a_request_that_is_sent_again_gives_what_it_made(store: Store) -> None:
    first = await store.messages.create(store.message("one"), request_key())
    assert await store.messages.create(store.message("one"), request_key()) == first
    with pytest.raises(RequestIdReused, match="'r1'"):
        await store.messages.create(store.message("two"), request_key(fingerprint="other"))
    assert len(await store.messages.since("p", store.thread.id, 0, at_most=10)) == 1


async def test_a_request_whose_result_was_deleted_makes_another_one(store: Store) -> None:
    first = await store.messages.create(store.message(), request_key())
    await store.messages.delete("p", store.thread.id, first.id)
    second = await store.messages.create(store.message(), request_key())
    assert second.id != first.id
    assert await store.messages.create(store.message(), request_key()) == second


async def test_a_request_that_was_refused_may_be_sent_again(store: Store) -> None:
    claim = await store.claimed()
    with pytest.raises(RunActive):
        await store.messages.create(store.message(), request_key())
    await store.runs.append(claim.fence, [ended(claim)])
    made = await store.messages.create(store.message(), request_key())
    assert await store.messages.get("p", store.thread.id, made.id) == made


async def test_old_request_ids_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await store.messages.create(store.message(), request_key())
    monkeypatch.setattr("assistants.storage.requests._KEPT_MICROS", -1)
    second = await store.messages.create(store.message(), request_key(fingerprint="other"))
    assert second.id != first.id
    await store.requests.forget_old()
    monkeypatch.undo()
    assert (await store.messages.create(store.message(), request_key(fingerprint="third"))).id != second.id
