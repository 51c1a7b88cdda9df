"""A schema is put into words that llguidance compiles and that mean the same, or a little less.

What comes out is a small dialect of draft 2020-12: no `not`, `oneOf`, `if`, `format` or
annotations; references lead to `#/$defs/…` only. Every document that it admits satisfies the
schema that went in, except for the rules that are reported as lost. It may admit less, as long as
what people mean is in it:

- `format` becomes a pattern of the usual forms (runtime/output/formats.py); unknown ones are dropped.
- `oneOf` becomes `anyOf` where its branches are provably disjoint, else each without the others.
- `not`, `if` and dependencies become unions with complements (runtime/output/logic.py).
- A value that must be in a finite set is one of those that satisfy all other rules too.
- `contains` asks for the first items; a property name is written without escapes.

llguidance 1.0.1 intersects `allOf`; where it would let too much through, the rule counts as lost.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, permutations
from math import gcd, lcm
from typing import Any

from jsonschema.protocols import Validator

from runtime.output.formats import FORMATS
from runtime.output.intersection import joined, within_type
from runtime.output.logic import Logic, Schema, any_of, conditional
from runtime.output.patterns import narrowed
from runtime.output.references import Path, References
from runtime.output.schema import Draft

_MOST_INLINED = 2
"""Times that a reference with other keywords beside it is written out inside itself."""
_MOST_EXCLUSIVE = 8
"""Branches of a `oneOf` that are written as each without the others."""
_MOST_DEPENDENCIES = 4
"""Dependencies of one object that become unions; each doubles the branches."""
_MOST_UNIQUE = 6
"""Values of a set whose arrays without repetition are written out; of up to 4 in any order."""
_SAFE_INTEGER = 2**53
_MOST_MULTIPLE = 10_000
"""Smallest multiple of all divisors of a schema, as an integer: llguidance has a state for each remainder."""
_KEPT = (
    *("minLength", "maxLength", "pattern", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "required"),
)
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A schema in llguidance's dialect."""

    schema: dict[str, Any]
    losses: tuple[tuple[Path, str], ...]
    """Path in the client's schema and keyword of each rule that does not hold in the grammar."""


def rewrite(
    schema: dict[str, Any],
    *,
    draft: Draft,
    validator: Validator,
    at: Schema | None = None,
    without: frozenset[str] = frozenset(),
) -> Rewritten:
    """Rewrites a checked schema, or the subschema `at` of it.

    Args:
        schema: as `parse_schema` gave it.
        draft: its draft.
        validator: one of the same schema.
        at: subschema to rewrite alone; None is the whole schema.
        without: regular expressions, as they were rewritten, to leave out as lost.
    """
    rewriter = _Rewriter(schema, draft, validator, without)
    return rewriter.whole(schema if at is None else at)


