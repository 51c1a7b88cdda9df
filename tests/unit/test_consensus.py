"""The vote: what counts as the same answer, who wins, and that the order of samples does not matter."""

import json
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.reasoning.consensus import Decision, Sample, ballot, decide
from runtime.types import ToolCall, Vote

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)
FRAGMENTS = st.sampled_from(
    [
        *"0123456789.,-+$%=/:()*{}[]#'\"\\ \nBßİé½",
        *("answer is", "Answer:", r"\boxed{", "####", "million", "percent", "apples", "and", "because"),
        *(r"\text{", r"\frac{1}{2}", "...", "1,000", "th"),
    ]
)
TEXTS = st.text() | st.lists(FRAGMENTS, max_size=12).map("".join)


def text(answer: str) -> Sample:
    return Sample(text=answer)


def document(answer: str) -> Sample:
    return Sample(text=answer, document=True)


def calls(*named: tuple[str, str], id_: str = "call_1", said: str = "") -> Sample:
    return Sample(
        text=said,
        tool_calls=tuple(ToolCall(id=id_, name=name, arguments_json=arguments) for name, arguments in named),
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"So it is \boxed{72}, I hope.", "72"),
        (r"\boxed{12} no, \boxed{\frac{1}{2}}", "1/2"),
        (r"It is \boxed{\text{Friday}}.", "friday"),
        (r"\boxed{50\%}", "50%"),
        (r"$\boxed{\$1{,}500}$", "1500"),
        (r"\boxed{\boxed{7}}", "7"),
        ("The answer is: \n\n$$x = \\frac{3}{4}$$", "3/4"),
        (r"\boxed{3} \boxed{7", "3"),
        ("48 / 2 = 24\n48 + 24 = 72\n#### 72", "72"),
        ("The answer is 5 at first. No: the answer is $1,000.00.", "1000"),
        ("**Answer:** 42 apples", "42"),
        ("Final answer:\n-3.50", "-3.5"),
        ("The answer is (B) because it is.", "b"),
        ("The answer is (B).", "b"),
        ("Answer: B. Paris", "b"),
        ("B", "b"),
        ("The answer is Paris. It lies at the Seine.", "paris"),
        ("The answer is St. Petersburg.", "st petersburg"),
        ("The answer is x = 5.", "5"),
        ("The answer is 2 and 3.", "2 and 3"),
        ("The answer is 3/4 cup.", "3/4 cup"),
        ("The answer is 12:30.", "12:30"),
        ("The answer is 10-12.", "10-12"),
        ("answer: 2 million people", "2000000"),
        ("answer: 50 percent", "50%"),
        ("answer: .5", "0.5"),
        ("answer: 5.", "5"),
        ("answer: 5km", "5"),
        ("The answer is 10 - 5.", "10 5"),
        ("The answer is 10^3.", "10^3"),
        ("answer: 1,0000", "1,0000"),
        ("48 + 24 = 72\nShe sold 72 clips in 2 months, 72 in all.", "72"),
        ("She sold 72 clips.", "72"),
        ("72 clips", "72"),
        ("$5.00", "5"),
        ("-$5", "-5"),
        ("\u22125", "-5"),
        ("1,000", "1000"),
        ("0.50%", "0.5%"),
        ("1. Paris\n2. Rome\n3. Oslo", "1 paris 2 rome 3 oslo"),
        ("He came 2nd.", "he came 2nd"),
        ("It was on 2024-05-01.", "it was on 2024-05-01"),
        ("  It is  Paris!\n", "it is paris"),
        ("Don't “do” that…", "don't do that"),
        ("a + b", "a + b"),
        ("a - b", "a b"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("", None),
        (" \n", None),
        ("...", None),
    ],
)
def test_the_final_answer_of_a_text(answer: str, expected: str | None) -> None:
    assert ballot(text(answer)) == expected


