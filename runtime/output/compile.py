"""Schemas become grammars: exactly where llguidance can say it, else loosely and checked later."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jsonschema.protocols import Validator
from llguidance import LLMatcher, LLTokenizer

from runtime.errors import SchemaRejected
from runtime.output.bounds import Bounds, add_bounds, schema_nodes
from runtime.output.intersection import leaks_limits, leaks_names
from runtime.output.logic import TYPE_OF_KEYWORD, Logic, Schema
from runtime.output.references import Path, References, json_pointer
from runtime.output.rewrite import rewrite
from runtime.output.schema import Draft, draft_of, parse_schema
from runtime.output.strict import check_strict
from runtime.output.validate import document_validator, make_validator, parse_document
from runtime.types import FunctionTool

CACHED_SCHEMAS = 512
"""Compiled schemas that are kept."""

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_EXACT = {**_LAYOUT, "coerce_one_of": False, "lenient": False}
_LENIENT = {**_LAYOUT, "coerce_one_of": True, "lenient": True}
_BYTES = LLTokenizer("byte")
_MOST_TRIED = 256
"""Subschemas that are compiled alone to find the one that cannot be."""
_ANY_OBJECT = '{"type": "object"}'
_NO_ARGUMENTS = '{"type": "object", "properties": {}, "required": [], "additionalProperties": false}'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledSchema:
    """A schema that a grammar can hold an output to. Compared by identity."""

    schema: dict[str, Any]
    """As the client gave it."""
    grammar_json: str
    """What stands behind `%json ` in a Lark grammar of llguidance; one line of JSON text."""
    exact: bool
    """Whether all that the grammar lets through satisfies the schema; else an output is checked first."""
    bounds: Bounds
    """Limits that were added where the schema has none."""
    validator: Validator = field(repr=False)
    """Holds a document of `parse_document` against the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What a schema is compiled for."""

    strict: bool
    bounds: Bounds
    arguments: bool = False


def compile_schema(
    schema_json: str, *, strict: bool, subject: str, room_tokens: int | None = None
) -> CompiledSchema:
    """Compiles a schema. May be called from any thread.

    Args:
        schema_json: JSON text of the schema.
        strict: whether it must be in OpenAI's strict subset.
        subject: field of the request that holds it, for the error.
        room_tokens: tokens that an output may take, at least 1; None when not known. Strings and arrays
            without a limit get one that fits it.

    Raises:
        SchemaRejected: it is invalid, outside the strict subset, or has no grammar.
    """
    return _named(schema_json, _Use(strict=strict, bounds=Bounds.for_room(room_tokens)), subject)


def compile_arguments(tool: FunctionTool, *, subject: str, room_tokens: int | None = None) -> CompiledSchema:
    """Compiles the schema of a tool's arguments, which describes an object.

    Empty parameters mean no arguments. A root that is silent on other properties has none.

    Raises:
        SchemaRejected: as for `compile_schema`; or the root does not describe an object.
    """
    use = _Use(strict=tool.strict, arguments=True, bounds=Bounds.for_room(room_tokens))
    return _named(tool.parameters_json or _NO_ARGUMENTS, use, subject)


def compile_object(*, room_tokens: int | None = None) -> CompiledSchema:
    """Any JSON object, as response format `json_object` asks for, bounded in size and depth."""
    return compile_schema(_ANY_OBJECT, strict=False, subject="", room_tokens=room_tokens)


def hits_bound(compiled: CompiledSchema, document_json: str) -> bool:
    """Whether a string or array of a document is exactly as long as an added limit: probably cut.

    Raises:
        ValueError: the document is not JSON.
    """
    stack = [parse_document(document_json)]
    while stack:
        value = stack.pop()
        if isinstance(value, str) and len(value) == compiled.bounds.characters:
            return True
        if isinstance(value, list | dict):
            if len(value) == compiled.bounds.items:
                return True
            stack += value.values() if isinstance(value, dict) else value
    return False


def _named(schema_json: str, use: _Use, subject: str) -> CompiledSchema:
    try:
        return _compiled(schema_json, use)
    except SchemaRejected as error:
        # The cached compilation does not know whose schema it is.
        raise SchemaRejected(error.rule, subject=subject, path=error.path) from error


@lru_cache(maxsize=CACHED_SCHEMAS)
def _compiled(schema_json: str, use: _Use) -> CompiledSchema:
    schema = parse_schema(schema_json, subject="")
    if use.strict:
        check_strict(schema, subject="")
    draft = draft_of(schema)
    validator = make_validator(schema, draft)
    source = _arguments(schema, validator) if use.arguments else schema
    rewritten = rewrite(source, draft=draft, validator=validator)
    bounded, bounds = add_bounds(rewritten.schema, use.bounds)
    grammar_json, error = _grammar_json(bounded, _EXACT)
    exact = not (error or rewritten.losses or leaks_names(bounded) or leaks_limits(bounded))
    if error and (unusable := _unusable_patterns(rewritten.schema)):
        rewritten = rewrite(source, draft=draft, validator=validator, without=unusable)
        bounded, bounds = add_bounds(rewritten.schema, use.bounds)
        grammar_json, error = _grammar_json(bounded, _EXACT)
    for loose in (bounded, source):
        if error:
            grammar_json, still = _grammar_json(loose, _LENIENT)
            error = error if still else ""
    if error:
        raise _refusal(schema, draft, validator, error)
    return CompiledSchema(
        schema=schema,
        grammar_json=grammar_json,
        exact=exact,
        bounds=bounds,
        validator=document_validator(schema_json, draft),
    )


def _arguments(schema: dict[str, Any], validator: Validator) -> dict[str, Any]:
    """The schema of arguments, with what goes without saying."""
    logic = Logic(References(schema), validator)
    keywords = logic.read(schema)
    if {TYPE_OF_KEYWORD.get(keyword) for keyword in keywords} == {"object"}:
        schema = {"type": "object", **schema}
    elif logic.types(schema) != {"object"}:
        raise SchemaRejected(
            f"arguments are an object: 'type' must be \"object\", not {json.dumps(schema.get('type'))}",
            subject="",
        )
    if keywords.keys() <= {"type", "properties", "required"}:
        named = schema.get("properties", {})
        unnamed = {name: True for name in schema.get("required", ()) if name not in named}
        return {**schema, "properties": {**named, **unnamed}, "additionalProperties": False}
    return schema


def _unusable_patterns(schema: Schema) -> frozenset[str]:
    """Regular expressions in a rewritten schema that llguidance cannot compile."""
    patterns: set[str] = set()
    for node in schema_nodes(schema):
        patterns.update(node.get("patternProperties", ()))
        if "pattern" in node:
            patterns.add(node["pattern"])
    return frozenset(
        pattern for pattern in patterns if _grammar_json({"type": "string", "pattern": pattern}, _EXACT)[1]
    )


def _refusal(schema: dict[str, Any], draft: Draft, validator: Validator, error: str) -> SchemaRejected:
    """Names the innermost subschema that has no grammar, and why."""
    path: Path = ()
    nodes = [node for node in References(schema).nodes() if isinstance(node.schema, dict)]
    for node in sorted(nodes[:_MOST_TRIED], key=lambda node: -len(node.path)):
        alone = rewrite(schema, draft=draft, validator=validator, at=node.schema)
        found = _grammar_json(alone.schema, _EXACT)[1]
        if found:
            path, error = node.path, found
            break
    return SchemaRejected(f"it has no grammar: {_reason(error)}", subject="", path=json_pointer(path))


def _reason(error: str) -> str:
    """The part of llguidance's message that says why."""
    line = error.strip().splitlines()[0]
    return line.rpartition("failed to compile JSON schema: ")[2]


def _grammar_json(schema: dict[str, Any], options: dict[str, object]) -> tuple[str, str]:
    """The grammar's text, and why it does not compile: empty when it does."""
    text = json.dumps({**schema, "x-guidance": options})
    return text, LLMatcher.validate_grammar(f"%llguidance {{}}\nstart: %json {text}", _BYTES)


JSON_OBJECT = compile_object()
"""Any JSON object, for an output of unknown room."""
