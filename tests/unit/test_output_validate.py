"""Documents are held against the client's schema."""

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.output.compile import compile_schema
from runtime.output.formats import FORMATS
from runtime.output.patterns import narrowed, pattern_of_other_words
from runtime.output.validate import MAX_VIOLATIONS, violations
from tests.grammar_samples import sample_document


def missed(schema: dict[str, Any], document: str) -> tuple[str, ...]:
    return violations(compile_schema(json.dumps(schema), strict=False, subject="s"), document)


def test_a_violation_says_where_and_what() -> None:
    schema = {"type": "object", "properties": {"a/b": {"items": {"type": "integer"}}}, "required": ["c"]}
    assert missed(schema, '{"a/b": [1, "x"], "c": 0}') == ("/a~1b/1: 'x' is not of type 'integer'",)
    assert missed(schema, "{}") == ("(root): 'c' is a required property",)
    assert missed(schema, '{"c": 1}') == ()


def test_violations_are_few_and_short() -> None:
    found = missed({"items": {"type": "integer"}}, json.dumps(["x" * 1000] * 100))
    assert len(found) == MAX_VIOLATIONS
    assert all(len(one) < 300 for one in found)


@pytest.mark.parametrize(
    "document", ["", "{", "nope", "NaN", "[Infinity]", "1 2", '{"a": 1,}', "[" * 100_000]
)
def test_what_is_not_json_is_a_violation(document: str) -> None:
    (told,) = missed({}, document)
    assert told.startswith("(root): ")


@pytest.mark.parametrize(
    ("schema", "document", "valid"),
    [
        ({"multipleOf": 0.01}, "19.99", True),
        ({"multipleOf": 0.01}, "19.999", False),
        ({"multipleOf": 0.1}, "0.3", True),
        ({"const": 0.1}, "0.1", True),
        ({"const": 1}, "1.0", True),
        ({"const": True}, "1", False),
        ({"type": "integer"}, "1.0", True),
        ({"type": "integer"}, "1e2", True),
        ({"type": "integer"}, "1.5", False),
        ({"type": "integer"}, "true", False),
        ({"maximum": 0.3}, "0.3", True),
        ({"type": "number"}, "1e999999999999999999999", True),
        ({"maximum": 5}, "1e999999999999999999999", False),
        ({"maximum": 5}, "-1e999999999999999999999", True),
        ({"minimum": 1}, "1e-999999999999999999999", False),
        ({"multipleOf": 2}, "1e999999999", False),
        ({"items": [{"type": "integer"}]}, '["a"]', False),
        ({"dependencies": {"a": ["b"]}}, '{"a": 1}', False),
        ({"minimum": 1, "exclusiveMinimum": True}, "1", False),
        ({"format": "int32"}, '"x"', True),
        ({"format": "date"}, "5", True),
    ],
)
def test_numbers_and_drafts(schema: dict[str, Any], document: str, valid: bool) -> None:
    assert (missed(schema, document) == ()) is valid


VALUES: dict[str, tuple[list[str], list[str]]] = {
    "date-time": (
        ["2024-02-29T12:00:00Z", "1999-12-31t23:59:60z", "2024-01-01T00:00:00.123+05:30"],
        ["2023-02-29T12:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T12:00:60Z", "x"],
    ),
    "date": (["2024-02-29", "0001-01-01"], ["2100-02-29", "2024-1-1", "20240101", "2024-W01-1"]),
    "time": (["12:30:00Z", "00:59:60+01:00"], ["12:30:00", "25:00:00Z", "12:30Z", "12:00:00+24:00"]),
    "duration": (["P1Y2M3D", "PT5M", "P2W", "P1DT1H"], ["P", "PT", "P1Y1W", "1D", "P1YT", "PT1H1S"]),
    "email": (
        ["a.b+c@example.org", '"a b"@x.y', "a@[127.0.0.1]", "a@[IPv6:::1]"],
        ["a", "a@", "@b", "a..b@c", "a b@c"],
    ),
    "hostname": (["example.com", "a-b", "x" * 63], ["-a", "a_b", "x" * 64, "a..b", ""]),
    "ipv4": (["127.0.0.1"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
    "ipv6": (["::", "1::", "2001:db8::1", "::ffff:1.2.3.4"], ["1", ":::", "fe80::1%eth0", "12345::"]),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]),
    "uri": (
        ["https://a.b/c?d=e#f", "mailto:a@b", "urn:x:y", "file:///c:/a", "http://[::1]:80/"],
        ["a/b", "http://a b", "//a", "%"],
    ),
    "uri-reference": (["a/b", "../x?y", "", "//a", "https://a.b/"], ["a b", "%zz", "\\"]),
    "uri-template": (["/a/{b}{?c,d*}", "{x:3}"], ["{", "{a b}", "/a{"]),
    "iri": (["https://é.example/ö"], ["é", "a b:c"]),
    "json-pointer": (["", "/a~1b/0"], ["a", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["01", "-1", "a"]),
    "regex": (["^a+$"], ["["]),
}


@pytest.mark.parametrize("name", VALUES)
def test_formats_are_checked(name: str) -> None:
    good, bad = VALUES[name]
    schema = {"type": "string", "format": name}
    assert [value for value in good if missed(schema, json.dumps(value))] == []
    assert [value for value in bad if not missed(schema, json.dumps(value))] == []


@pytest.mark.parametrize("name", [name for name, format_ in FORMATS.items() if format_.pattern])
def test_what_a_format_writes_it_accepts(name: str) -> None:
    compiled = compile_schema(json.dumps({"type": "string", "format": name}), strict=False, subject="s")
    assert compiled.exact
    rng = Random(4)
    for _ in range(60):
        document = sample_document(compiled.grammar_json, rng, limit=200)
        if document is not None:
            value = json.loads(document)
            assert FORMATS[name].holds(value), value


@given(st.lists(st.text("ab-]^\\", max_size=4), min_size=1, max_size=5), st.text("ab-]^\\\n", max_size=5))
def test_other_words_are_all_but_these(words: list[str], text: str) -> None:
    assert bool(re.search(pattern_of_other_words(words), text)) == (text not in words)


@pytest.mark.parametrize(
    ("pattern", "narrow", "same"),
    [
        (r"^\S+$", r"^[^\s\x1c-\x1f]+$", True),
        (r"[^\s,]", r"[^\s,\x1c-\x1f]", True),
        (r"[\s\S]*\d", r"[\s\S]*\d", True),
        (r"\\S", r"\\S", True),
        (r"\W", r"\W", False),
        (r"[^\d]", r"[^\d]", False),
        (r"[a\S]", r"[a\S]", False),
        (r"[^]a]\[", r"[^]a]\[", True),
    ],
)
def test_patterns_are_no_wider_than_in_python(pattern: str, narrow: str, same: bool) -> None:
    assert narrowed(pattern) == (narrow, same)
