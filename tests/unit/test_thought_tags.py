"""Thoughts in tags, however the text arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.thought_tags import ThoughtSplitter


def split(*pieces: str) -> tuple[str, str]:
    """The thought and the text."""
    splitter = ThoughtSplitter()
    given_back = [part for piece in pieces for part in splitter.feed(piece)] + list(splitter.finish())
    assert all(text for _, text in given_back)
    assert [thinking for thinking, _ in given_back] == sorted(
        (thinking for thinking, _ in given_back), reverse=True
    )
    return (
        "".join(text for thinking, text in given_back if thinking),
        "".join(text for thinking, text in given_back if not thinking),
    )


@pytest.mark.parametrize(
    ("text", "thought", "spoken"),
    [
        ("", "", ""),
        ("Hello", "", "Hello"),
        ("<think>hm</think>Hello", "hm", "Hello"),
        ("\n <think>\nhm\n</think>\n\nHello", "\nhm\n", "\n\nHello"),
        ("<think></think>Hello", "", "Hello"),
        ("<think>hm", "hm", ""),
        ("<think>a < b</thin", "a < b</thin", ""),
        ("<thi", "", "<thi"),
        (" <b>", "", " <b>"),
        ("Hello <think>hm</think>", "", "Hello <think>hm</think>"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
    ],
)
def test_what_is_thought(text: str, thought: str, spoken: str) -> None:
    assert split(text) == (thought, spoken)
    assert split(*text) == (thought, spoken)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "a", "\n", "<thi"])), st.data())
def test_the_cuts_make_no_difference(tokens: list[str], data: st.DataObject) -> None:
    text = "".join(tokens)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(*pieces) == split(text)
