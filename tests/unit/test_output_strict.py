"""OpenAI's strict subset: what is outside is told with path, keyword, limit and value."""

import json
from typing import Any

import pytest

from runtime.errors import SchemaRejected
from runtime.output.schema import parse_schema
from runtime.output.strict import check_strict


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def nested(levels: int) -> dict[str, Any]:
    schema = closed({"a": {"type": "string"}})
    for _ in range(levels - 1):
        schema = closed({"a": schema})
    return schema


def check(schema: dict[str, Any]) -> None:
    check_strict(parse_schema(json.dumps(schema), subject="s"), subject="s")


@pytest.mark.parametrize(
    "schema",
    [
        closed({}),
        nested(10),
        closed(
            {"a": {"type": ["string", "null"], "format": "date-time", "description": "When", "default": ""}}
        ),
        closed(
            {"a": {"type": "string", "pattern": "^a+$"}, "b": {"enum": ["x", 1, None]}, "c": {"const": 1}}
        ),
        closed({"a": {"type": "number", "multipleOf": 0.5, "minimum": 0, "exclusiveMaximum": 9}}),
        closed({"a": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 9}}),
        closed({"a": {"anyOf": [{"type": "string"}, closed({"b": {"type": "null"}})]}}),
        closed({"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
        closed({"a": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": nested(10)}}),
        closed({f"p{i}": {"type": "string"} for i in range(5000)}),
        closed({"a": {"type": "string", "enum": [f"{i:05}" for i in range(1000)]}}),
        closed({"a": {"type": "string"}}, **{"$schema": "https://json-schema.org/draft/2020-12/schema"}),
    ],
)
def test_what_is_inside_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize(
    ("schema", "path", "told"),
    [
        ({}, "", "'type' must be \"object\" in a strict schema, not null"),
        ({"type": "array", "items": {"type": "string"}}, "", 'must be "object"'),
        ({"type": ["object", "null"]}, "", 'must be "object"'),
        (closed({}, anyOf=[closed({})]), "", "'anyOf' is not allowed at the root"),
        ({"type": "object", "properties": {}}, "", "'additionalProperties' must be false in every object"),
        (closed({}, additionalProperties=True), "", "not true"),
        (closed({"a": {"type": "object"}}), "/properties/a", "'additionalProperties' must be false"),
        (closed({"a": {"type": "string"}}, required=[]), "", "'required' must name every property"),
        (closed({}, required=["b"]), "", "'required' names \"b\", which is not in 'properties'"),
        (closed({"a": {}}), "/properties/a", "'type' is missing"),
        (closed({"a": True}), "/properties/a", "a strict schema says what a value is; true does not"),
        (closed({"a": {"type": "array"}}), "/properties/a", "'items' is missing"),
        (
            closed({"a": {"type": "string", "minLength": 3}}),
            "/properties/a",
            "'minLength' is not in the strict",
        ),
        (closed({"a": {"type": "string", "format": "uri"}}), "/properties/a", "'format' \"uri\" is not in"),
        (
            closed({"a": {"oneOf": [{"type": "string"}]}}),
            "/properties/a",
            "'oneOf' is not in the strict subset",
        ),
        (closed({}, patternProperties={"a": {}}), "", "'patternProperties' is not in the strict subset"),
        (closed({"a": {"allOf": [{"type": "string"}]}}), "/properties/a", "'allOf'"),
        (
            closed({"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}),
            "/properties/a",
            "'uniqueItems'",
        ),
        (
            closed({"a": {"$ref": "#/$defs/b"}}, **{"$defs": {"b": {"type": "object"}}}),
            "/$defs/b",
            "'additionalProperties'",
        ),
        (nested(11), "/properties/a" * 10, "at most 10 levels deep; this is level 11"),
        (
            closed({"list": {"type": "array", "items": nested(9)}}),
            "/properties/list/items" + "/properties/a" * 8,
            "this is level 11",
        ),
        (
            closed({f"p{i}": {"type": "string"} for i in range(5001)}),
            "",
            "'properties': at most 5000 in all are allowed; this object makes it 5001",
        ),
        (
            closed({"a": {"enum": list(range(600))}, "b": {"enum": list(range(401))}}),
            "/properties/b",
            "'enum': at most 1000 values in all are allowed; this one makes it 1001",
        ),
        (
            closed({"a": {"type": "string", "enum": [f"{i:060}" for i in range(251)]}}),
            "/properties/a",
            "more than 250 strings have at most 15000 characters together; these 251 have 15060",
        ),
        (closed({"a": {"const": "x" * 120_000}}), "/properties/a", "at most 120000 characters in all"),
    ],
)
def test_what_is_outside_is_told(schema: dict[str, Any], path: str, told: str) -> None:
    with pytest.raises(SchemaRejected) as refused:
        check(schema)
    assert refused.value.path == path
    assert told in refused.value.rule
