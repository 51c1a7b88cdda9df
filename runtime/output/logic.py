"""What schemas exclude: complements, disjoint pairs, and finite sets of values.

All of it works on schemas as clients write them, and says less rather than something wrong.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from jsonschema.protocols import Validator

from runtime.output.patterns import pattern_of_other_words
from runtime.output.references import References, Unresolved

Schema = dict[str, Any] | bool

_MOST_STEPS = 12
"""References and compositions that are followed in a row."""
_MOST_VALUES = 256
_MOST_CHARACTERS = 64
"""Sizes of a set, and of its strings, that may become one pattern."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_KEYWORDS_OF_TYPE = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": (
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"),
        *("minContains", "maxContains", "unevaluatedItems"),
    ),
    "object": (
        *("properties", "patternProperties", "additionalProperties", "required", "minProperties"),
        *("maxProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
        "unevaluatedProperties",
    ),
}
TYPE_OF_KEYWORD = {keyword: name for name, keywords in _KEYWORDS_OF_TYPE.items() for keyword in keywords}
"""The type of values that a keyword is about; others are about all."""
_ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})


class Logic:
    """Reasons about the subschemas of one schema."""

    def __init__(self, references: References, validator: Validator) -> None:
        """Takes what follows the references of the schema, and its validator."""
        self._references = references
        self._validator = validator
        # What the draft does not know constrains nothing. Some keywords are read by others.
        self._known = frozenset(validator.VALIDATORS)
        if "dependentRequired" in self._known:
            self._known |= {"minContains", "maxContains"}
        self._known |= {"exclusiveMinimum", "exclusiveMaximum"}
        self._first_items = "prefixItems" if "prefixItems" in self._known else "items"
        self._only_ref = "prefixItems" not in self._known and "dependentRequired" not in self._known

    def read(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a subschema that constrain something, by its draft."""
        if self._only_ref and "$ref" in schema:
            return {"$ref": schema["$ref"]}
        known = {keyword: value for keyword, value in schema.items() if keyword in self._known}
        return known | {
            branch: schema[branch] for branch in ("then", "else") if branch in schema and "if" in known
        }

    def admits(self, schema: Schema, value: Any) -> bool:
        """Whether a value is valid against a subschema."""
        if isinstance(schema, bool):
            return schema
        return bool(self._validator.evolve(schema=schema).is_valid(value))

    def follow(self, schema: Schema) -> Schema:
        """The subschema that a plain reference leads to; any other is given back."""
        for _ in range(_MOST_STEPS):
            if not isinstance(schema, dict) or "$ref" not in schema or len(self.read(schema)) > 1:
                break
            try:
                schema = self._references.resolve(schema["$ref"], schema)
            except Unresolved:
                break
        return schema

    def resolve(self, reference: str, schema: dict[str, Any]) -> Schema:
        """The subschema that a reference in `schema` leads to; True where it cannot be followed."""
        try:
            target: Schema = self._references.resolve(reference, schema)
        except Unresolved:
            return True
        return target

    def in_place(self, schema: Schema) -> Iterator[dict[str, Any]]:
        """A subschema and all that speak of the same value: what it refers to and is composed of."""
        seen: set[int] = set()
        stack: list[Schema] = [schema]
        while stack:
            node = stack.pop()
            if isinstance(node, bool) or id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            stack += [self.resolve(node[keyword], node) for keyword in _REFERENCES if keyword in node]
            stack += [member for keyword in ("allOf", "anyOf", "oneOf") for member in node.get(keyword, ())]
            stack += [node[keyword] for keyword in ("if", "then", "else") if keyword in node]
            stack += node.get("dependentSchemas", {}).values()

    def values(self, schema: Schema, steps: int = _MOST_STEPS) -> list[Any] | None:
        """All values that a subschema can have, and perhaps more; None when that is no short list."""
        schema = self.follow(schema)
        if steps == 0 or isinstance(schema, bool):
            return None if schema is not False else []
        schema = self.read(schema)
        if "const" in schema:
            return [schema["const"]]
        if "enum" in schema:
            return list(schema["enum"])
        for member in schema.get("allOf", ()):
            if (found := self.values(member, steps - 1)) is not None:
                return found
        for keyword in ("anyOf", "oneOf"):
            sets = [self.values(member, steps - 1) for member in schema.get(keyword, ())]
            if sets and all(found is not None for found in sets):
                return [value for found in sets if found is not None for value in found]
        if schema.get("type") == "null":
            return [None]
        if schema.get("type") == "boolean":
            return [True, False]
        return None

    def types(self, schema: Schema, steps: int = _MOST_STEPS) -> frozenset[str]:
        """Types that values of a subschema can have, perhaps more; integers are numbers."""
        schema = self.follow(schema)
        if schema is False:
            return frozenset()
        if steps == 0 or isinstance(schema, bool):
            return _ALL_TYPES
        schema = self.read(schema)
        possible = _ALL_TYPES
        if "type" in schema:
            named = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            possible = frozenset("number" if name == "integer" else name for name in named)
        if "const" in schema or "enum" in schema:
            possible &= {_type_of(value) for value in self.values(schema) or ()}
        for member in schema.get("allOf", ()):
            possible &= self.types(member, steps - 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                possible &= frozenset[str]().union(*(self.types(m, steps - 1) for m in schema[keyword]))
        return possible

    def disjoint(self, one: Schema, other: Schema, steps: int = _MOST_STEPS) -> bool:
        """Whether provably no value is valid against both."""
        one, other = self.follow(one), self.follow(other)
        if one is False or other is False:
            return True
        if steps == 0 or isinstance(one, bool) or isinstance(other, bool):
            return False
        one, other = self.read(one), self.read(other)
        shared = self.types(one) & self.types(other)
        if not shared:
            return True
        for here, there in ((one, other), (other, one)):
            values = self.values(here)
            if values is not None and not any(self.admits(here, v) and self.admits(there, v) for v in values):
                return True
            if any(self.disjoint(member, there, steps - 1) for member in here.get("allOf", ())):
                return True
            for keyword in ("anyOf", "oneOf"):
                members = here.get(keyword)
                if members and all(self.disjoint(member, there, steps - 1) for member in members):
                    return True
        return all(self._apart(one, other, name, steps - 1) for name in shared)

    def _apart(self, one: dict[str, Any], other: dict[str, Any], name: str, steps: int) -> bool:
        """Whether no value of one type is valid against both, by the keywords of that type."""
        match name:
            case "object":
                named = [*one.get("required", ()), *other.get("required", ())]
                return any(self.disjoint(_property(one, key), _property(other, key), steps) for key in named)
            case "number":
                return _ranges_apart(one, other) or _ranges_apart(other, one)
            case "string":
                return _counts_apart(one, other, "minLength", "maxLength")
            case "array":
                return _counts_apart(one, other, "minItems", "maxItems")
            case _:
                return False

    def complement(self, schema: Schema, steps: int = _MOST_STEPS) -> Schema | None:
        """A schema of just the values that are not valid against a subschema.

        Fractions that are no integers may be missing from it, and arrays whose first item is as the
        rest should be. None when it cannot be told.
        """
        schema = self.follow(schema)
        if isinstance(schema, bool):
            return not schema
        if steps == 0:
            return None
        options: list[Schema] = []
        for keyword, value in self.read(schema).items():
            if keyword in ("then", "else"):
                continue
            found = self._complement_of(keyword, value, schema, steps - 1)
            if found is None:
                return None
            options.append(found)
        return any_of(options)

    def _complement_of(self, keyword: str, value: Any, schema: dict[str, Any], steps: int) -> Schema | None:
        match keyword:
            case "type":
                named = {value} if isinstance(value, str) else set(value)
                others = sorted(_ALL_TYPES - named - ({"number"} if "integer" in named else set()))
                return {"type": others} if others else False
            case "const":
                return _complement_of_values([value])
            case "enum":
                return _complement_of_values(value)
            case "not":
                rest: Schema = value
                return rest
            case "anyOf":
                members = [self.complement(member, steps) for member in value]
                return None if None in members else {"allOf": members}
            case "allOf":
                members = [self.complement(member, steps) for member in value]
                return None if None in members else any_of(m for m in members if m is not None)
            case "$ref":
                try:
                    return self.complement(self._references.resolve(value, schema), steps)
                except Unresolved:
                    return None
            case "if":
                branches = conditional(schema, self, steps, negated=True)
                return None if branches is None else any_of(branches)
            case _:
                return self._complement_in_type(keyword, value, schema, steps)

    def _complement_in_type(
        self, keyword: str, value: Any, schema: dict[str, Any], steps: int
    ) -> Schema | None:
        """Complement of a keyword that is about one type, within that type."""
        found: Schema | None = None
        match keyword:
            case "required":
                found = any_of({"properties": {name: False}} for name in value)
            case "properties":
                others = {name: self.complement(member, steps) for name, member in value.items()}
                if None not in others.values():
                    found = any_of(
                        {"required": [name], "properties": {name: other}}
                        for name, other in others.items()
                        if other is not False
                    )
            case "items" if not isinstance(value, list):
                # The first item breaks the rule; where only a later one does, the array is missing.
                other = self.complement(value, steps)
                if other is not None and "prefixItems" not in schema:
                    found = {self._first_items: [other], "minItems": 1}
            case "minimum" if not isinstance(schema.get("exclusiveMinimum"), bool):
                found = {"exclusiveMaximum": value}
            case "maximum" if not isinstance(schema.get("exclusiveMaximum"), bool):
                found = {"exclusiveMinimum": value}
            case "exclusiveMinimum" if not isinstance(value, bool):
                found = {"maximum": value}
            case "exclusiveMaximum" if not isinstance(value, bool):
                found = {"minimum": value}
            case "minLength" | "minItems" | "minProperties":
                found = {keyword.replace("min", "max"): int(value) - 1} if value >= 1 else False
            case "maxLength" | "maxItems" | "maxProperties":
                found = {keyword.replace("max", "min"): int(value) + 1}
        if isinstance(found, dict):
            return {"type": TYPE_OF_KEYWORD[keyword], **found}
        return found


def conditional(
    schema: dict[str, Any], logic: Logic, steps: int = _MOST_STEPS, *, negated: bool = False
) -> list[Schema] | None:
    """The two branches of `if`, `then` and `else`, of which one holds; `negated`: none of it holds."""
    condition = schema["if"]
    otherwise = logic.complement(condition, steps)
    if otherwise is None:
        return None
    branches: list[Schema] = []
    for guard, keyword in ((condition, "then"), (otherwise, "else")):
        branch: Schema | None = logic.follow(schema.get(keyword, True))
        if isinstance(branch, dict) and not logic.read(branch):
            branch = True
        if negated and branch is not None:
            branch = logic.complement(branch, steps)
        if branch is None:
            return None
        if branch is not False and guard is not False:
            branches.append(guard if branch is True else {"allOf": [guard, branch]})
    return branches


def any_of(options: Iterable[Schema]) -> Schema:
    """The union of schemas, as short as it can be said."""
    kept = [option for option in options if option is not False]
    if any(option is True for option in kept):
        return True
    if not kept:
        return False
    return kept[0] if len(kept) == 1 else {"anyOf": kept}


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _property(schema: dict[str, Any], name: str) -> Schema:
    """What a schema says of one property, or less."""
    if name in schema.get("properties", {}):
        said: Schema = schema["properties"][name]
        return said
    if any(re.search(pattern, name) for pattern in schema.get("patternProperties", {})):
        return True
    rest: Schema = schema.get("additionalProperties", True)
    return rest


def _ranges_apart(low: dict[str, Any], high: dict[str, Any]) -> bool:
    """Whether all numbers of one lie below those of the other. A boolean limit is taken as a loose one."""
    most = [low[k] for k in ("maximum", "exclusiveMaximum") if not isinstance(low.get(k, True), bool)]
    least = [high[k] for k in ("minimum", "exclusiveMinimum") if not isinstance(high.get(k, True), bool)]
    if not most or not least:
        return False
    if min(most) < max(least):
        return True
    tight = (low.get("exclusiveMaximum"), high.get("exclusiveMinimum"))
    return min(most) == max(least) and any(
        limit is not None and not isinstance(limit, bool) and limit == min(most) for limit in tight
    )


def _counts_apart(one: dict[str, Any], other: dict[str, Any], least: str, most: str) -> bool:
    unlimited = float("inf")
    return bool(
        one.get(most, unlimited) < other.get(least, 0) or other.get(most, unlimited) < one.get(least, 0)
    )


def _complement_of_values(values: list[Any]) -> Schema | None:
    """All values but some: of null, booleans, numbers and strings."""
    if len(values) > _MOST_VALUES or any(isinstance(value, list | dict) for value in values):
        return None
    if any(isinstance(value, str) and len(value) > _MOST_CHARACTERS for value in values):
        return None
    kinds = {_type_of(value) for value in values}
    options: list[Schema] = []
    if others := sorted(_ALL_TYPES - kinds):
        options.append({"type": others})
    if "boolean" in kinds:
        options += [{"const": kept} for kept in (True, False) if not any(v is kept for v in values)]
    if "number" in kinds:
        numbers = sorted({v for v in values if _type_of(v) == "number"})
        options.append({"type": "number", "exclusiveMaximum": numbers[0]})
        options += [
            {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
            for low, high in pairwise(numbers)
        ]
        options.append({"type": "number", "exclusiveMinimum": numbers[-1]})
    if "string" in kinds:
        options.append(
            {"type": "string", "pattern": pattern_of_other_words([v for v in values if isinstance(v, str)])}
        )
    return any_of(options)
