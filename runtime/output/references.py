"""Where the subschemas of a schema are, and what a `$ref` in it means."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

_ONE = (
    *("additionalProperties", "additionalItems", "items", "contains", "propertyNames", "not"),
    *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
)
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAP = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_ROOT = ""

Path = tuple[str | int, ...]


class Unresolved(Exception):
    """A reference cannot be followed; the message goes on from the reference."""


@dataclass(frozen=True, slots=True)
class SchemaNode:
    """One subschema and where it stands."""

    path: Path
    """Keys and indices from the root."""
    schema: Any
    """A dict, or a bool; anything else is an error of the schema."""


def json_pointer(path: Path) -> str:
    """RFC 6901 pointer of a path; empty for the root."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """The schemas right below one, each with its path from there."""
    for keyword in _ONE:
        if keyword in schema and not (keyword == "items" and isinstance(schema[keyword], list)):
            yield (keyword,), schema[keyword]
    for keyword in _LIST:
        if isinstance(values := schema.get(keyword), list):
            yield from (((keyword, index), value) for index, value in enumerate(values))
    for keyword in _MAP:
        if isinstance(named := schema.get(keyword), dict):
            # A list in `dependencies` names properties; it is no schema.
            yield from (
                ((keyword, name), value)
                for name, value in named.items()
                if not (keyword == "dependencies" and isinstance(value, list))
            )


class References:
    """Follows the references inside one schema; nothing is ever fetched."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Reads the identifiers and anchors of a schema; it must not change afterwards."""
        self._schema = schema
        self._resources: dict[str, Any] = {_ROOT: schema}
        self._anchors: dict[str, Any] = {}
        self._bases: dict[int, str] = {}
        self._paths: dict[int, Path] = {}
        self._index((), schema, _ROOT)

    def nodes(self) -> Iterator[SchemaNode]:
        """Every subschema, the root first, each once; also those that only a reference reaches."""
        seen: set[int] = set()
        stack: list[SchemaNode] = [SchemaNode((), self._schema)]
        while stack:
            node = stack.pop()
            if isinstance(node.schema, dict):
                if id(node.schema) in seen:
                    continue
                seen.add(id(node.schema))
            yield node
            if isinstance(node.schema, dict):
                below = [SchemaNode((*node.path, *path), child) for path, child in subschemas(node.schema)]
                for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
                    if isinstance(reference := node.schema.get(keyword), str):
                        try:
                            target = self.resolve(reference, node.schema)
                        except Unresolved:
                            continue
                        below.append(SchemaNode(self.path_of(target), target))
                stack += reversed(below)

    def resolve(self, reference: str, schema: dict[str, Any]) -> Any:
        """What a reference in `schema`, a subschema of this one, means: a subschema.

        Raises:
            Unresolved: it is remote, or leads nowhere.
        """
        uri, _, fragment = _joined(self._bases.get(id(schema), _ROOT), reference).partition("#")
        if uri not in self._resources:
            raise Unresolved("is remote; only references inside the schema are followed")
        resource = self._resources[uri]
        if not fragment:
            return resource
        if not fragment.startswith("/"):
            if f"{uri}#{fragment}" not in self._anchors:
                raise Unresolved("leads nowhere")
            return self._anchors[f"{uri}#{fragment}"]
        return self._follow(resource, fragment, uri)

    def path_of(self, schema: Any) -> Path:
        """Path of a subschema that a reference led to; empty when unknown."""
        return self._paths.get(id(schema), ())

    def _follow(self, resource: Any, pointer: str, uri: str) -> Any:
        target, path = resource, self._paths.get(id(resource), ())
        for part in pointer[1:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target, path = target[key], (*path, key)
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target, path = target[int(key)], (*path, int(key))
            else:
                raise Unresolved("leads nowhere")
        if isinstance(target, dict) and id(target) not in self._bases:
            # Outside of what the keywords reach, such as below `components`.
            self._index(path, target, uri)
        return target

    def _index(self, path: Path, schema: Any, base: str) -> None:
        stack: list[tuple[Path, Any, str]] = [(path, schema, base)]
        while stack:
            here, node, base = stack.pop()
            if not isinstance(node, dict):
                continue
            for keyword in ("$id", "id"):
                identifier = node.get(keyword)
                # Up to draft 7 a sibling of `$ref` means nothing.
                if not isinstance(identifier, str) or not identifier or "$ref" in node:
                    continue
                uri, _, name = _joined(base, identifier).partition("#")
                if name:
                    self._anchors.setdefault(f"{uri}#{name}", node)
                if not identifier.startswith("#"):
                    base = uri
                    self._resources.setdefault(uri, node)
                break
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := node.get(keyword), str):
                    self._anchors.setdefault(f"{base}#{anchor}", node)
            self._bases[id(node)] = base
            self._paths[id(node)] = here
            stack += [((*here, *below), child, base) for below, child in subschemas(node)]


def _joined(base: str, reference: str) -> str:
    # `urljoin` knows no URN to join a fragment to.
    return base.partition("#")[0] + reference if reference.startswith("#") else urljoin(base, reference)
