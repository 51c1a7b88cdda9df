"""Schemas are parsed and checked, and an error says where, which keyword, and what it holds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import SchemaError

from runtime.errors import SchemaRejected
from runtime.output.schema import MAX_SCHEMA_CHARACTERS, Draft, draft_of, parse_schema


def parse(schema: Any) -> dict[str, Any]:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return parse_schema(text, subject="response_format.schema")


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "path", "told"),
    [
        ("", "", "not JSON"),
        ("{", "", "not JSON"),
        ("[]", "", "a schema is a JSON object, not []"),
        ("true", "", "a schema is a JSON object, not true"),
        ('{"type": "string", "type": "object"}', "", "key 'type' twice"),
        ('{"minimum": NaN}', "", "NaN is not JSON"),
        ("[" * 100_000, "", "nested deeper than 100"),
        (deep(100), "", "nested deeper than 100"),
        ({"title": "x" * MAX_SCHEMA_CHARACTERS}, "", "characters; at most 1000000"),
        ({"type": "objct"}, "", "'type' must be one of null, boolean, integer"),
        ({"type": ["string", "string"]}, "", "'type'"),
        ({"properties": {"a/b": {"type": 3}}}, "/properties/a~1b", "'type' must be one of"),
        ({"properties": []}, "", "'properties' must be an object, not []"),
        ({"properties": {"a": 3}}, "/properties/a", "a schema is an object, true or false, not 3"),
        ({"items": {"minLength": -1}}, "/items", "'minLength' must be an integer from 0, not -1"),
        ({"maxItems": 1.5}, "", "'maxItems' must be an integer from 0, not 1.5"),
        ({"maximum": "9"}, "", "'maximum' must be a number, not \"9\""),
        ({"multipleOf": 0}, "", "'multipleOf' must be a number above 0, not 0"),
        ({"anyOf": []}, "", "'anyOf' must be a list of schemas with at least one, not []"),
        ({"anyOf": [{}, {"enum": 3}]}, "/anyOf/1", "'enum' must be a list"),
        ({"required": ["a", "a"]}, "", "'required' must be a list of different strings"),
        ({"pattern": "["}, "", "'pattern' must be a regular expression, not \"[\""),
        ({"patternProperties": {"(": {}}}, "", "'patternProperties'"),
        ({"dependentRequired": {"a": "b"}}, "", "'dependentRequired'"),
        ({"items": [{}]}, "", ""),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]}, "", "draft 2020-12"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "exclusiveMinimum": True},
            "",
            "'exclusiveMin",
        ),
        ({"$ref": "https://example.com/schema.json"}, "", "is remote; only references inside"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "/properties/a", "'$ref' '#/$defs/b' leads nowhere"),
        ({"$ref": "#name"}, "", "leads nowhere"),
        ({"$ref": "#/x-parts/a", "x-parts": {"a": {"type": "no"}}}, "/x-parts/a", "'type'"),
    ],
)
def test_what_is_wrong_is_told(schema: Any, path: str, told: str) -> None:
    if not told:
        parse(schema)
        return
    with pytest.raises(SchemaRejected) as refused:
        parse(schema)
    assert refused.value.path == path
    assert refused.value.subject == "response_format.schema"
    assert told in refused.value.rule


def test_the_order_of_properties_is_kept() -> None:
    assert list(parse({"properties": {"z": {}, "a": {}, "m": {}}})["properties"]) == ["z", "a", "m"]


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"$ref": {"type": "string"}, "type": {"type": "string"}, "id": {"type": "string"}}},
        {"enum": [{"type": "not a type"}], "default": {"$ref": "#/nowhere"}},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "string"}}},
        {"$ref": "#here", "$defs": {"a": {"$anchor": "here"}}},
        {"$id": "https://example.com/root.json", "$ref": "part.json", "$defs": {"a": {"$id": "part.json"}}},
        {"$id": "urn:example:root", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"properties": {"child": {"$ref": "#"}}},
        {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": True}},
        {"unknown": 3, "x-y": []},
    ],
)
def test_what_is_right_is_taken(schema: dict[str, Any]) -> None:
    assert parse(schema) == schema


@pytest.mark.parametrize(
    ("schema", "draft"),
    [
        ({}, Draft.DRAFT_2020_12),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, Draft.DRAFT_7),
        ({"$schema": "https://json-schema.org/draft-04/schema"}, Draft.DRAFT_4),
        ({"$schema": "https://example.com/own"}, Draft.DRAFT_2020_12),
        ({"properties": {"a": {"items": [{}]}}}, Draft.DRAFT_7),
        ({"minimum": 3, "exclusiveMinimum": True}, Draft.DRAFT_4),
        ({"dependencies": {"a": ["b"]}}, Draft.DRAFT_7),
        ({"dependencies": {"a": ["b"]}, "prefixItems": [{}]}, Draft.DRAFT_2020_12),
        ({"properties": {"dependencies": {"type": "object"}}}, Draft.DRAFT_2020_12),
    ],
)
def test_the_draft_is_named_or_found(schema: dict[str, Any], draft: Draft) -> None:
    assert draft_of(schema) is draft


KEYWORDS = st.sampled_from([
    *("type", "enum", "const", "minLength", "maxItems", "minimum", "multipleOf", "required", "pattern"),
    *("properties", "items", "anyOf", "allOf", "not", "additionalProperties", "uniqueItems", "prefixItems"),
    *("dependentRequired", "patternProperties", "contains", "minContains", "format", "title", "$defs"),
])  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(["string", "object", "[", "a", 0, 1, -1, 2.5, True, False, None]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYWORDS, inner, max_size=2)),
    max_leaves=6,
)


@given(st.dictionaries(KEYWORDS, VALUES, max_size=3))
def test_what_the_metaschema_refuses_is_refused(schema: dict[str, Any]) -> None:
    try:
        Draft.DRAFT_2020_12.validator.check_schema(schema)
    except SchemaError:
        with pytest.raises(SchemaRejected):
            parse({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
