"""OpenAI's strict subset of JSON Schema, in which every rule can be kept by construction.

Source: OpenAI, Structured Outputs, "Supported schemas". Annotations are accepted everywhere.
"""

import json
from typing import Any, NoReturn

from runtime.errors import SchemaRejected
from runtime.output.references import Path, json_pointer, subschemas

MAX_PROPERTIES = 5000
"""Properties in all objects together."""
MAX_LEVELS = 10
"""Objects and arrays inside each other, the root included; a `$ref` begins anew."""
MAX_CHARACTERS = 120_000
"""Characters in all names of properties and definitions, and all values of `enum` and `const`."""
MAX_ENUM_VALUES = 1000
"""Values in all `enum` together."""
LARGE_ENUM_VALUES = 250
"""Values above which an `enum` of strings is limited in characters."""
MAX_LARGE_ENUM_CHARACTERS = 15_000
"""Characters of all strings of one large `enum`."""

STRICT_FORMATS = (
    *("date-time", "time", "date", "duration", "email"),
    *("hostname", "ipv4", "ipv6", "uuid"),
)
_ANNOTATIONS = frozenset({
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$anchor"),
})  # fmt: skip
_ANYWHERE = frozenset({"type", "enum", "const", "anyOf", "$ref", "$defs", "definitions"})
_BY_TYPE = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format"}),
    "number": frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
}
_SUPPORTED = _ANNOTATIONS | _ANYWHERE | frozenset[str]().union(*_BY_TYPE.values())


def check_strict(schema: dict[str, Any], *, subject: str) -> None:
    """Checks that a schema is in the strict subset.

    Args:
        schema: as `parse_schema` gave it.
        subject: field of the request that holds it, for the error.

    Raises:
        SchemaRejected: it is not; names the path, the keyword, and the limit and the value.
    """
    _Check(subject).whole(schema)


class _Check:
    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._properties = 0
        self._characters = 0
        self._enum_values = 0

    def whole(self, schema: dict[str, Any]) -> None:
        if "anyOf" in schema:
            self._refuse((), "'anyOf' is not allowed at the root of a strict schema")
        if schema.get("type") != "object":
            self._refuse(
                (), f"'type' must be \"object\" in a strict schema, not {_shown(schema.get('type'))}"
            )
        stack: list[tuple[Path, Any, int]] = [((), schema, 1)]
        while stack:
            path, node, level = stack.pop()
            self._check(path, node, level)
            deeper = level + (_types(node) & {"object", "array"} != set())
            below = []
            for step, child in subschemas(node):
                if step[0] == "additionalProperties":
                    continue
                inside = step[0] in ("properties", "items")
                begins = step[0] in ("$defs", "definitions")
                below.append(((*path, *step), child, deeper if inside else 1 if begins else level))
            stack += reversed(below)

    def _check(self, path: Path, node: Any, level: int) -> None:
        if not isinstance(node, dict):
            self._refuse(path, f"a strict schema says what a value is; {_shown(node)} does not")
        for keyword in node:
            if keyword not in _SUPPORTED:
                self._refuse(path, f"'{keyword}' is not in the strict subset")
        types = _types(node)
        if not types and node.keys().isdisjoint({"anyOf", "$ref", "enum", "const"}):
            self._refuse(path, "'type' is missing; a strict schema says what every value is")
        if types & {"object", "array"} and level > MAX_LEVELS:
            self._refuse(
                path, f"objects and arrays are at most {MAX_LEVELS} levels deep; this is level {level}"
            )
        self._check_words(path, node)
        if "object" in types or not _BY_TYPE["object"].isdisjoint(node):
            self._check_object(path, node)
        if "array" in types and "items" not in node:
            self._refuse(path, "'items' is missing; a strict array says what its items are")
        if "format" in node and node["format"] not in STRICT_FORMATS:
            self._refuse(
                path,
                f"'format' {_shown(node['format'])} is not in the strict subset: {', '.join(STRICT_FORMATS)}",
            )

    def _check_object(self, path: Path, node: dict[str, Any]) -> None:
        keyword = "additionalProperties"
        if node.get(keyword) is not False:
            said = f"not {_shown(node[keyword])}" if keyword in node else "and is missing"
            self._refuse(path, f"'{keyword}' must be false in every object of a strict schema, {said}")
        named, required = node.get("properties", {}), node.get("required", [])
        for name in named:
            if name not in required:
                self._refuse(
                    path,
                    f"'required' must name every property of a strict object; {_shown(name)} is missing "
                    '(a type list with "null" makes it optional)',
                )
        for name in required:
            if name not in named:
                self._refuse(path, f"'required' names {_shown(name)}, which is not in 'properties'")
        self._properties += len(named)
        if self._properties > MAX_PROPERTIES:
            self._refuse(
                path,
                f"'properties': at most {MAX_PROPERTIES} in all are allowed; "
                f"this object makes it {self._properties}",
            )

    def _check_words(self, path: Path, node: dict[str, Any]) -> None:
        for keyword in ("properties", "$defs", "definitions"):
            self._characters += sum(map(len, node.get(keyword, ())))
        values = node.get("enum", [])
        lengths = [_length(value) for value in values]
        self._characters += sum(lengths) + (_length(node["const"]) if "const" in node else 0)
        if self._characters > MAX_CHARACTERS:
            self._refuse(
                path,
                f"names of properties and definitions and values of 'enum' and 'const' have at most "
                f"{MAX_CHARACTERS} characters in all; here they reach {self._characters}",
            )
        self._enum_values += len(values)
        if self._enum_values > MAX_ENUM_VALUES:
            self._refuse(
                path,
                f"'enum': at most {MAX_ENUM_VALUES} values in all are allowed; "
                f"this one makes it {self._enum_values}",
            )
        if (
            len(values) > LARGE_ENUM_VALUES
            and all(isinstance(value, str) for value in values)
            and sum(lengths) > MAX_LARGE_ENUM_CHARACTERS
        ):
            self._refuse(
                path,
                f"'enum': more than {LARGE_ENUM_VALUES} strings have at most {MAX_LARGE_ENUM_CHARACTERS} "
                f"characters together; these {len(values)} have {sum(lengths)}",
            )

    def _refuse(self, path: Path, rule: str) -> NoReturn:
        raise SchemaRejected(rule, subject=self._subject, path=json_pointer(path))


def _types(node: Any) -> set[str]:
    named = node.get("type", [])
    return {named} if isinstance(named, str) else set(named)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
