"""Rewriting keeps what a schema means, or narrows it, and tells each rule that it lost."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from runtime.errors import SchemaRejected
from runtime.output.bounds import Bounds, add_bounds
from runtime.output.compile import compile_schema
from runtime.output.rewrite import Rewritten, rewrite
from runtime.output.schema import Draft, draft_of, parse_schema
from runtime.output.validate import make_validator, violations
from tests.grammar_samples import admits, sample_document


def rewritten(schema: dict[str, Any]) -> Rewritten:
    text = json.dumps(schema)
    parsed = parse_schema(text, subject="")
    draft = draft_of(parsed)
    return rewrite(parsed, draft=draft, validator=make_validator(parsed, draft))


def accepts(schema: dict[str, Any], document: Any) -> bool:
    validator = make_validator(schema, draft_of(schema))
    return validator.is_valid(document)


NAMES = st.sampled_from(["a", "b", "c"])
LIMITS = st.integers(0, 3)
SCALARS = st.sampled_from([None, True, False, 0, 1, 2, 2.5, "", "a", "ab", "abc"])
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=5,
)
TYPES = st.sampled_from(["null", "boolean", "number", "string", "array", "object"])
PLAIN = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"const": SCALARS}),
    st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"type": st.just("string")}, optional={"minLength": LIMITS, "maxLength": LIMITS}),
    st.fixed_dictionaries(
        {"type": st.just("number")},
        optional={"minimum": LIMITS, "maximum": LIMITS, "exclusiveMinimum": LIMITS},
    ),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=2)
    return st.one_of(
        st.fixed_dictionaries({"allOf": members}),
        st.fixed_dictionaries({"anyOf": members}),
        st.fixed_dictionaries({"oneOf": members}),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"if": inner, "then": inner}, optional={"else": inner}),
        st.fixed_dictionaries(
            {"type": st.just("object")},
            optional={
                "properties": named,
                "required": st.lists(NAMES, unique=True, max_size=2),
                "additionalProperties": inner,
                "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=2)),
                "dependentSchemas": named,
                "minProperties": LIMITS,
                "maxProperties": LIMITS,
            },
        ),
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={"items": inner, "minItems": LIMITS, "maxItems": LIMITS},
        ),
    )


SCHEMAS = st.recursive(PLAIN, composed, max_leaves=6).filter(lambda schema: isinstance(schema, dict))
NARROWED = st.recursive(
    PLAIN
    | st.sampled_from(
        [
            {"type": "array", "items": {"enum": ["a", "ab", 1]}, "uniqueItems": True},
            {"type": "array", "contains": {"const": "a"}},
            {"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "string"}},
            {"type": "object", "propertyNames": {"pattern": "^[ab]$"}},
            {
                "type": "object",
                "propertyNames": {"enum": ["a", "c"]},
                "additionalProperties": {"type": "string"},
            },
            {
                "type": "object",
                "patternProperties": {"^a": {"type": "string"}},
                "additionalProperties": False,
            },
            {"type": "object", "properties": {"a": {"type": "number"}}, "unevaluatedProperties": False},
            {"type": "integer"},
            {"type": "string", "pattern": "^a"},
            {"type": "string", "format": "uri"},
            {"type": "string", "format": "unheard-of"},
        ]
    ),
    composed,
    max_leaves=6,
).filter(lambda schema: isinstance(schema, dict))


@given(SCHEMAS, st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_rewriting_without_loss_means_the_same(schema: dict[str, Any], documents: list[Any]) -> None:
    found = rewritten(schema)
    assume(not found.losses)
    for document in documents:
        # The complement of `items` is about the first item only: arrays may be missing.
        if "items" not in json.dumps(schema):
            assert accepts(found.schema, document) == accepts(schema, document), document
        assert accepts(schema, document) or not accepts(found.schema, document), document


@given(NARROWED, st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_rewriting_and_bounding_never_admit_more(schema: dict[str, Any], documents: list[Any]) -> None:
    found = rewritten(schema)
    bounded, _ = add_bounds(found.schema, Bounds(characters=64, items=16))
    for document in documents:
        if accepts(bounded, document):
            event("admitted")
            assert accepts(found.schema, document)
            assert found.losses or accepts(schema, document)


@settings(deadline=None)
@given(NARROWED, st.integers(0, 2**32))
def test_what_an_exact_grammar_admits_satisfies_the_schema(schema: dict[str, Any], seed: int) -> None:
    try:
        compiled = compile_schema(json.dumps(schema), strict=False, subject="s")
    except SchemaRejected:
        return
    assume(compiled.exact)
    rng = Random(seed)
    for _ in range(3):
        document = sample_document(compiled.grammar_json, rng)
        if document is not None:
            event("finished")
            assert violations(compiled, document) == (), document


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "unheard-of"}, ['"x"'], ["1"]),
        (
            {"type": "string", "format": "uri"},
            ['"https://example.com/a?b=c#d"', '"urn:isbn:12"', '"file:///a/b"'],
            ['"a b"'],
        ),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"2024-13-01"']),
        ({"type": "string", "format": "date-time"}, ['"2024-02-29T01:02:03Z"'], ['"2024-02-29"']),
        (
            {"type": "string", "format": "ipv6"},
            ['"::1"', '"2001:db8::8a2e:370:7334"'],
            ['":::"', '"1::2::3"'],
        ),
        ({"type": "string", "format": "email", "pattern": "@example"}, ['"a@example.com"'], ['"a@b.com"']),
        ({"minimum": 3, "exclusiveMinimum": True, "type": "integer"}, ["4"], ["3"]),
        ({"enum": [6, None, "a"], "not": {"type": "string"}}, ["6", "null"], ['"a"']),
        ({"allOf": [{"enum": [6]}, {"not": {"not": {"enum": [6, None]}}}]}, ["6"], ["null"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["1", '"a"'], ["1.5"]),
        ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]}, ["1"], ["2"]),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            ['{"a": null}', '{"b": null}'],
            ["{}", '{"a": null, "b": null}'],
        ),
        (
            {
                "type": "object",
                "properties": {"kind": {"enum": ["x", "y"]}, "size": {"type": "integer"}},
                "required": ["kind"],
                "if": {"properties": {"kind": {"const": "x"}}},
                "then": {"required": ["size"]},
            },
            ['{"kind": "x", "size": 1}', '{"kind": "y"}'],
            ['{"kind": "x"}'],
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "null"}, "b": {}},
                "dependentRequired": {"a": ["b"]},
            },
            ["{}", '{"a": null, "b": 1}', '{"b": 1}'],
            ['{"a": null}'],
        ),
        ({"type": "array", "uniqueItems": True, "maxItems": 1, "items": {}}, ["[]", "[1]"], ["[1, 1]"]),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, ["[2, 1]", "[]"], ["[1, 1]"]),
        ({"type": "object", "propertyNames": {"pattern": "^a+$"}}, ['{"aa": 1}'], ['{"b": 1}']),
        ({"type": "array", "contains": {"const": 7}}, ['[7, "a"]'], ["[]", "[1]"]),
        ({"type": "string", "not": {"enum": ["ab", "b"]}}, ['"a"', '""', '"abc"'], ['"ab"', '"b"']),
        (
            {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}},
            ["[[]]"],
            ["1"],
        ),
        (
            {
                "allOf": [
                    {"$ref": "#/$defs/base"},
                    {"type": "object", "properties": {"b": {"type": "null"}}},
                ],
                "$defs": {
                    "base": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
                },
            },
            ['{"a": null, "b": null}', '{"a": null}'],
            ['{"b": null}', '{"a": 1}'],
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "array",
                "items": [{"type": "integer"}, {"type": "string"}],
                "additionalItems": False,
            },
            ["[]", '[1, "a"]'],
            ['["a"]', '[1, "a", 2]'],
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/a",
                "type": "integer",
                "definitions": {"a": {"type": "string"}},
            },
            ['"a"'],
            ["1"],
        ),
    ],
)
def test_these_are_exact(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    compiled = compile_schema(json.dumps(schema), strict=False, subject="s")
    assert compiled.exact
    assert [text for text in good if not admits(compiled.grammar_json, text)] == []
    assert [text for text in bad if admits(compiled.grammar_json, text)] == []
    assert [text for text in good if violations(compiled, text)] == []
    assert [text for text in bad if not violations(compiled, text)] == []


@pytest.mark.parametrize(
    ("schema", "loss"),
    [
        (
            {"items": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
            (("items",), "uniqueItems"),
        ),
        ({"type": "string", "not": {"pattern": "a"}}, ((), "not")),
        ({"type": "string", "format": "regex"}, ((), "format")),
        ({"type": "array", "contains": {"const": 1}, "maxContains": 1}, ((), "contains")),
        ({"oneOf": [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}]}, ((), "oneOf")),
        ({"type": "string", "pattern": r"^\W+$"}, ((), "pattern")),
        ({"type": "number", "multipleOf": 0.07}, ((), "multipleOf")),
        # Exact, but a matcher for it takes minutes.
        ({"type": "number", "multipleOf": 10**7, "exclusiveMaximum": 10**7}, ((), "multipleOf")),
        (
            {"type": "integer", "maximum": 10**6, "allOf": [{"multipleOf": 997}, {"multipleOf": 991}]},
            (("allOf", 1), "multipleOf"),
        ),
        ({"const": 2**60 + 1}, ((), "enum")),
        (
            {"allOf": [{"patternProperties": {"^a": {"type": "null"}}}, {"additionalProperties": False}]},
            ((), "patternProperties"),
        ),
        (
            {"patternProperties": {"^a": {}}, "additionalProperties": {"type": "null"}},
            ((), "patternProperties"),
        ),
        (
            {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {}}},
            ((), "unevaluatedProperties"),
        ),
    ],
)
def test_what_is_lost_is_told(schema: dict[str, Any], loss: tuple[tuple[str, ...], str]) -> None:
    assert loss in rewritten(schema).losses
    assert not compile_schema(json.dumps(schema), strict=False, subject="s").exact


def test_the_dialect_is_small() -> None:
    found = rewritten(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "A",
            "properties": {"a": {"description": "x", "format": "date", "$ref": "#/definitions/b c"}},
            "definitions": {"b c": {"oneOf": [{"const": 1}, {"type": "string", "default": "x"}]}},
        }
    )
    assert found.schema == {
        "properties": {"a": {"$ref": "#/$defs/d0"}},
        "$defs": {"d0": {"anyOf": [{"const": 1}, {"type": "string"}]}},
    }
    assert found.losses == ()
    assert Draft.DRAFT_2020_12.validator(found.schema).is_valid({"a": 1})
