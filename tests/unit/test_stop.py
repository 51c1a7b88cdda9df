"""Texts before which an answer ends."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.chat.stop import StopFilter


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    filter_ = StopFilter(stops)
    given_ = "".join(filter_.feed(piece) for piece in pieces)
    return given_ + filter_.finish(), filter_.stopped


@given(
    text=st.text(alphabet="abc"),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4),
)
def test_an_answer_ends_before_the_stop_that_is_whole_first(text: str, stops: list[str]) -> None:
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = (text[: min(found)[1]], True) if found else (text, False)
    assert run(stops, [text]) == expected
    assert run(stops, list(text)) == expected


def test_a_stop_may_come_in_pieces() -> None:
    assert run(["END"], ["a E", "N", "D b"]) == ("a ", True)


def test_what_may_begin_a_stop_is_held_back_until_it_does_not() -> None:
    filter_ = StopFilter(["END"])
    assert filter_.feed("a EN") == "a "
    assert filter_.feed("C") == "ENC"
