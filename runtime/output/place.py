"""Where in a JSON text one is: what is open, and what may come. RFC 8259, read byte by byte."""

import re
from dataclasses import dataclass
from enum import IntEnum


class Expects(IntEnum):
    """What the next byte belongs to."""

    VALUE = 0
    """A value, or the end of an array that is empty."""
    SCALAR = 1
    """A number or literal that has begun."""
    TEXT = 2
    """A string that is a value."""
    ESCAPE = 3
    """The character after a backslash in such a string."""
    KEY = 4
    """A key's opening quote, or the end of an object that is empty."""
    KEY_TEXT = 5
    KEY_ESCAPE = 6
    COLON = 7
    AFTER = 8
    """The comma or the end of a container; at depth 0 nothing."""


WITHIN_KEY = frozenset((Expects.KEY_TEXT, Expects.KEY_ESCAPE))
WITHIN_STRING = frozenset((Expects.TEXT, Expects.ESCAPE)) | WITHIN_KEY


@dataclass(frozen=True, slots=True)
class Container:
    """An object or array that is open."""

    is_object: bool
    parent: "Container | None"
    commas: int = 0
    """Members before the one that is being written."""
    keys: "Keys | None" = None

    def with_key(self, key: bytes) -> "Container":
        """Return it with one more key."""
        return Container(self.is_object, self.parent, self.commas, Keys(key, self.keys))

    def with_comma(self) -> "Container":
        """Return it at its next member."""
        return Container(self.is_object, self.parent, self.commas + 1, self.keys)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of an object, newest first, as written. Linked, so that texts with a common begin share them."""

    key: bytes
    older: "Keys | None"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a JSON text."""

    expects: Expects = Expects.VALUE
    inside: Container | None = None
    depth: int = 0
    """Containers that are open."""
    key: bytes = b""
    """What has been written of the key; only within one."""

    def has_key(self, key: bytes) -> bool:
        """Whether the innermost container already has this key, compared as written."""
        keys = self.inside.keys if self.inside else None
        while keys is not None:
            if keys.key == key:
                return True
            keys = keys.older
        return False

    def after(self, text: bytes) -> "Place":
        """Place after more of the text, of which nothing is checked: the grammar does that."""
        place = self
        begin = 0
        while begin < len(text):
            if place.expects in WITHIN_STRING:
                begin, place = place._after_string(text, begin)
            else:
                place = place._after_byte(text[begin])
                begin += 1
        return place

    def _after_string(self, text: bytes, begin: int) -> tuple[int, "Place"]:
        """Go to the end of the string, or of the text. Digits of an escape are like other characters."""
        is_key = self.expects in WITHIN_KEY
        escaped = self.expects in (Expects.ESCAPE, Expects.KEY_ESCAPE)
        match = _STRING_REST[escaped].match(text, begin)
        end = match.end() if match else begin
        key = self.key + text[begin:end] if is_key else b""
        if end < len(text) and text[end] == _QUOTE:
            if not is_key or self.inside is None:
                return end + 1, Place(Expects.AFTER, self.inside, self.depth)
            inside = self.inside.with_key(key)
            return end + 1, Place(Expects.COLON, inside, self.depth)
        if end < len(text):
            # A backslash whose character is not here yet: it is the last byte.
            key, end = (key + b"\\" if is_key else key), end + 1
            expects = Expects.KEY_ESCAPE if is_key else Expects.ESCAPE
        else:
            expects = Expects.KEY_TEXT if is_key else Expects.TEXT
        return end, Place(expects, self.inside, self.depth, key)

    def _after_byte(self, byte: int) -> "Place":
        inside, depth = self.inside, self.depth
        if byte in _SPACES:
            return Place(Expects.AFTER, inside, depth) if self.expects is Expects.SCALAR else self
        if byte == _QUOTE:
            return Place(Expects.KEY_TEXT if self.expects is Expects.KEY else Expects.TEXT, inside, depth)
        if byte == _OPEN_OBJECT:
            return Place(Expects.KEY, Container(True, inside), depth + 1)
        if byte == _OPEN_ARRAY:
            return Place(Expects.VALUE, Container(False, inside), depth + 1)
        if byte == _COLON:
            return Place(Expects.VALUE, inside, depth)
        if inside is not None and byte in _CLOSERS:
            return Place(Expects.AFTER, inside.parent, depth - 1)
        if inside is not None and byte == _COMMA:
            expects = Expects.KEY if inside.is_object else Expects.VALUE
            return Place(expects, inside.with_comma(), depth)
        return self if self.expects is Expects.SCALAR else Place(Expects.SCALAR, inside, depth)


_QUOTE, _COMMA, _COLON, _OPEN_OBJECT, _OPEN_ARRAY = b'",:{['
_CLOSERS = frozenset(b"}]")
_SPACES = frozenset(b" \t\r\n")
_STRING_REST = (re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL), re.compile(rb'.(?:[^"\\]|\\.)*', re.DOTALL))
"""What follows within a string, after an ordinary character and after a backslash."""
