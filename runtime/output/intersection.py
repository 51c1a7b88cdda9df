"""Rewritten schemas joined into one, as plainly as it can be said: llguidance then has less to do."""

from itertools import product
from typing import Any

from runtime.output.bounds import schema_nodes
from runtime.output.logic import Schema

_Limits = frozenset[tuple[str, float]]
"""Keywords and their values."""
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MOST_WAYS = 64


def joined(own: dict[str, Any], parts: list[Schema]) -> Schema:
    """The intersection of some keywords and of the parts beside them."""
    parts = [part for part in parts if part is not True]
    if False in parts:
        return False
    if parts and all(map(_is_plain_object, [own, *parts])):
        return _merged([own, *(part for part in parts if isinstance(part, dict))])
    if not own and len(parts) == 1:
        return parts[0]
    if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].keys() == {"anyOf"}:
        return {**own, **parts[0]}
    if parts:
        return {**own, "allOf": parts}
    return own or True


def within_type(name: str, own: dict[str, Any], part: Schema) -> Schema:
    """A part that is about one type, when the schema beside it names just that."""
    if isinstance(part, dict) and own.get("type") == name and "type" not in part:
        return {"type": name, **part}
    return part


def leaks_names(schema: dict[str, Any]) -> bool:
    """Whether an object of a rewritten schema names some properties and leaves others open.

    llguidance lets the name of a property that is not named have escapes, with which it can be that
    of a named one, and then escapes its schema.
    """
    definitions: dict[str, Schema] = schema.get("$defs", {})
    seen: set[tuple[int, bool]] = set()
    stack: list[tuple[Schema, bool]] = [(schema, False)]
    while stack:
        node, closed = stack.pop()
        if isinstance(node, bool) or (id(node), closed) in seen:
            continue
        seen.add((id(node), closed))
        closed = closed or _closes(node, definitions)
        if node.get("properties") and not closed:
            return True
        for keyword in ("properties", "patternProperties"):
            stack += ((child, False) for child in node.get(keyword, {}).values())
        stack += ((child, False) for child in node.get("prefixItems", ()))
        stack += ((node[keyword], False) for keyword in ("items", "additionalProperties") if keyword in node)
        for keyword in ("allOf", "anyOf"):
            stack += ((child, closed) for child in node.get(keyword, ()))
        if "$ref" in node:
            stack.append((definitions[_name(node["$ref"])], closed))
    return False


def leaks_limits(schema: dict[str, Any]) -> bool:
    """Whether an open limit of a rewritten schema is an integer, and the other limit less than 1 away.

    llguidance then lets the integer through: 0 where a number has to be above 0 and at most 0.5.
    """
    definitions: dict[str, Schema] = schema.get("$defs", {})
    for node in schema_nodes(schema):
        for limits in _limits(node, definitions):
            pairs = product(
                [value for keyword, value in limits if keyword == "exclusiveMinimum"],
                [value for keyword, value in limits if keyword in ("maximum", "exclusiveMaximum")],
            )
            mirrored = product(
                [value for keyword, value in limits if keyword == "exclusiveMaximum"],
                [value for keyword, value in limits if keyword in ("minimum", "exclusiveMinimum")],
            )
            if any(open_ == int(open_) and abs(other - open_) < 1 for open_, other in (*pairs, *mirrored)):
                return True
    return False


def _limits(node: Schema, definitions: dict[str, Schema], steps: int = 8) -> set[_Limits]:
    """Limits that hold for a number at the same time, for each way to satisfy a schema."""
    if isinstance(node, bool) or steps == 0:
        return {frozenset()}
    found: set[_Limits] = {frozenset((keyword, node[keyword]) for keyword in _LIMITS if keyword in node)}
    parts = [_limits(part, definitions, steps - 1) for part in node.get("allOf", ())]
    if "$ref" in node:
        parts.append(_limits(definitions[_name(node["$ref"])], definitions, steps - 1))
    if "anyOf" in node:
        parts.append(set().union(*(_limits(part, definitions, steps - 1) for part in node["anyOf"])))
    for part in parts:
        found = {one | other for one, other in product(found, part)}
        if len(found) > _MOST_WAYS:
            # All of them together: that may tell of a leak where there is none.
            found = {frozenset().union(*found)}
    return found


def _closes(node: Schema, definitions: dict[str, Schema], steps: int = 8) -> bool:
    """Whether a schema allows no other properties than it names."""
    if isinstance(node, bool) or steps == 0:
        return node is False
    return (
        node.get("additionalProperties") is False
        or any(_closes(part, definitions, steps - 1) for part in node.get("allOf", ()))
        or ("$ref" in node and _closes(definitions[_name(node["$ref"])], definitions, steps - 1))
        or ("anyOf" in node and all(_closes(part, definitions, steps - 1) for part in node["anyOf"]))
    )


def _name(reference: str) -> str:
    return reference.removeprefix("#/$defs/")


def _is_plain_object(schema: Schema) -> bool:
    """Whether a schema just names properties of an object: such can be merged."""
    return (
        isinstance(schema, dict)
        and schema.get("type", "object") == "object"
        and schema.keys() <= {"type", "properties", "required"}
    )


def _merged(members: list[dict[str, Any]]) -> dict[str, Any]:
    named: dict[str, Schema] = {}
    required: dict[str, None] = {}
    for member in members:
        required |= dict.fromkeys(member.get("required", ()))
        for name, said in member.get("properties", {}).items():
            # Equal schemas are common: a base is included twice.
            named[name] = said if named.get(name, True) in (True, said) else {"allOf": [named[name], said]}
    type_ = {"type": "object"} if any("type" in member for member in members) else {}
    return {**type_, "properties": named, "required": list(required)}
