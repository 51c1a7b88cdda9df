"""Ends of one JSON token that has begun: of a string, a key, a number or a literal."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count

from llguidance import LLMatcher

from runtime.output.place import WITHIN_KEY, Expects, Place
from runtime.output.walk import Node, StepsSpent, Walk, byte_tokenizer, members

_FEW_ROUNDS = 60
_ROUNDS = 600
_ALIKE_KEYS = 16
"""Keys of the same length before the same choice that are followed; of other texts one."""
_CLASS = 10
"""As many allowed bytes are looked at as a class, such as the digits, not one by one."""
_FREE = 24
"""As many mean text that is free, not a choice between given words."""

_QUOTE = ord('"')
_SCALAR_ENDS = frozenset(b",]}")
# 1 before 0, for dates that exist and no \u0000; T and Z before t and z, as timestamps have them.
_PREFERRED = (
    b"\"abcdefghijklmnopqrsTtuvwxyZz1023456789ABCDEFGHIJKLMNOPQRSUVWXY-_./: @+,;=#%?&!~*$()<>[]{}|^`'\\"
)
_SAMPLE = b'"aTZ10A-_./: @+,='
PREFERENCE = bytes(
    _PREFERRED.index(byte) if byte in _PREFERRED else min(len(_PREFERRED) + byte, 255) for byte in range(256)
)
"""Where a byte stands among the preferred ones: of ends of the same length the most natural one is taken."""

_STRING = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL)
_NOT_A_MARK = re.compile(rb"[A-Za-z0-9\s\\()\[\]{}|^$*+?\x80-\xff]|(?<!\\)\.")
"""What is not a mark that a pattern waits for, such as the @ of an address."""


class TokenEnds:
    """Finds ends of tokens on a walk, shortest first."""

    def __init__(self, walk: Walk, grammar: str, most_bytes: int, *, marks: bytes = b"") -> None:
        """Take the walk.

        Args:
            walk: is moved.
            grammar: what the walk is under; its patterns tell words to try. Empty outside JSON.
            most_bytes: most bytes of a node's path together with what closes the open containers.
            marks: bytes that may lead on even where the grammar allows the same after them as before.
        """
        self._walk = walk
        self._grammar = grammar
        self._most_bytes = most_bytes
        self._marks = marks
        self._in_json = grammar != ""
        self._known: dict[tuple[Expects, bytes, bytes], bytes] = {}
        self._classes: dict[bytes, bytes] = {}

    def of_string(self, start: Node, most: int) -> list[Node]:
        """Return up to `most` nodes at which the string or key that is open has been closed."""

        def ends(node: Node) -> bool:
            return text_of(start, node) is not None

        kind = (start.place.expects, start.place.key, self._walk.mask(start))
        known = self._known.get(kind)
        if known is not None and self._walk.allows(start, known):
            node = self._walk.append(start, known)
            return [] if node is None else [node]
        is_key = start.place.expects in WITHIN_KEY
        found = self._search(start, ends, most, _ROUNDS if is_key else _FEW_ROUNDS)
        if not found:
            # Perhaps only a whole word is accepted, and its letters look like any others: try words that fit.
            word = self._fitting_word(start)
            node = self._walk.append(start, word) if word else None
            found = self._search(start, ends, most, _ROUNDS) if node is None else [node]
        if len(found) == 1 and start.place.expects is Expects.TEXT:
            text = found[0].path[len(start.path) :]
            self._known[kind] = text[: len(text_of(start, found[0]) or b"") + 1]
        return found

    def _fitting_word(self, start: Node) -> bytes | None:
        """Return the shortest end of a word that the grammar's patterns tell, with the closing quote."""
        ends = {word[begin:] + b'"' for word in _words(self._grammar) for begin in range(len(word))}
        for end in sorted(ends, key=lambda end: (len(end), end)):
            if len(start.path) + len(end) + start.place.depth > self._most_bytes:
                return None
            if self._walk.allows(start, end) and not start.place.has_key(start.place.key + end[:-1]):
                return end
        return None

    def of_scalar(self, start: Node, most: int) -> list[Node]:
        """Return up to `most` nodes at which the number or literal may end."""
        return self._search(start, self.scalar_may_end, most)

    def scalar_may_end(self, node: Node) -> bool:
        """Whether a number or literal is whole; of any other place it is true."""
        if node.place.depth == 0:
            return self._walk.complete(node)
        return node.place.expects is not Expects.SCALAR or not _SCALAR_ENDS.isdisjoint(
            self._walk.allowed(node)
        )

    def of_text(self) -> bytes | None:
        """Return a short text that the grammar accepts as a whole, where it is a regular expression."""
        start = self._walk.append(Node(b"", Place(Expects.TEXT)), b"")
        if start is None or self._walk.complete(start):
            return None if start is None else start.path
        found = self._search(start, self._walk.complete, 1)
        return found[0].path if found else None

    def _search(
        self, start: Node, ends: Callable[[Node], bool], most: int, rounds: int = _ROUNDS
    ) -> list[Node]:
        order = count()
        heap = [(len(start.path), start.path.translate(PREFERENCE), next(order), False, start)]
        alike: Counter[tuple[int, bytes, bytes]] = Counter()
        most_alike = _ALIKE_KEYS if start.place.expects in WITHIN_KEY else 1
        found: list[Node] = []
        any_loose = False
        for _ in range(rounds):
            if not heap or len(found) == most:
                break
            *_, loose, node = heappop(heap)
            if loose and any_loose:
                # A text of a kind, not one of some words: which one it is decides nothing, and one is enough.
                continue
            if node is not start and ends(node):
                if not _repeats_key(start, node):
                    found.append(node)
                    any_loose |= loose
                continue
            mask = self._walk.mask(node)
            kind = (len(node.path), mask, bytes(byte for byte in node.path if byte in self._marks))
            alike[kind] += 1
            if alike[kind] > most_alike:
                continue
            children, of_a_class = self._choices(node, mask)
            for child in children:
                if len(child.path) + child.place.depth <= self._most_bytes:
                    rank = child.path.translate(PREFERENCE)
                    heappush(heap, (len(child.path), rank, next(order), loose or of_a_class, child))
        return found

    def _choices(self, node: Node, mask: bytes) -> tuple[list[Node], bool]:
        """Return nodes one choice further, and whether they stand for others that are like them."""
        allowed = members(mask)
        free = len(allowed) >= _FREE
        if node.place.expects in _AFTER_BACKSLASH and ord("n") in allowed and len(allowed) > 2:
            return self._walk.append_each(node, b"n"), True
        if free and _QUOTE in allowed and self._in_json and _closing_is_best(node.place):
            return self._walk.append_each(node, (_QUOTE,)), True
        if len(allowed) < _CLASS:
            return self._walk.append_each(node, allowed), False
        if mask in self._classes:
            return self._walk.append_each(node, self._classes[mask]), True
        # Names of properties may begin with any letter, and all of them count.
        names = node.place.expects in WITHIN_KEY and node.place.key == b"" and _QUOTE not in allowed
        sample = free and not names
        tried = [byte for byte in (_SAMPLE + self._marks if sample else _PREFERRED) if byte in allowed]
        # Of characters beyond ASCII some of each kind of first and following byte.
        tried = tried or [byte for byte in allowed if byte & 0x0F == 0] or list(allowed)
        children = self._walk.append_each(node, tried)
        kinds: dict[tuple[bytes, bytes, bytes], list[Node]] = {}
        for child in children:
            byte, forced = child.path[len(node.path) :][:1], child.path[len(node.path) + 1 :]
            # A byte that brings a word to its end is that word, not one of a kind.
            alone = byte if byte in self._marks or b'"' in forced else b""
            kinds.setdefault((forced, self._walk.mask(child), alone), []).append(child)
        if not sample and max(map(len, kinds.values()), default=0) * 2 < len(children):
            return children, False
        # Most bytes leave the same choice: they are one, here and wherever the same bytes are allowed.
        self._classes[mask] = bytes(alike[0].path[len(node.path)] for alike in kinds.values())
        return [alike[0] for alike in kinds.values()], True


