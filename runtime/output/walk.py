"""Texts that may follow a document under its grammar, tried out one after another."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from llguidance import LLMatcher, LLTokenizer

from runtime.output.place import Place


class StepsSpent(Exception):
    """The steps of a walk are spent, or llguidance reached one of its own limits."""


@dataclass(frozen=True, slots=True)
class Node:
    """A text that may be appended, and where it leads."""

    path: bytes
    place: Place


class Walk:
    """A matcher that is moved back and forth, which costs about a microsecond a byte.

    The cost is counted in steps, so that a walk has the same end on every machine.
    """

    def __init__(self, matcher: LLMatcher, *, steps: int, most_bytes: int) -> None:
        """Walk from where the matcher stands.

        Args:
            matcher: the walk's own from now on.
            steps: trials of a text.
            most_bytes: most bytes of a path.
        """
        self._most_bytes = most_bytes
        self._matcher = matcher
        self._steps = steps
        self._at = b""

    def append(self, node: Node, text: bytes) -> Node | None:
        """Append a text and what the grammar forces after it. None if that is too long or not UTF-8.

        Raises:
            StepsSpent: no step is left, or the grammar does not allow the text.
        """
        self._spend()
        self._go(node.path + text)
        added = text + self._matcher.compute_ff_bytes()
        path = node.path + added
        if len(path) > self._most_bytes:
            # What a grammar that never ends forces is as long as llguidance lets it be.
            return None
        if not path.isascii():
            # The grammar lets surrogates and overlong forms through.
            try:
                codecs.utf_8_decode(path, "strict", False)
            except UnicodeDecodeError:
                return None
        return Node(path, node.place.after(added))

    def append_each(self, node: Node, choices: Iterable[int]) -> list[Node]:
        """Append single bytes, each to the same text."""
        nodes = (self.append(node, bytes((byte,))) for byte in choices)
        return [child for child in nodes if child is not None]

    def allows(self, node: Node, text: bytes) -> bool:
        """Whether the text may follow."""
        self._spend()
        self._go(node.path)
        if self._matcher.is_stopped():
            # Validating is an error then.
            return text == b""
        return bool(self._matcher.validate_tokens(list(text)) == len(text))

    def forced(self, node: Node, text: bytes) -> bytes:
        """Return what must follow the text; empty when there is a choice."""
        self._spend()
        self._go(node.path + text)
        forced: bytes = self._matcher.compute_ff_bytes()
        return forced

    def mask(self, node: Node) -> bytes:
        """Return which bytes may follow: one bit each, 32 bytes."""
        self._go(node.path)
        mask: bytes = self._matcher.compute_bitmask()
        return mask[:32]

    def allowed(self, node: Node) -> tuple[int, ...]:
        """Return the bytes that may follow."""
        return members(self.mask(node))

    def complete(self, node: Node) -> bool:
        """Whether the document may end there."""
        self._go(node.path)
        accepting: bool = self._matcher.is_accepting()
        return accepting

    def _spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise StepsSpent

    def _go(self, path: bytes) -> None:
        common = len(self._at) if path.startswith(self._at) else _common(self._at, path)
        if common < len(self._at):
            self._matcher.rollback(len(self._at) - common)
        rest = list(path[common:])
        taken: int = self._matcher.try_consume_tokens(rest) if rest else 0
        self._at = path[: common + taken]
        if taken < len(rest) or self._matcher.is_error():
            raise StepsSpent


@cache
def byte_tokenizer() -> LLTokenizer:
    """Tokens 0 to 255 are the bytes."""
    return LLTokenizer("byte")


@lru_cache(maxsize=4096)
def members(mask: bytes) -> tuple[int, ...]:
    """Return the bytes of a mask, in their order."""
    bits = int.from_bytes(mask, "little")
    return tuple(byte for byte in range(256) if bits >> byte & 1)


def _common(one: bytes, other: bytes) -> int:
    """Length of the common begin, by halving: slices compare faster than bytes do."""
    same, differ = 0, min(len(one), len(other)) + 1
    while differ - same > 1:
        middle = (same + differ) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            differ = middle
    return same
