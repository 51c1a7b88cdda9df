"""The shortest end of a constrained document, for when its tokens run out: computed, not generated.

A document that follows a grammar can always be brought to an end, but a small model rarely does so in time.
Here the end is searched on the very grammar, byte by byte, and appended in the model's place.

The search is best first, one container at a time: a container that opens within is closed on its own, and its
end then counts as one move. Ends are close to the shortest, not proven to be: strings that the mask cannot
tell apart are tried a few at a time, and of optional properties before a required one the search keeps the
required one. Effort is bounded by a number of steps, never by time, so the same text gets the same end.
"""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from zlib import crc32

from llguidance import LLMatcher

from runtime.errors import EngineFault
from runtime.output.place import WITHIN_KEY, WITHIN_STRING, Expects, Place
from runtime.output.token_ends import PREFERENCE, TokenEnds, text_of
from runtime.output.walk import Node, StepsSpent, Walk, byte_tokenizer

_THOROUGH_STEPS = 3_000
"""Some 100 ms at worst; most ends take some hundred steps, well below 1 ms."""
_HASTY_STEPS = 3_000
"""The second try follows its nose, so that nearly each step is a byte of the end."""
_ALTERNATIVES = 8
"""Texts of one string or number that are followed further, as they may decide what comes after."""
_MOST_KEYS = 64
_MOST_NESTED = 128
"""Containers that an end opens within each other."""

_QUOTE, _COMMA, _CLOSE_ARRAY, _CLOSE_OBJECT = b'",]}'
_DIGITS = frozenset(b"0123456789")
_VALUES = b'0"nft123456789-[{'
_AFTER_VALUE = frozenset((Expects.AFTER, Expects.SCALAR))