def text_of(start: Node, node: Node) -> bytes | None:
    """Return the text of the string that is open at the start, as far as known. None while it is open."""
    escape = b"\\" if start.place.expects is Expects.ESCAPE else b""
    written = escape + start.place.key + node.path[len(start.path) :]
    text = _STRING.match(written)
    return text.group() if text and text.end() < len(written) else None


def _repeats_key(start: Node, node: Node) -> bool:
    key = text_of(start, node) if start.place.expects in WITHIN_KEY else None
    return key is not None and start.place.has_key(key)


def _closing_is_best(place: Place) -> bool:
    """A string is best closed at once; but a key must be new, and may yet become one of the properties."""
    return place.expects not in WITHIN_KEY or not (place.key == b"" or place.has_key(place.key))


@lru_cache(maxsize=64)
def _words(grammar: str) -> tuple[bytes, ...]:
    """Return texts that match the patterns in a grammar, as they stand in JSON, shortest first."""
    words = set()
    for pattern in _patterns(grammar):
        bare = pattern.removeprefix("^").removesuffix("$")
        matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_regex(bare), log_level=0)
        if matcher.is_error():
            continue
        marks = bytes(sorted(set(_NOT_A_MARK.sub(b"", bare.encode()))))
        try:
            word = TokenEnds(Walk(matcher, steps=2_000, most_bytes=256), "", 256, marks=marks).of_text()
        except StepsSpent:
            continue
        if word:
            words.add(json.dumps(word.decode(), ensure_ascii=False)[1:-1].encode())
    return tuple(sorted(words, key=lambda word: (len(word), word)))


def _patterns(grammar: str) -> Iterator[str]:
    decoder = json.JSONDecoder()
    for begin in re.finditer(r"%json\s*(?=\{)", grammar):
        queue: list[object] = [decoder.raw_decode(grammar, begin.end())[0]]
        while queue:
            value = queue.pop()
            if isinstance(value, list):
                queue.extend(value)
            elif isinstance(value, dict):
                queue.extend(value.values())
                if isinstance(value.get("pattern"), str):
                    yield value["pattern"]
                if isinstance(value.get("patternProperties"), dict):
                    yield from value["patternProperties"]


_AFTER_BACKSLASH = frozenset((Expects.ESCAPE, Expects.KEY_ESCAPE))
