"""Ids sort by creation; names parse back into ids, and into nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from assistants.domain import names
from assistants.domain.errors import InvalidArgument
from assistants.domain.ids import new_id


def test_ids_sort_by_creation() -> None:
    ids = [new_id("run") for _ in range(10_000)]
    assert ids == sorted(ids)


def test_ids_of_many_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda _: [new_id("msg") for _ in range(2_000)], range(8)))
    ids = [id_ for batch in batches for id_ in batch]
    assert len(set(ids)) == len(ids)
    assert all(batch == sorted(batch) for batch in batches)


def test_an_id_is_a_prefix_and_a_ulid() -> None:
    prefix, _, ulid = new_id("asst").partition("_")
    assert prefix == "asst"
    assert len(ulid) == 26
    assert set(ulid) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert new_id("chatcmpl").startswith("chatcmpl-")


def test_names_parse_back() -> None:
    assert names.parse_assistant(names.assistant_name("asst_1")) == "asst_1"
    assert names.parse_thread(names.thread_name("thread_1")) == "thread_1"
    assert names.parse_message(names.message_name("t", "m")) == ("t", "m")
    assert names.parse_run(names.run_name("t", "r")) == ("t", "r")
    assert names.parse_step(names.step_name("t", "r", "s")) == ("t", "r", "s")
    assert names.parse_model("models/qwen3-0.6b") == "qwen3-0.6b"


@pytest.mark.parametrize(
    "name",
    ["", "thread_1", "threads/", "threads/a/b", "threads/a b", "threads/../x", "threads/a\n", "x" * 500],
)
def test_another_form_is_refused_with_the_form_and_the_value(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        names.parse_thread(name, "parent")
    violation = refused.value.violations[0]
    assert violation.field == "parent"
    assert "threads/{thread}" in violation.description
    assert repr(name) in violation.description
