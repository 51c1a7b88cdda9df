"""Endings: found wherever a text is cut, valid under the same grammar, close to the shortest."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from runtime.errors import SchemaRejected
from runtime.output.compile import compile_schema
from runtime.output.ending import DocumentMatcher, smallest_document_bytes
from runtime.output.place import Expects, Place
from runtime.output.validate import parse_document

DATA = Path(__file__).parents[3] / "shared" / "data" / "jsonschemabench"
BYTES = LLTokenizer("byte")
INTEGER = {"type": "integer"}
STRING = {"type": "string"}
Schema = dict[str, Any]


def obj(properties: Schema, *required: str, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def grammar(schema: Schema) -> str:
    layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    options = {**layout, "lenient": True, "coerce_one_of": True}
    return "%llguidance {}\nstart: %json " + json.dumps({**schema, "x-guidance": options})


def ended(schema: Schema, text: str, *, most_bytes: int = 400) -> str:
    """The ending, after proof that it completes the text under the grammar and the schema."""
    document = DocumentMatcher(grammar(schema))
    assert document.feed(text)
    ending = document.shortest_ending(most_bytes=most_bytes)
    assert ending is not None
    assert document.feed(ending)
    assert document.complete
    value = json.loads(text + ending)
    json.dumps(value, ensure_ascii=False).encode()
    assert Draft202012Validator(schema).is_valid(value)
    return ending


NESTED = obj({"a": INTEGER, "b": STRING, "c": obj({"d": {"type": "boolean"}}, "d")}, "a", "b", "c")
LIST = obj({"v": INTEGER, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "v", "next")
KINDS = {
    "anyOf": [
        obj({"kind": {"const": "a"}, "l": {"const": "x" * 30}}, "kind", "l"),
        obj({"kind": {"const": "bb"}, "n": INTEGER}, "kind", "n"),
    ]
}
OPTIONAL = obj({f"p{number}x": INTEGER for number in range(40)}, "p30x")
NAMED = {"type": "object", "patternProperties": {"^x_[0-9]+$": INTEGER}, "additionalProperties": False}
EMAIL = {"type": "string", "pattern": "^\\S+@\\S+\\.\\S+$"}


@pytest.mark.parametrize(
    ("schema", "text", "ending"),
    [
        pytest.param(NESTED, "", '{"a": 0, "b": "", "c": {"d": true}}', id="nothing written"),
        pytest.param(NESTED, '{"a": 12, "b": "wor', '", "c": {"d": true}}', id="in a string"),
        pytest.param(NESTED, '{"a": 12, "b": "", "c": {"d": fal', "se}}", id="in a literal"),
        pytest.param(NESTED, '{"a": 1, "b": "", "c": {"d": true}', "}", id="before the last brace"),
        pytest.param(NESTED, '{"a": 1, "b": "", "c": {"d": true}}', "", id="complete"),
        pytest.param(OPTIONAL, "", '{"p30x": 0}', id="required among optional"),
        pytest.param(OPTIONAL, '{"p2x": 3, ', '"p30x": 0}', id="required after a comma"),
        pytest.param(KINDS, '{"kind": "', 'bb", "n": 0}', id="the choice that ends sooner"),
        pytest.param(LIST, '{"v": 1, "next": {"v": 2, "next": ', "null}}", id="recursion"),
        pytest.param({}, "", "0", id="any value"),
        pytest.param({"type": "object"}, '{"na', '": 0}', id="in a free key"),
        pytest.param({"type": "object"}, '{"a": 1, "a', 'a": 0}', id="a key is not repeated"),
        pytest.param(NAMED, '{"x', '_1": 0}', id="in a key with a pattern"),
        pytest.param(NAMED | {"minProperties": 2}, "{", '"x_1": 0, "x_11": 0}', id="two keys of a pattern"),
        pytest.param(STRING, '"ab\\', 'n"', id="after a backslash"),
        pytest.param(STRING | {"minLength": 5}, '"a', 'aaaa"', id="minLength"),
        pytest.param(STRING | {"pattern": "^[a-z]{3}-[0-9]{4}$"}, '"q', 'aa-1111"', id="pattern"),
        pytest.param(STRING | {"pattern": "a5b"}, '"x', 'a5b"', id="pattern anywhere"),
        pytest.param(STRING | {"format": "date"}, '"2024-1', '1-11"', id="date"),
        pytest.param({"enum": ["abc", "abé中"]}, '"ab', 'c"', id="enum"),
        pytest.param({"enum": ["中é"]}, '"', '中é"', id="beyond ASCII"),
        pytest.param({"const": {"a": [1, {"é": "😀"}]}}, "", '{"a": [1, {"é": "😀"}]}', id="const"),
        pytest.param({"type": "array", "items": INTEGER, "minItems": 4}, "[17", ", 0, 0, 0]", id="minItems"),
        pytest.param({"type": "integer", "minimum": 100}, "1", "11", id="minimum"),
        *(pytest.param({"type": "number"}, text, "1", id=text) for text in ("-", "1e", "1e-", "1.")),
    ],
)
def test_endings(schema: Schema, text: str, ending: str) -> None:
    assert ended(schema, text) == ending


@pytest.mark.parametrize("text", ['"\\u', '"\\u0', '"\\u00', '"\\u001', '"a\\\\', '"\\"'])
def test_escapes_are_never_half_nor_surrogates(text: str) -> None:
    assert "\x00" not in json.loads(text + ended(STRING, text))


def test_a_mark_within_free_letters_is_found() -> None:
    assert len(ended(EMAIL, '"joh')) <= 8


def test_a_free_grammar_has_no_lone_surrogates() -> None:
    """The search relies on it: what it adds is only checked to be UTF-8."""
    document = DocumentMatcher(grammar(STRING))
    assert not document.feed('"\\ud83d')
    assert not document.feed('"\ud83d')


def test_what_does_not_fit_is_none_and_what_just_fits_is_found() -> None:
    document = DocumentMatcher(grammar(NESTED))
    least = smallest_document_bytes(grammar(NESTED))
    assert least == len('{"a": 0, "b": "", "c": {"d": true}}')
    assert document.shortest_ending(most_bytes=least - 1) is None
    assert document.shortest_ending(most_bytes=least) is not None


def test_a_document_that_cannot_end_is_given_up() -> None:
    endless = obj({"a": {"$ref": "#"}}, "a")
    document = DocumentMatcher(grammar(endless))
    assert document.shortest_ending(most_bytes=300) is None
    assert smallest_document_bytes(grammar(endless)) is None


def test_a_text_that_does_not_match_is_refused_whole() -> None:
    document = DocumentMatcher(grammar(NESTED))
    assert document.feed('{"a": 1')
    assert not document.feed('2, "x"')
    assert document.feed('2, "b')
    assert document.feed(document.shortest_ending(most_bytes=100) or "")
    assert not document.feed(" ")
    assert document.complete


def test_searching_and_copying_leave_the_document_alone() -> None:
    document = DocumentMatcher(grammar(NESTED))
    assert document.feed('{"a": 1, "b": "x')
    other = document.copy()
    first = document.shortest_ending(most_bytes=100)
    assert first == document.shortest_ending(most_bytes=100) == other.shortest_ending(most_bytes=100)
    assert other.feed(first or "")
    assert other.complete
    assert not document.complete


def test_a_grammar_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not compile"):
        DocumentMatcher('%llguidance {}\nstart: %json {"type": "objct"}')


@given(st.text(alphabet='{}[]",:\\ a1é', max_size=40), st.integers(0, 60))
def test_a_place_does_not_depend_on_how_the_text_is_split(text: str, cut: int) -> None:
    data = text.encode()
    assert Place().after(data) == Place().after(data[:cut]).after(data[cut:])


def test_a_place_knows_keys_of_the_object_that_is_open() -> None:
    place = Place().after(b'{"a": {"b": 1}, "c\\"": [1, {"d": "x", "e')
    assert (place.expects, place.depth, place.key) == (Expects.KEY_TEXT, 3, b"e")
    assert place.has_key(b"d")
    assert not place.has_key(b"b")
    assert Place().after(b'{"a": {"b": 1}, "c\\"": 2, "').has_key(b'c\\"')


# Against every text there is.

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "bca", "cc"]), min_size=1, max_size=3, unique=True)
LEAVES = st.one_of(
    WORDS.map(lambda words: {"enum": words}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.sampled_from([1, 23]).map(lambda value: {"const": value}),
    st.just({"type": "string", "pattern": "^[ab]{2}c?$"}),
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[Schema]) -> Schema:
    names = draw(st.lists(st.sampled_from(["a", "ab", "b", "c"]), max_size=3, unique=True))
    required = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    return obj({name: draw(values) for name in names}, *required)


SCHEMAS = st.recursive(
    LEAVES,
    lambda values: st.one_of(
        objects(values),
        st.tuples(values, st.integers(0, 2)).map(
            lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "maxItems": 2}
        ),
        st.lists(values, min_size=2, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=4,
)


def matcher(schema: Schema) -> LLMatcher:
    return LLMatcher(BYTES, grammar(schema), log_level=0)


def allowed(at: LLMatcher) -> list[int]:
    mask = int.from_bytes(at.compute_bitmask()[:32], "little")
    return [byte for byte in range(256) if mask >> byte & 1]


def sampled(schema: Schema, draws: random.Random, most_bytes: int = 400) -> str:
    """A random document, or the begin of one."""
    at = matcher(schema)
    text = bytearray()
    while len(text) < most_bytes and not (at.is_accepting() and (at.is_stopped() or draws.random() < 0.5)):
        choices = [byte for byte in allowed(at) if byte < 128] or allowed(at)
        byte = draws.choices(choices, [6 if byte in b'"}],' else 1 for byte in choices])[0]
        at.consume_token(byte)
        text.append(byte)
    return text.decode(errors="ignore")


def shortest(schema: Schema, text: str, most_bytes: int, most_texts: int = 3_000) -> int | None:
    """Bytes of the shortest ending below `most_bytes`, by trying all; None if there is none, or too many."""
    at = matcher(schema)
    at.consume_tokens(list(text.encode()))
    level = [b""]
    for size in range(most_bytes):
        longer = []
        for path in level:
            at.consume_tokens(list(path))
            if at.is_accepting():
                return size
            longer += [path + bytes((byte,)) for byte in allowed(at)]
            at.rollback(len(path))
        if len(longer) > most_texts:
            return None
        level = longer
    return None


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.randoms(use_true_random=False), st.floats(0, 1))
def test_no_ending_is_half_as_long_for_small_schemas(
    schema: Schema, draws: random.Random, cut: float
) -> None:
    text = sampled(schema, draws)
    text = text[: int(len(text) * cut)]
    ending = ended(schema, text)
    # Close to the shortest, not the shortest: of options whose keys look alike one is tried first.
    assert shortest(schema, text, (len(ending) + 1) // 2) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the schemas are not here")
def test_real_schemas_end_wherever_they_are_cut() -> None:
    draws = random.Random(7)
    cases = 0
    for path in sorted(DATA.glob("*.json"))[::4]:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
        try:
            compiled = compile_schema(json.dumps(schema), strict=False, subject=path.stem)
        except SchemaRejected:
            continue
        empty = DocumentMatcher(f"%llguidance {{}}\nstart: %json {compiled.grammar_json}")
        # As compiled, with its own options.
        text = sampled(json.loads(compiled.grammar_json), draws)
        for cut in (0, len(text) // 3, draws.randrange(len(text) + 1)):
            document = empty.copy()
            assert document.feed(text[:cut])
            ending = document.shortest_ending(most_bytes=1_000)
            assert ending is not None, (path.stem, text[:cut])
            assert document.feed(ending)
            assert document.complete
            value = parse_document(text[:cut] + ending)
            assert not compiled.exact or compiled.validator.is_valid(value), (path.stem, text[:cut], ending)
            cases += 1
    assert cases > 60
