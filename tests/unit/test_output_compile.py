"""Schemas become grammars, and what an exact one lets through satisfies its schema."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jsonschema.validators import validator_for

from runtime.errors import SchemaRejected
from runtime.output.bounds import Bounds
from runtime.output.compile import (
    JSON_OBJECT,
    compile_arguments,
    compile_object,
    compile_schema,
    hits_bound,
)
from runtime.output.schema import draft_of
from runtime.output.validate import violations
from runtime.types import FunctionTool
from tests.grammar_samples import admits, sample_document

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "jsonschemabench"


def compiled(schema: dict[str, Any], **options: Any) -> Any:
    return compile_schema(json.dumps(schema), **{"strict": False, "subject": "s", **options})


def arguments(parameters: str, *, strict: bool = False) -> Any:
    tool = FunctionTool(name="f", parameters_json=parameters, strict=strict)
    return compile_arguments(tool, subject="tools[0].function.parameters_json")


SCHEMAS: dict[str, dict[str, Any]] = {
    "anything": {},
    "object": {"type": "object"},
    "record": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "rate": {"type": "number", "multipleOf": 0.25},
            "kind": {"enum": ["a", 'b"\\', "é", 1, None, [1, {"x": False}]]},
        },
        "required": ["name", "kind"],
    },
    "open": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
    },
    "patterns": {
        "type": "object",
        "patternProperties": {"^x-": {"type": "null"}, "^y-": {"type": "integer"}},
    },
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
            }
        },
        "$ref": "#/$defs/node",
    },
    "formats": {
        "type": "array",
        "prefixItems": [
            {"type": "string", "format": name}
            for name in (
                *("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6"),
                *("uuid", "uri"),
                *("uri-reference", "uri-template", "json-pointer", "relative-json-pointer", "iri"),
            )
        ],
        "minItems": 15,
        "items": False,
    },
    "exclusive": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, kind: {"type": "string"}},
                "required": ["kind"],
            }
            for kind in ("cat", "dog")
        ]
    },
    "inherited": {
        "allOf": [{"$ref": "#/$defs/base"}],
        "properties": {"b": {"type": "boolean"}},
        "required": ["b"],
        "$defs": {"base": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_what_an_exact_grammar_admits_is_valid(schema: dict[str, Any]) -> None:
    found = compiled(schema)
    assert found.exact
    rng = Random(1)
    documents = [sample_document(found.grammar_json, rng, limit=900) for _ in range(40)]
    assert sum(document is not None for document in documents) >= 10
    plain = draft_of(schema).validator(schema)
    for document in documents:
        if document is not None:
            assert violations(found, document) == (), document
            assert plain.is_valid(json.loads(document)), document


@pytest.mark.skipif(not DATA.is_dir(), reason="the data are not here")
def test_schemas_of_many_sources() -> None:
    paths = sorted(DATA.glob("*.json"))
    rng = Random(2)
    exact = compiling = 0
    for path in paths:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
        try:
            found = compiled(schema)
        except SchemaRejected:
            continue
        compiling += 1
        exact += found.exact
        document = sample_document(found.grammar_json, rng, limit=300)
        if found.exact and document is not None:
            assert violations(found, document) == (), path.name
            assert validator_for(schema)(schema).is_valid(json.loads(document)), path.name
    assert compiling >= 0.985 * len(paths)
    assert exact >= 0.92 * len(paths)


def test_the_grammar_stands_for_itself_on_one_line() -> None:
    text = compiled(SCHEMAS["record"]).grammar_json
    assert "\n" not in text
    grammar = json.loads(text)
    assert grammar["x-guidance"] == {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "coerce_one_of": False,
        "lenient": False,
    }
    assert list(grammar["properties"]) == ["name", "age", "tags", "rate", "kind"]


def test_the_client_gets_its_own_schema_back() -> None:
    schema = {"type": "string", "format": "date", "title": "Day"}
    assert compiled(schema).schema == schema


def test_strict_is_the_strict_subset() -> None:
    with pytest.raises(SchemaRejected, match="'additionalProperties' must be false"):
        compiled({"type": "object", "properties": {}}, strict=True)
    closed = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert compiled(closed, strict=True).exact


@pytest.mark.parametrize(
    ("schema", "path", "told"),
    [
        (
            {
                "type": "object",
                "properties": {"a": {"allOf": [{"type": "string"}, {"type": "null"}]}},
                "required": ["a"],
            },
            "/properties/a",
            "it has no grammar: Unsatisfiable schema",
        ),
        (
            {"$defs": {"a": {"type": "integer", "minimum": 3, "maximum": 2}}, "$ref": "#/$defs/a"},
            "/$defs/a",
            "minimum",
        ),
        ({"type": "string", "enum": [1]}, "", "Unsatisfiable"),
    ],
)
def test_a_refusal_names_the_place_and_the_reason(schema: dict[str, Any], path: str, told: str) -> None:
    with pytest.raises(SchemaRejected) as refused:
        compiled(schema, subject="response_format")
    assert refused.value.path == path
    assert refused.value.subject == "response_format"
    assert told in refused.value.rule


def test_a_cached_refusal_names_the_new_subject() -> None:
    for subject in ("first", "second"):
        with pytest.raises(SchemaRejected) as refused:
            compiled({"type": "no"}, subject=subject)
        assert refused.value.subject == subject


def test_a_pattern_without_grammar_is_checked_later() -> None:
    found = compiled({"type": "string", "pattern": "^(?=.*[0-9]).{8,}$"})
    assert not found.exact
    assert admits(found.grammar_json, '"no digits"')
    assert violations(found, '"no digits"')
    assert not violations(found, '"12345678"')


@pytest.mark.parametrize(
    ("schema", "integer", "within"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0", "0.25"),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "-0", "-0.25"),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"exclusiveMaximum": 1.5}]}, "1", "1.25"),
        (
            {"maximum": 2.5, "allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"exclusiveMinimum": 2}}},
            "2",
            "2.25",
        ),
    ],
)
def test_an_open_limit_next_to_the_other_is_checked_later(
    schema: dict[str, Any], integer: str, within: str
) -> None:
    found = compiled({"type": "number", **schema})
    assert not found.exact
    assert admits(found.grammar_json, within)
    assert not violations(found, within)
    assert violations(found, integer)


def test_open_limits_that_are_apart_are_exact() -> None:
    found = compiled({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
    assert found.exact
    assert not admits(found.grammar_json, "0")
    assert not admits(found.grammar_json, "1")


@pytest.mark.parametrize("parameters", ["", '{"type": "object"}', '{"type": "object", "properties": {}}'])
def test_no_parameters_are_no_arguments(parameters: str) -> None:
    found = arguments(parameters)
    assert found.exact
    assert admits(found.grammar_json, "{}")
    assert not admits(found.grammar_json, '{"a": 1}')


def test_no_parameters_are_strict_too() -> None:
    assert arguments("", strict=True).exact


def test_arguments_have_no_other_properties_unless_asked_for() -> None:
    closed = arguments('{"properties": {"a": {"type": "integer"}}, "required": ["b"]}')
    assert admits(closed.grammar_json, '{"a": 1, "b": 2}')
    assert not admits(closed.grammar_json, '{"a": 1, "b": 2, "c": 3}')
    assert not admits(closed.grammar_json, "1")
    opened = arguments('{"type": "object", "properties": {"a": {}}, "additionalProperties": true}')
    assert admits(opened.grammar_json, '{"a": 1, "c": [3]}')


@pytest.mark.parametrize(
    "parameters", ["{}", '{"type": "array"}', '{"type": ["object", "null"]}', '{"enum": [1]}']
)
def test_arguments_are_an_object(parameters: str) -> None:
    with pytest.raises(SchemaRejected, match="arguments are an object"):
        arguments(parameters)


def test_any_object_is_bounded() -> None:
    text = JSON_OBJECT.grammar_json
    assert admits(text, '{"a": [1, {"b": null}], "c": {"d": "x"}}')
    assert not admits(text, "[]")
    assert not admits(text, '{"a": ' + "[" * 9 + "]" * 9 + "}")
    assert JSON_OBJECT.exact
    assert compile_object(room_tokens=64).bounds == Bounds(characters=128, items=16)


def test_bounds_fit_the_room() -> None:
    story = {"type": "object", "properties": {"text": {"type": "string"}, "list": {"type": "array"}}}
    small = compiled(story, room_tokens=100)
    assert small.bounds == Bounds(characters=128, items=16)
    assert admits(small.grammar_json, json.dumps({"text": "x" * 128}))
    assert not admits(small.grammar_json, json.dumps({"text": "x" * 129}))
    assert not admits(small.grammar_json, json.dumps({"list": [1] * 17}))
    assert compiled(story, room_tokens=127) is compiled(story, room_tokens=64)
    assert compiled(story, room_tokens=10**9).bounds.characters == 32_768
    assert Bounds.for_room(None).characters == 8192


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ({"type": "string", "minLength": 500}, "x" * 500),
        ({"type": "array", "minItems": 40, "items": {"type": "null"}}, [None] * 40),
        ({"type": "object", "minProperties": 1, "maxProperties": 300}, {"a": 1}),
        ({"type": "string", "maxLength": 9000}, "x" * 9000),
        ({"enum": ["x" * 9000]}, "x" * 9000),
        ({"allOf": [{"type": "string"}, {"minLength": 500}]}, "x" * 500),
        ({"type": "array", "prefixItems": [{"type": "null"}] * 20, "minItems": 20}, [None] * 20),
    ],
)
def test_bounds_leave_room_for_what_is_asked(schema: dict[str, Any], document: Any) -> None:
    assert admits(compiled(schema, room_tokens=64).grammar_json, json.dumps(document))


def test_an_output_at_its_bound_was_probably_cut() -> None:
    found = compiled({"type": "array", "items": {"type": "string"}}, room_tokens=64)
    assert hits_bound(found, json.dumps(["x" * 128]))
    assert hits_bound(found, json.dumps(["x"] * 16))
    assert not hits_bound(found, json.dumps(["x" * 127] * 15))


def test_threads_may_compile_at_the_same_time() -> None:
    schemas = [{"type": "object", "properties": {f"p{n}_{m}": {} for m in range(9)}} for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compiled, schemas))
    assert all(one.exact for one in found)