class _Rewriter:
    def __init__(
        self, schema: dict[str, Any], draft: Draft, validator: Validator, without: frozenset[str]
    ) -> None:
        self._without = without
        self._draft = draft
        self._references = References(schema)
        self._logic = Logic(self._references, validator)
        self._names: dict[int, str] = {}
        self._waiting: list[tuple[str, Schema]] = []
        self._inlined: list[int] = []
        self._losses: dict[tuple[Path, str], None] = {}
        self._multiple = Fraction(1)
        """Of all divisors so far: any may meet any other in an `allOf`."""

    def whole(self, schema: Schema) -> Rewritten:
        written = self._write(schema, ())
        definitions: dict[str, Schema] = {}
        while self._waiting:
            name, target = self._waiting.pop()
            definitions[name] = self._write(target, self._references.path_of(target))
        root: dict[str, Any] = {} if written is True else {"anyOf": [False]} if written is False else written
        if definitions:
            root = {**root, "$defs": definitions}
        return Rewritten(schema=root, losses=tuple(self._losses))

    def _lose(self, path: Path, keyword: str) -> None:
        self._losses[path, keyword] = None

    def _write(self, schema: Schema, path: Path) -> Schema:
        if isinstance(schema, bool):
            return schema
        values = self._logic.values(schema)
        if values is not None:
            return self._written_values(values, schema, path)
        own: dict[str, Any] = {}
        parts: list[Schema] = []
        keywords = self._logic.read(schema)
        if "type" in keywords:
            own["type"] = keywords["type"]
        for keyword in _KEPT:
            if keyword in keywords:
                own[keyword] = int(keywords[keyword]) if keyword in _COUNTS else keywords[keyword]
        self._write_numbers(own, keywords, path)
        self._write_string(own, parts, keywords, path)
        self._write_array(own, parts, keywords, path)
        self._write_object(own, parts, keywords, path)
        self._write_compositions(parts, keywords, schema, path)
        self._check_names(keywords, schema, path)
        return joined(own, parts)

    # -- values --

    def _written_values(self, values: list[Any], schema: dict[str, Any] | bool, path: Path) -> Schema:
        if isinstance(schema, dict) and not schema.keys() <= {"const", "enum", "title", "description"}:
            values = [value for value in values if self._logic.admits(schema, value)]
        elif isinstance(schema, dict) and not self._logic.read(schema):
            return True
        exact = [value for value in values if _is_exact(value)]
        if len(exact) < len(values):
            if not exact:
                self._lose(path, "enum")
                return True
            values = exact
        if len(values) == 1:
            return {"const": values[0]}
        return {"enum": values} if values else False

    # -- numbers and strings --

    def _write_numbers(self, own: dict[str, Any], keywords: dict[str, Any], path: Path) -> None:
        for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(keywords.get(exclusive), bool):
                tight = own.pop(exclusive) and limit in own
                if tight:
                    own[exclusive] = own.pop(limit)
            for keyword in (limit, exclusive):
                if keyword in own and abs(own[keyword]) > _SAFE_INTEGER:
                    # llguidance computes with doubles.
                    del own[keyword]
                    self._lose(path, keyword)
        if "multipleOf" in keywords:
            divisor = Fraction(str(keywords["multipleOf"]))
            multiple = _common_multiple(self._multiple, divisor)
            if _is_decimal(keywords["multipleOf"]) and _as_integer(multiple) <= _MOST_MULTIPLE:
                own["multipleOf"] = keywords["multipleOf"]
                self._multiple = multiple
            else:
                self._lose(path, "multipleOf")

    def _write_string(
        self, own: dict[str, Any], parts: list[Schema], keywords: dict[str, Any], path: Path
    ) -> None:
        if "pattern" in own and (pattern := self._pattern(own.pop("pattern"), "pattern", path)) is not None:
            own["pattern"] = pattern
        known = FORMATS.get(keywords.get("format", ""))
        if known is None or "string" not in self._logic.types(keywords):
            return
        if known.pattern is None:
            self._lose(path, "format")
        elif "pattern" in own:
            parts.append(within_type("string", own, {"pattern": known.pattern}))
        else:
            own["pattern"] = known.pattern

    def _pattern(self, pattern: str, keyword: str, path: Path) -> str | None:
        """The pattern for llguidance; None where it has none."""
        narrow, same = narrowed(pattern)
        if not same or narrow in self._without:
            self._lose(path, keyword)
        return None if narrow in self._without else narrow

    # -- arrays --

    def _write_array(
        self, own: dict[str, Any], parts: list[Schema], keywords: dict[str, Any], path: Path
    ) -> None:
        first, first_keyword, rest, rest_keyword = self._tuple(keywords)
        if first:
            own["prefixItems"] = [
                self._write(item, (*path, first_keyword, index)) for index, item in enumerate(first)
            ]
        if rest is not True:
            own["items"] = self._write(rest, (*path, rest_keyword))
        if "contains" in keywords:
            self._write_contains(own, parts, keywords, path)
        if keywords.get("uniqueItems") and own.get("maxItems", 2) > 1 and not self._empty_after(first, rest):
            unique = None if first else self._unique(rest, own)
            if unique is None:
                self._lose(path, "uniqueItems")
            else:
                own.pop("items", None)
                parts.append(unique)
        if "unevaluatedItems" in keywords:
            if not self._composed(keywords) and "contains" not in keywords:
                if rest is True and rest_keyword not in keywords:
                    own["items"] = self._write(keywords["unevaluatedItems"], (*path, "unevaluatedItems"))
            elif keywords["unevaluatedItems"] is not True:
                self._lose(path, "unevaluatedItems")

    def _tuple(self, keywords: dict[str, Any]) -> tuple[list[Schema], str, Schema, str]:
        """Schemas of the first items and of all others, each with its keyword."""
        items = keywords.get("items", True)
        if self._draft >= Draft.DRAFT_2020_12:
            return keywords.get("prefixItems", []), "prefixItems", items, "items"
        if isinstance(items, list):
            return items, "items", keywords.get("additionalItems", True), "additionalItems"
        return [], "items", items, "items"

    @staticmethod
    def _empty_after(first: list[Schema], rest: Schema) -> bool:
        return rest is False and len(first) <= 1

    def _write_contains(
        self, own: dict[str, Any], parts: list[Schema], keywords: dict[str, Any], path: Path
    ) -> None:
        least = int(keywords.get("minContains", 1))
        if "maxContains" in keywords or least > _MOST_EXCLUSIVE:
            self._lose(path, "contains")
        elif least:
            item = self._write(keywords["contains"], (*path, "contains"))
            parts.append(within_type("array", own, {"prefixItems": [item] * least, "minItems": least}))

    def _unique(self, item: Schema, own: dict[str, Any]) -> Schema | None:
        """Arrays without repetition, written out; None where they are too many."""
        values = self._logic.values(item)
        if values is None:
            return None
        different: list[Any] = []
        for value in values:
            if self._logic.admits(item, value) and not any(
                self._logic.admits({"const": other}, value) for other in different
            ):
                different.append(value)
        if len(different) > _MOST_UNIQUE or not all(map(_is_exact, different)):
            return None
        choose = permutations if len(different) <= 4 else combinations
        sizes = range(own.get("minItems", 0), min(len(different), own.get("maxItems", len(different))) + 1)
        return any_of({"const": list(chosen)} for size in sizes for chosen in choose(different, size))

    # -- objects --

    def _write_object(
        self, own: dict[str, Any], parts: list[Schema], keywords: dict[str, Any], path: Path
    ) -> None:
        named: dict[str, Schema] = {
            name: self._write(member, (*path, "properties", name))
            for name, member in keywords.get("properties", {}).items()
        }
        patterns: dict[str, Schema] = {
            narrow: self._write(member, (*path, "patternProperties", pattern))
            for pattern, member in keywords.get("patternProperties", {}).items()
            if (narrow := self._pattern(pattern, "patternProperties", path)) is not None
        }
        rest_keyword = "additionalProperties"
        if rest_keyword not in keywords and "unevaluatedProperties" in keywords:
            if self._composed(keywords):
                if keywords["unevaluatedProperties"] is not True:
                    self._lose(path, "unevaluatedProperties")
            else:
                rest_keyword = "unevaluatedProperties"
        rest = self._write(keywords.get(rest_keyword, True), (*path, rest_keyword))
        if "propertyNames" in keywords:
            rest = self._write_names(named, patterns, rest, keywords, path)
        if named:
            own["properties"] = named
        if patterns:
            own["patternProperties"] = patterns
        if rest is not True or (rest_keyword in keywords and (named or patterns)):
            own["additionalProperties"] = rest
        if patterns and rest not in (True, False):
            # A name that fits a pattern, written with escapes, counts as another to llguidance.
            self._lose(path, "patternProperties")
        self._write_least(own, keywords, path)
        self._write_dependencies(own, parts, keywords, path)

    def _write_names(
        self,
        named: dict[str, Schema],
        patterns: dict[str, Schema],
        rest: Schema,
        keywords: dict[str, Any],
        path: Path,
    ) -> Schema:
        """Carries `propertyNames` out; gives the schema of the other properties."""
        names = keywords["propertyNames"]
        for name in named:
            if not self._logic.admits(names, name):
                named[name] = False
        if names is True or (rest is False and not patterns):
            return rest
        if patterns:
            self._lose(path, "propertyNames")
            return rest
        if (values := self._logic.values(names)) is not None:
            for value in values:
                if isinstance(value, str) and self._logic.admits(names, value):
                    named.setdefault(value, rest)
            return False
        pattern = self._pattern_of_names(names)
        if pattern is None:
            self._lose(path, "propertyNames")
            return rest
        patterns[pattern] = rest
        return False

    def _pattern_of_names(self, names: Schema) -> str | None:
        names = self._logic.follow(names)
        if isinstance(names, bool):
            return None
        keywords = self._logic.read(names)
        if self._logic.types(names) >= {"string"}:
            keywords.pop("type", None)
        if (known := FORMATS.get(keywords.get("format", ""))) is not None or "format" not in keywords:
            pattern = keywords.get("pattern")
            if keywords.keys() == {"format"} and known is not None:
                return known.pattern
            if keywords.keys() == {"pattern"} and isinstance(pattern, str):
                narrow, same = narrowed(pattern)
                return narrow if same else None
            if keywords.keys() <= {"minLength", "maxLength"}:
                least, most = int(keywords.get("minLength", 0)), keywords.get("maxLength", "")
                return f"^[\\s\\S]{{{least},{most if most == '' else int(most)}}}$"
        return None

    def _write_least(self, own: dict[str, Any], keywords: dict[str, Any], path: Path) -> None:
        """Leaves limits on the number of properties out where they are implied."""
        required = len(own.get("required", ()))
        closed = own.get("additionalProperties") is False and "patternProperties" not in own
        least = own.get("minProperties", 0)
        if least <= required:
            own.pop("minProperties", None)
        elif least > 1 and not closed:
            # Names may be written twice.
            self._lose(path, "minProperties")
        if closed and own.get("maxProperties", 0) >= len(own.get("properties", ())):
            own.pop("maxProperties", None)

    def _write_dependencies(
        self, own: dict[str, Any], parts: list[Schema], keywords: dict[str, Any], path: Path
    ) -> None:
        needs = [
            (keyword, name, needed)
            for keyword in ("dependentRequired", "dependentSchemas", "dependencies")
            for name, needed in keywords.get(keyword, {}).items()
            if needed not in ([], True)
        ]
        for index, (keyword, name, needed) in enumerate(needs):
            if index == _MOST_DEPENDENCIES:
                self._lose(path, keyword)
                return
            present = self._write(
                {"required": [name, *needed]} if isinstance(needed, list) else needed, (*path, keyword, name)
            )
            if name in own.get("required", ()):
                parts.append(within_type("object", own, present))
            else:
                absent: Schema = {"properties": {name: False}}
                parts.append(
                    any_of([within_type("object", own, absent), within_type("object", own, present)])
                )

    # -- compositions --

    @staticmethod
    def _composed(keywords: dict[str, Any]) -> bool:
        in_place = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef")
        return any(keyword in keywords for keyword in (*in_place, "dependentSchemas", "dependencies"))

    def _write_compositions(
        self, parts: list[Schema], keywords: dict[str, Any], schema: dict[str, Any], path: Path
    ) -> None:
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if keyword in keywords:
                parts.append(self._write_reference(keyword, keywords, schema, path))
        for index, member in enumerate(keywords.get("allOf", ())):
            parts.append(self._write(member, (*path, "allOf", index)))
        if "anyOf" in keywords:
            members = enumerate(keywords["anyOf"])
            parts.append(any_of(self._write(member, (*path, "anyOf", index)) for index, member in members))
        if "oneOf" in keywords:
            parts.append(self._write_one_of(keywords["oneOf"], path))
        if "not" in keywords:
            self._write_source(parts, self._logic.complement(keywords["not"]), "not", path)
        if "if" in keywords and ("then" in keywords or "else" in keywords):
            if self._trivial(keywords.get("then", True)) and self._trivial(keywords.get("else", True)):
                return
            branches = conditional(keywords, self._logic)
            self._write_source(parts, None if branches is None else any_of(branches), "if", path)

    def _trivial(self, schema: Schema) -> bool:
        """Whether a schema plainly admits everything."""
        schema = self._logic.follow(schema)
        return schema is True or (isinstance(schema, dict) and not self._logic.read(schema))

    def _check_names(self, keywords: dict[str, Any], schema: dict[str, Any], path: Path) -> None:
        """Tells where patterns of names meet `additionalProperties` beside them.

        llguidance would hold a name that fits a pattern only to the schema of that.
        """
        if not self._composed(keywords):
            return
        apart = ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas")
        beside: list[Schema] = [{k: value for k, value in keywords.items() if k not in apart}]
        beside += keywords.get("allOf", ())
        beside += [{k: keywords[k]} for k in ("anyOf", "oneOf", "if") if k in keywords]
        beside += keywords.get("dependentSchemas", {}).values()
        if "$ref" in keywords:
            beside.append(self._logic.resolve(keywords["$ref"], schema))
        patterns, others = [], []
        for part in beside:
            nodes = list(self._logic.in_place(part))
            patterns.append(any("patternProperties" in n or "propertyNames" in n for n in nodes))
            others.append(any(n.keys() & {"additionalProperties", "propertyNames"} for n in nodes))
        pairs = permutations(range(len(beside)), 2)
        if any(patterns[one] and others[other] for one, other in pairs):
            self._lose(path, "patternProperties")

    def _write_source(self, parts: list[Schema], source: Schema | None, keyword: str, path: Path) -> None:
        if source is None:
            self._lose(path, keyword)
        else:
            parts.append(self._write(source, (*path, keyword)))

    def _write_one_of(self, members: list[Schema], path: Path) -> Schema:
        written = [(*path, "oneOf", index) for index in range(len(members))]
        if all(self._logic.disjoint(one, other) for one, other in combinations(members, 2)):
            return any_of(map(self._write, members, written))
        others = [self._logic.complement(member) for member in members]
        if len(members) > _MOST_EXCLUSIVE or None in others:
            self._lose(path, "oneOf")
            return any_of(map(self._write, members, written))
        alone: list[Schema] = []
        for index, member in enumerate(members):
            excluded = [
                other
                for place, other in enumerate(others)
                if place != index and not self._logic.disjoint(member, members[place])
            ]
            alone.append({"allOf": [member, *excluded]} if excluded else member)
        return any_of(map(self._write, alone, written))

    def _write_reference(
        self, keyword: str, keywords: dict[str, Any], schema: dict[str, Any], path: Path
    ) -> Schema:
        target = self._logic.resolve(keywords[keyword], schema)
        if isinstance(target, bool):
            return target
        if len(keywords) > 1:
            # llguidance cannot intersect with a definition that is not yet made.
            if self._inlined.count(id(target)) < _MOST_INLINED:
                self._inlined.append(id(target))
                try:
                    return self._write(target, self._references.path_of(target))
                finally:
                    self._inlined.pop()
            self._lose(path, keyword)
            return True
        if id(target) not in self._names:
            name = f"d{len(self._names)}"
            self._names[id(target)] = name
            self._waiting.append((name, target))
        return {"$ref": f"#/$defs/{self._names[id(target)]}"}


def _is_exact(value: Any) -> bool:
    """Whether llguidance writes a constant as it is: it computes with doubles."""
    match value:
        case bool():
            return True
        case int():
            return abs(value) <= _SAFE_INTEGER
        case list():
            return all(map(_is_exact, value))
        case dict():
            return all(map(_is_exact, value.values()))
        case _:
            return True


def _common_multiple(one: Fraction, other: Fraction) -> Fraction:
    return Fraction(lcm(one.numerator, other.numerator), gcd(one.denominator, other.denominator))


def _as_integer(decimal: Fraction) -> int:
    """A decimal without its point."""
    while decimal.denominator > 1:
        decimal *= 10
    return int(decimal)


def _is_decimal(divisor: float) -> bool:
    """Whether llguidance reads a divisor right: it multiplies by ten until it sees an integer."""
    scaled, digits = float(divisor), 0
    while scaled != int(scaled) and digits < 20:
        scaled, digits = scaled * 10, digits + 1
    return scaled < 2**32 and Fraction(int(scaled), 10**digits) == Fraction(str(divisor))