class DocumentMatcher:
    """A JSON document as it is generated under a grammar, and the shortest way to its end."""

    def __init__(self, grammar: str) -> None:
        """Take the grammar of the document alone, as the engine gets it.

        Raises:
            ValueError: it does not compile.
        """
        matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(f"the grammar does not compile: {matcher.get_error()}")
        self._grammar = grammar
        self._matcher = matcher
        self._place = Place()

    def copy(self) -> "DocumentMatcher":
        """Return the same document, to be continued on its own."""
        other = object.__new__(DocumentMatcher)
        other._grammar, other._place = self._grammar, self._place
        other._matcher = self._matcher.deep_copy()
        return other

    def feed(self, text: str) -> bool:
        """Continue the document; about two microseconds a byte.

        Returns:
            Whether the grammar allows the text. If not, nothing of it was taken.

        Raises:
            EngineFault: llguidance gave up, at one of its limits.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return False
        if data and self._matcher.is_stopped() and not self._matcher.is_error():
            # Complete, and nothing may follow; to consume is an error of the matcher then.
            return False
        taken: int = self._matcher.try_consume_tokens(list(data))
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise EngineFault(f"llguidance gave up on the document: {reason}")
        if taken < len(data):
            self._matcher.rollback(taken)
            return False
        self._place = self._place.after(data)
        return True

    @property
    def complete(self) -> bool:
        """Whether the document may end here."""
        accepting: bool = self._matcher.is_accepting()
        return accepting

    def shortest_ending(self, *, most_bytes: int) -> str | None:
        """Find a text that completes the document, close to the shortest. The document stays as it is.

        Args:
            most_bytes: most bytes of the text as UTF-8. A token is at least one byte, so that a text of this
                many bytes takes at most as many tokens.

        Returns:
            The text, empty when the document is complete. None when none was found within `most_bytes` and a
            bounded number of steps.
        """
        if self.complete:
            return ""
        for hasty in (False, True):
            search = _Search(self._matcher.deep_copy(), self._grammar, most_bytes, hasty=hasty)
            try:
                end = search.end(self._place)
            except StepsSpent:
                continue
            if end is not None:
                return end.decode()
        return None


def smallest_document_bytes(grammar: str, *, most_bytes: int = 4096) -> int | None:
    """Return the size of about the smallest document of a grammar. None when it is above `most_bytes`.

    Raises:
        ValueError: the grammar does not compile.
    """
    document = DocumentMatcher(grammar).shortest_ending(most_bytes=most_bytes)
    return None if document is None else len(document.encode())


class _Search:
    """Best first search of the end of one document; the hasty one goes into depth first."""

    def __init__(self, matcher: LLMatcher, grammar: str, most_bytes: int, *, hasty: bool) -> None:
        self._walk = Walk(matcher, steps=_HASTY_STEPS if hasty else _THOROUGH_STEPS, most_bytes=most_bytes)
        self._ends = TokenEnds(self._walk, grammar, most_bytes)
        self._most_bytes = most_bytes
        self._hasty = hasty

    def end(self, place: Place) -> bytes | None:
        """Return the text that completes the document that has come to this place."""
        start = self._walk.append(Node(b"", place), b"")
        end = None if start is None else self._close(start, 0)
        return None if end is None else end.path

    def _close(self, start: Node, depth: int) -> Node | None:
        """Return the cheapest node with fewer than `depth` open containers; for 0, a complete document."""

        def reached(node: Node) -> bool:
            return node.place.depth < depth or (node.place.depth == 0 and self._walk.complete(node))

        return self._best(start, depth, reached)

    def _member(self, key: Node, start: Node) -> Node | None:
        """Return the cheapest node after the value of a member, from within its key and past it."""
        depth = key.place.depth

        def reached(node: Node) -> bool:
            if node.place.depth < depth or _comma_after(key, node) is not None:
                return True
            after = node.place.depth == depth and node.place.expects in _AFTER_VALUE
            return after and self._ends.scalar_may_end(node)

        end = self._best(start, depth, reached)
        return end if end is None else _comma_after(key, end) or end

    def _best(self, start: Node, depth: int, reached: Callable[[Node], bool]) -> Node | None:
        heap: list[tuple[int, int, bytes, int, Node]] = []
        order = count()
        met: set[tuple[int, bytes, bytes]] = set()

        def push(node: Node) -> None:
            rest = node.place.depth - depth + (node.place.expects in WITHIN_STRING)
            number = next(order)
            cost = -number if self._hasty else len(node.path) + rest
            heappush(heap, (cost, -len(node.path), node.path.translate(PREFERENCE), number, node))

        push(start)
        while heap:
            node = heappop(heap)[-1]
            if reached(node):
                return node
            if node.place.depth > depth:
                inner = self._close(node, node.place.depth)
                moves = [] if inner is None else [inner]
            else:
                moves = self._moves(node, met)
            for move in reversed(moves) if self._hasty else moves:
                nested = move.place.depth - start.place.depth
                if len(move.path) + move.place.depth <= self._most_bytes and nested <= _MOST_NESTED:
                    push(move)
        return None

    def _moves(self, node: Node, met: set[tuple[int, bytes, bytes]]) -> list[Node]:
        place = node.place
        if place.expects in WITHIN_KEY and not self._hasty:
            return self._keys(node)
        if place.expects in WITHIN_STRING:
            return self._ends.of_string(node, 1 if self._hasty else _ALTERNATIVES)
        allowed = self._walk.allowed(node)
        closer = _CLOSE_OBJECT if place.inside is not None and place.inside.is_object else _CLOSE_ARRAY
        if place.inside is not None and closer in allowed:
            # To close at once is never longer than to go on.
            return self._walk.append_each(node, (closer,))
        match place.expects:
            case Expects.VALUE:
                return self._values(node, allowed)
            case Expects.KEY if _QUOTE in allowed:
                return self._walk.append_each(node, (_QUOTE,))
            case Expects.SCALAR | Expects.AFTER if _COMMA in allowed:
                return self._next_member(node, met)
            case Expects.SCALAR:
                return self._ends.of_scalar(node, 1 if self._hasty else _ALTERNATIVES)
            case _:
                return self._walk.append_each(node, allowed[:1])

    def _values(self, node: Node, allowed: tuple[int, ...]) -> list[Node]:
        begins = [byte for byte in _VALUES if byte in allowed]
        if not begins:
            return self._walk.append_each(node, allowed[:1])
        if _DIGITS.issubset(allowed):
            zero = self._walk.append_each(node, begins[:1])
            if all(self._ends.scalar_may_end(move) for move in zero):
                return zero
        return self._walk.append_each(node, begins)

    def _next_member(self, node: Node, met: set[tuple[int, bytes, bytes]]) -> list[Node]:
        commas = node.place.inside.commas if node.place.inside else 0
        moves = self._walk.append_each(node, (_COMMA,))
        for move in moves:
            # Two texts of the same member that leave the same choice are one: the shorter came first.
            leaves = (commas, move.path[len(node.path) :], self._walk.mask(move))
            if leaves in met:
                return []
            met.add(leaves)
        return moves

    def _keys(self, start: Node) -> list[Node]:
        """Return nodes after each key that may be written, without those that are a detour.

        Properties have a fixed order, and one that is required cannot be passed over. So a key after whose
        value another of the keys can still come is a detour: that one could have come at once.
        """
        nodes = {text_of(start, node) or b"": node for node in self._ends.of_string(start, _MOST_KEYS)}
        if len(nodes) == 1:
            return list(nodes.values())
        # Short keys first, and else in no order, so that each look at what is left about halves it.
        left = sorted(nodes, key=lambda key: (-len(key), crc32(key)))
        kept: list[Node] = []
        while left and len(kept) < _ALTERNATIVES:
            key = left.pop()
            end = self._member(start, nodes[key])
            if end is None:
                continue
            later = self._later(end, nodes) if end.place.depth == start.place.depth else set()
            if later:
                left = [other for other in left if other in later]
            else:
                kept.append(nodes[key])
        return kept or list(nodes.values())

    def _later(self, end: Node, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of the keys can come after a member; none when nothing has to come."""
        allowed = self._walk.allowed(end)
        if _COMMA not in allowed or _CLOSE_OBJECT in allowed:
            return set()
        spaces, quote, _ = self._walk.forced(end, b",").partition(b'"')
        between = b"," + (spaces if quote else b"") + b'"'
        if not self._walk.allows(end, between):
            return set()
        return {key for key in keys if self._walk.allows(end, between + key + b'"')}


def _comma_after(key: Node, node: Node) -> Node | None:
    """Return the node before the comma that ends the member whose key is given, where it was forced."""
    place, added = key.place, node.path[len(key.path) :]
    if node.place.depth < place.depth or b"," not in added:
        return None
    for index, byte in enumerate(added):
        before, place = place, place.after(bytes((byte,)))
        if byte == _COMMA and place.depth == key.place.depth and place.expects is Expects.KEY:
            return Node(node.path[: len(key.path) + index], before)
    return None
