"""Limits where a schema has none, so that a small model cannot write on for ever.

Works on what `rewrite` gives, in which narrowing any part narrows the whole: every document that
a bounded schema admits, the schema admits. Bounded are strings without a pattern, arrays, open
maps, and the depth of values of any kind. An object that names properties and is silent on
others has no others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from runtime.output.logic import TYPE_OF_KEYWORD, Schema

DEFAULT_ROOM_TOKENS = 4096
_LEAST_ROOM_TOKENS = 64
_MOST_ROOM_TOKENS = 16_384
_LEAST_ITEMS = 16
_MOST_ITEMS = 256
_ITEMS_IN_ALL = 2048
"""Sum of the limits added to arrays: each item is a part of the grammar, about 2 microseconds to compile."""
_ANY_DEPTH = 8
"""Arrays and objects inside each other, in a value that may be anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits for what has none."""

    characters: int
    """Of one string."""
    items: int
    """Of one array; properties of one open map."""

    @classmethod
    def for_room(cls, room_tokens: int | None) -> "Bounds":
        """Limits that fit so many tokens, rounded down to a power of two; None is `DEFAULT_ROOM_TOKENS`."""
        room = DEFAULT_ROOM_TOKENS if room_tokens is None else room_tokens
        room = max(_LEAST_ROOM_TOKENS, min(room, _MOST_ROOM_TOKENS))
        bucket = 1 << (room.bit_length() - 1)
        return cls(characters=bucket * 2, items=max(_LEAST_ITEMS, min(bucket // 4, _MOST_ITEMS)))


def add_bounds(schema: dict[str, Any], bounds: Bounds) -> tuple[dict[str, Any], Bounds]:
    """Adds limits to a rewritten schema.

    Gives the schema, and the limits as they were added: never below a least length or count that
    the schema asks for anywhere, and lower for arrays where there are many.
    """
    arrays, characters, items = 0, bounds.characters, bounds.items
    for node in schema_nodes(schema):
        arrays += "array" in _types(node) and "maxItems" not in node
        characters = max(characters, node.get("minLength", 0))
    items = max(_LEAST_ITEMS, min(items, _ITEMS_IN_ALL // max(1, arrays)))
    for node in schema_nodes(schema):
        items = max(items, node.get("minItems", 0), node.get("minProperties", 0))
    bounds = replace(bounds, characters=characters, items=items)
    return _Bounder(schema, bounds).whole(), bounds


def schema_nodes(schema: Schema) -> Iterator[dict[str, Any]]:
    """A rewritten schema and all below it."""
    stack: list[Schema] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack += (child for _, child in _children(node))


def _children(node: dict[str, Any]) -> Iterator[tuple[str, Schema]]:
    for keyword in ("properties", "patternProperties", "$defs"):
        yield from ((keyword, child) for child in node.get(keyword, {}).values())
    for keyword in ("allOf", "anyOf", "prefixItems"):
        yield from ((keyword, child) for child in node.get(keyword, ()))
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield keyword, node[keyword]


def _types(node: dict[str, Any]) -> tuple[str, ...]:
    """Types that a node names, or that all of its keywords are about."""
    if "type" in node:
        return (node["type"],) if isinstance(node["type"], str) else tuple(node["type"])
    about = {TYPE_OF_KEYWORD.get(keyword, "") for keyword in node if keyword != "$defs"}
    return tuple(about) if len(about) == 1 and "" not in about else ()


def _is_alone(node: dict[str, Any]) -> bool:
    """Whether nothing but this node says what its value is."""
    keywords = node.keys() - {"$defs", "type"}
    return "allOf" not in keywords and ("anyOf" not in keywords or keywords == {"anyOf"})


class _Bounder:
    def __init__(self, schema: dict[str, Any], bounds: Bounds) -> None:
        self._schema = schema
        self._definitions: dict[str, Schema] = schema.get("$defs", {})
        self._bounds = bounds
        self._shared = self._shared_definitions()
        self._any_used = False

    def whole(self) -> dict[str, Any]:
        body = {keyword: value for keyword, value in self._schema.items() if keyword != "$defs"}
        written = self._write(body, alone=True)
        root = dict(written) if isinstance(written, dict) else {"allOf": [written]}
        definitions = {
            name: self._write(target, alone=name not in self._shared, value=False)
            for name, target in self._definitions.items()
        }
        if self._any_used:
            definitions |= self._any_definitions()
        return {**root, "$defs": definitions} if definitions else root

    def _shared_definitions(self) -> set[str]:
        """Names of the definitions that are intersected with something somewhere."""
        shared: set[str] = set()
        entered: set[tuple[int, bool]] = set()
        stack: list[tuple[Schema, bool]] = [(self._schema, True)]
        while stack:
            node, alone = stack.pop()
            if not isinstance(node, dict) or (id(node), alone) in entered:
                continue
            entered.add((id(node), alone))
            alone = alone and _is_alone(node)
            if "$ref" in node:
                name = node["$ref"].removeprefix("#/$defs/")
                if not alone:
                    shared.add(name)
                stack.append((self._definitions[name], alone))
            stack += ((child, alone) for keyword, child in _children(node) if keyword != "$defs")
        return shared

    def _write(self, node: Schema, *, alone: bool, value: bool = True) -> Schema:
        """Bounds a node; `alone`: nothing else says what its value is."""
        if node is True or node == {}:
            return self._any(_ANY_DEPTH) if alone and value else True
        if isinstance(node, bool) or "const" in node or "enum" in node or "$ref" in node:
            return node
        own_alone = alone and _is_alone(node)
        types = _types(node) if own_alone else _types({"type": node["type"]}) if "type" in node else ()
        bounded = dict(node)
        if own_alone and "type" not in node and len(types) == 1:
            bounded["type"] = types[0]
        for keyword in ("properties", "patternProperties"):
            if keyword in node:
                bounded[keyword] = {
                    name: self._write(child, alone=own_alone) for name, child in node[keyword].items()
                }
        for keyword in ("allOf", "anyOf", "prefixItems"):
            if keyword in node:
                bounded[keyword] = [
                    self._write(child, alone=own_alone, value=keyword == "prefixItems")
                    for child in node[keyword]
                ]
        for keyword in ("items", "additionalProperties"):
            if keyword in node:
                bounded[keyword] = self._write(node[keyword], alone=own_alone)
        if "string" in types and own_alone and "maxLength" not in node and "pattern" not in node:
            bounded["maxLength"] = self._bounds.characters
        if "array" in types:
            self._write_array(bounded, alone=own_alone)
        if "object" in types and own_alone:
            self._write_object(bounded)
        if alone and not own_alone:
            bounded = self._closed(bounded, node)
        return bounded

    def _closed(self, bounded: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
        """Closes a composition that names properties and is silent on others, over all of its parts."""
        names: dict[str, Schema] = {}
        for part in self._in_place(node):
            if "additionalProperties" in part or "patternProperties" in part:
                return bounded
            names |= dict.fromkeys([*part.get("properties", ()), *part.get("required", ())], True)
        if not names or bounded.get("minProperties", 0) > len(names):
            return bounded
        named = {**bounded.get("properties", {})}
        named |= {name: True for name in names if name not in named}
        return {"properties": named, "additionalProperties": False} | {
            keyword: value for keyword, value in bounded.items() if keyword != "properties"
        }

    def _in_place(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A node and all parts of it that speak of the same value, in the order in which they stand."""
        seen: set[int] = set()
        stack: list[Schema] = [node]
        while stack:
            part = stack.pop()
            if isinstance(part, bool) or id(part) in seen:
                continue
            seen.add(id(part))
            yield part
            below = [*part.get("allOf", ()), *part.get("anyOf", ())]
            if "$ref" in part:
                below.append(self._definitions[part["$ref"].removeprefix("#/$defs/")])
            stack += reversed(below)

    def _write_array(self, bounded: dict[str, Any], *, alone: bool) -> None:
        if bounded.get("items", True) is not False and "maxItems" not in bounded:
            bounded["maxItems"] = max(self._bounds.items, len(bounded.get("prefixItems", ())))
        if alone and "items" not in bounded:
            bounded["items"] = self._any(_ANY_DEPTH)

    def _write_object(self, bounded: dict[str, Any]) -> None:
        named: dict[str, Schema] = bounded.get("properties", {})
        patterns: dict[str, Schema] = bounded.get("patternProperties", {})
        required: list[str] = bounded.get("required", [])
        rest: Schema = bounded.get("additionalProperties", True)
        if (named or patterns) and "additionalProperties" not in bounded:
            least = bounded.get("minProperties", 0)
            if patterns or least <= len({*named, *required}):
                missing = [] if patterns else [name for name in required if name not in named]
                if patterns and any(name not in named for name in required):
                    return
                bounded["properties"] = {**named, **{name: self._any(_ANY_DEPTH) for name in missing}}
                bounded["additionalProperties"] = rest = False
            else:
                bounded["additionalProperties"] = rest = self._any(_ANY_DEPTH)
        elif rest is True:
            bounded["additionalProperties"] = rest = self._any(_ANY_DEPTH)
        if rest is not False and not patterns and (named or required):
            self._spread(bounded, rest)
        only_required = set(bounded.get("properties", ())) <= set(required)
        if (rest is not False or patterns) and only_required and "maxProperties" not in bounded:
            bounded["maxProperties"] = self._bounds.items + len(required)

    @staticmethod
    def _spread(bounded: dict[str, Any], rest: Schema) -> None:
        """Says the other properties as a pattern of all names.

        llguidance lets a name of `additionalProperties` have escapes, with which it can be that of a
        named property; a name of a pattern has none.
        """
        named = bounded.get("properties", {})
        others = {name: rest for name in bounded.get("required", ()) if name not in named}
        if named or others:
            bounded["properties"] = {**named, **others}
        bounded["patternProperties"] = {"^": rest}
        bounded["additionalProperties"] = False

    def _any(self, depth: int) -> Schema:
        self._any_used = True
        return {"$ref": f"#/$defs/any{depth}"}

    def _any_definitions(self) -> dict[str, Schema]:
        """Values of any kind, by the depth that they may have."""
        scalars: list[Schema] = [
            {"type": ["null", "boolean", "number"]},
            {"type": "string", "maxLength": self._bounds.characters},
        ]
        definitions: dict[str, Schema] = {"any0": {"anyOf": scalars}}
        for depth in range(1, _ANY_DEPTH + 1):
            inner = {"$ref": f"#/$defs/any{depth - 1}"}
            items = min(self._bounds.items, _LEAST_ITEMS)
            array = {"type": "array", "items": inner, "maxItems": items}
            map_ = {"type": "object", "additionalProperties": inner, "maxProperties": self._bounds.items}
            definitions[f"any{depth}"] = {"anyOf": [*scalars, map_, array]}
        return definitions