@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{",
        r"\boxed{}",
        "#### ",
        "answer is ",
        "answer",
        " ",
        "= ",
        "$",
        "1,111",
        "1",
        r"\text{",
        "because ",
    ],
)
def test_a_model_that_repeats_itself_is_no_trouble(piece: str) -> None:
    # A time that grew with the square of the length would end at the test's limit.
    for around in ("", "x", "7"):
        ballot(text(around + piece * (200_000 // len(piece)) + around))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": [2.50]}', '{"b":[2.5],"a":1.0}'),
        ("100", "1e2"),
        ("-0.0", "0"),
        ('"\\u00e9"', '"é"'),
        ("1e999999999", "10e999999998"),
        ("1" * 6_000 + ".0", "1" * 6_000),
    ],
)
def test_documents_are_compared_by_value(one: str, other: str) -> None:
    assert ballot(document(one)) == ballot(document(other)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "true"), ("1", '"1"'), ("[1, 2]", "[2, 1]"), ("null", "{}"), ("1.0000000000000000000001", "1")],
)
def test_documents_of_other_values_differ(one: str, other: str) -> None:
    assert ballot(document(one)) != ballot(document(other))


@pytest.mark.parametrize("cut", ["", '{"answer": 4', "NaN", "[" * 100_000, f"1e{'9' * 30}"])
def test_what_is_no_document_abstains(cut: str) -> None:
    assert ballot(document(cut)) is None


def test_calls_are_compared_by_name_and_arguments() -> None:
    one = calls(("get_weather", '{"city": "Paris", "days": 1}'), ("now", "{}"), id_="call_1", said="Well,")
    other = calls(("get_weather", '{"days":1.0,"city":"Paris"}'), ("now", "{}"), id_="call_2")
    assert ballot(one) == ballot(other) == 'get_weather({"city":"Paris","days":1}), now({})'
    assert ballot(one) != ballot(calls(("now", "{}"), ("get_weather", '{"city": "Paris", "days": 1}')))
    assert ballot(one) != ballot(calls(("get_weather", '{"city": "paris", "days": 1}'), ("now", "{}")))
    assert ballot(calls(("now", "{"))) is None


def test_the_first_sample_of_the_majority_wins() -> None:
    samples = [text("It is 5."), text("The answer is 7."), text("\\boxed{7}"), text("5!"), text("7 apples")]
    assert decide(samples) == Decision(winner=1, votes=(Vote(answer="7", count=3), Vote(answer="5", count=2)))


def test_of_equals_the_first_wins() -> None:
    decision = decide([text(""), text("b"), text("a"), text("a"), text("b"), text("c")])
    assert decision.winner == 1
    assert [(vote.answer, vote.count) for vote in decision.votes] == [("b", 2), ("a", 2), ("c", 1)]


def test_without_any_answer_the_first_sample_wins() -> None:
    assert decide([text(""), text("..."), document("{")]) == Decision(winner=0, votes=())


def test_somebody_must_vote() -> None:
    with pytest.raises(ValueError, match="none to decide"):
        decide([])


@given(TEXTS)
def test_a_final_answer_is_its_own_final_answer(written: str) -> None:
    if (answer := ballot(text(written))) is not None:
        assert ballot(text(answer)) == answer


@given(JSON)
def test_a_canonical_document_is_its_own_canonical_document(value: object) -> None:
    answer = ballot(document(json.dumps(value)))
    assert answer is not None
    assert ballot(document(answer)) == answer
    assert json.loads(answer, parse_int=float) == json.loads(json.dumps(value), parse_int=float)


@given(JSON)
def test_the_spelling_of_a_document_does_not_matter(value: object) -> None:
    written = json.dumps(value)
    assert ballot(document(written)) == ballot(document(json.dumps(value, sort_keys=True, indent=3)))


@given(
    st.lists(st.sampled_from(["5", "5.0", "7", "It is 7.", "paris", "Paris.", "", "!"]), min_size=1),
    st.data(),
)
def test_the_order_of_samples_changes_no_count(answers: list[str], data: st.DataObject) -> None:
    shuffled: Sequence[str] = data.draw(st.permutations(answers))
    ours, theirs = (decide(list(map(text, some))) for some in (answers, shuffled))
    assert Counter({vote.answer: vote.count for vote in ours.votes}) == Counter(
        {vote.answer: vote.count for vote in theirs.votes}
    )
    assert sorted((vote.count for vote in ours.votes), reverse=True) == [vote.count for vote in ours.votes]
    if ours.votes:
        assert ballot(text(answers[ours.winner])) == ours.votes[0].answer
