"""JSON Schema as text becomes a checked value.

Rules follow the metaschemas of drafts 4, 6, 7, 2019-09 and 2020-12 (https://json-schema.org).
"""

import json
import math
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NoReturn

from jsonschema import (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
)
from jsonschema.protocols import Validator

from runtime.errors import SchemaRejected
from runtime.output.references import References, SchemaNode, Unresolved, json_pointer, subschemas

MAX_SCHEMA_CHARACTERS = 1_000_000
"""Longest schema text."""
MAX_SCHEMA_DEPTH = 100
"""Deepest nesting of JSON objects and arrays in a schema."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
"""What `type` may be, or hold a list of."""


class Draft(IntEnum):
    """Editions of JSON Schema, oldest first."""

    DRAFT_4 = 4
    DRAFT_6 = 6
    DRAFT_7 = 7
    DRAFT_2019_09 = 2019
    DRAFT_2020_12 = 2020

    @property
    def validator(self) -> type[Validator]:
        """Class that validates documents by this draft."""
        return _VALIDATORS[self]


_VALIDATORS: dict[Draft, type[Validator]] = {
    Draft.DRAFT_4: Draft4Validator,
    Draft.DRAFT_6: Draft6Validator,
    Draft.DRAFT_7: Draft7Validator,
    Draft.DRAFT_2019_09: Draft201909Validator,
    Draft.DRAFT_2020_12: Draft202012Validator,
}
_DRAFT_BY_URI = {
    "json-schema.org/draft-04/schema": Draft.DRAFT_4,
    "json-schema.org/draft-06/schema": Draft.DRAFT_6,
    "json-schema.org/draft-07/schema": Draft.DRAFT_7,
    "json-schema.org/draft/2019-09/schema": Draft.DRAFT_2019_09,
    "json-schema.org/draft/2020-12/schema": Draft.DRAFT_2020_12,
}
_NEWER_KEYWORDS = frozenset({
    "prefixItems",
    "dependentRequired",
    "dependentSchemas",
    "minContains",
    "maxContains",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
    "$anchor",
})  # fmt: skip


def parse_schema(schema_json: str, *, subject: str) -> dict[str, Any]:
    """Parses and checks a schema; the order of its properties is kept.

    Args:
        schema_json: JSON text of the schema, an object.
        subject: field of the request that holds it, for the error.

    Raises:
        SchemaRejected: it is no JSON object, is too large, breaks a rule of its draft, or has a
            `$ref` that is remote or leads nowhere.
    """
    schema = _parse_object(schema_json, subject=subject)
    draft = draft_of(schema)
    references = References(schema)
    for node in references.nodes():
        _check_node(node, draft, references, subject)
    return schema


def draft_of(schema: dict[str, Any]) -> Draft:
    """The draft by which a schema is read.

    The one that `$schema` names. Where it names none that we know, the newest in which the
    keywords mean something: draft 4 for a boolean `exclusiveMinimum`, draft 7 for a list in
    `items` or for `dependencies`, else 2020-12.
    """
    named = schema.get("$schema")
    if isinstance(named, str):
        uri = named.removesuffix("#").removeprefix("https://").removeprefix("http://")
        if uri in _DRAFT_BY_URI:
            return _DRAFT_BY_URI[uri]
    older, newer = False, False
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if not isinstance(node, dict):
            continue
        if isinstance(node.get("exclusiveMinimum"), bool) or isinstance(node.get("exclusiveMaximum"), bool):
            return Draft.DRAFT_4
        older = older or isinstance(node.get("items"), list) or "dependencies" in node
        newer = newer or not _NEWER_KEYWORDS.isdisjoint(node)
        stack += [child for _, child in subschemas(node)]
    return Draft.DRAFT_7 if older and not newer else Draft.DRAFT_2020_12


def _parse_object(schema_json: str, *, subject: str) -> dict[str, Any]:
    if len(schema_json) > MAX_SCHEMA_CHARACTERS:
        raise SchemaRejected(
            f"it has {len(schema_json)} characters; at most {MAX_SCHEMA_CHARACTERS} are allowed",
            subject=subject,
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SchemaRejected(f"an object has the key {twice!r} twice", subject=subject)
        return value

    def refuse_constant(text: str) -> NoReturn:
        raise SchemaRejected(f"{text} is not JSON", subject=subject)

    try:
        schema = json.loads(schema_json, object_pairs_hook=unique, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise SchemaRejected(
            f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", subject=subject
        ) from error
    except RecursionError as error:
        raise SchemaRejected(f"it is nested deeper than {MAX_SCHEMA_DEPTH}", subject=subject) from error
    if not isinstance(schema, dict):
        raise SchemaRejected(f"a schema is a JSON object, not {_shown(schema)}", subject=subject)
    _check_depth(schema, subject)
    return schema


def _check_depth(schema: dict[str, Any], subject: str) -> None:
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaRejected(f"it is nested deeper than {MAX_SCHEMA_DEPTH}", subject=subject)
        children = value.values() if isinstance(value, dict) else value
        stack += [(child, depth + 1) for child in children if isinstance(child, dict | list)]


def _check_node(node: SchemaNode, draft: Draft, references: References, subject: str) -> None:
    if isinstance(node.schema, bool):
        return
    if not isinstance(node.schema, dict):
        raise SchemaRejected(
            f"a schema is an object, true or false, not {_shown(node.schema)}",
            subject=subject,
            path=json_pointer(node.path),
        )
    for keyword, value in node.schema.items():
        rule = _broken_rule(keyword, value, draft)
        if rule:
            raise SchemaRejected(
                f"'{keyword}' {rule}, not {_shown(value)}", subject=subject, path=json_pointer(node.path)
            )
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in node.schema:
            try:
                references.resolve(node.schema[keyword], node.schema)
            except Unresolved as error:
                raise SchemaRejected(
                    f"'{keyword}' {node.schema[keyword]!r} {error}",
                    subject=subject,
                    path=json_pointer(node.path),
                ) from error


def _broken_rule(keyword: str, value: Any, draft: Draft) -> str | None:
    """What a keyword must be, when its value is not that."""
    if keyword in ("exclusiveMinimum", "exclusiveMaximum") and draft is Draft.DRAFT_4:
        return None if isinstance(value, bool) else "must be true or false in draft 4"
    if keyword == "items" and isinstance(value, list) and draft is Draft.DRAFT_2020_12:
        return "must be a schema in draft 2020-12 ('prefixItems' takes a list)"
    rule = _RULES.get(keyword)
    return None if rule is None or rule[0](value) else rule[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in TYPES
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(name, str) and name in TYPES for name in value)
        and len(set(value)) == len(value)
    )


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


_NUMBER = (_is_number, "must be a number")
_COUNT = (_is_count, "must be an integer from 0")
_SCHEMAS = (_is_schemas, "must be a list of schemas with at least one")
_OBJECT = (_is_object, "must be an object")
_TEXT = (_is_text, "must be a string")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"must be one of {', '.join(TYPES)}, or a list of different ones"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "must be a list with at least one value"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "must be a number above 0"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(
        (
            *("minLength", "maxLength", "minItems", "maxItems"),
            *("minProperties", "maxProperties", "minContains", "maxContains"),
        ),
        _COUNT,
    ),
    "pattern": (_is_pattern, "must be a regular expression"),
    "patternProperties": (
        lambda value: isinstance(value, dict) and all(_is_pattern(name) for name in value),
        "must be an object whose keys are regular expressions",
    ),
    "required": (_is_names, "must be a list of different strings"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(_is_names(names) for names in value.values()),
        "must be an object of lists of different strings",
    ),
    "dependencies": (
        lambda value: (
            isinstance(value, dict)
            and all(not isinstance(names, list) or _is_names(names) for names in value.values())
        ),
        "must be an object of schemas, or of lists of different strings",
    ),
    "uniqueItems": (lambda value: isinstance(value, bool), "must be true or false"),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("properties", "$defs", "definitions", "dependentSchemas"), _OBJECT),
    **dict.fromkeys(
        (
            *("$ref", "$dynamicRef", "$recursiveRef", "$schema", "$id", "$anchor", "$dynamicAnchor"),
            *("$comment", "title", "description", "format"),
        ),
        _TEXT,
    ),
}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
