"""A thought in `<think>` tags at the beginning of a text, for servers that leave it there."""

from collections.abc import Iterator

_OPEN, _CLOSE = "<think>", "</think>"


class ThoughtSplitter:
    """Tells thought and text apart while they arrive; how the text is cut into pieces makes no difference."""

    def __init__(self) -> None:
        self._kept = ""
        """What came and was not given, because it may be a part of a tag."""
        self._thinking: bool | None = None

    @property
    def undecided(self) -> bool:
        """Whether it is not clear yet if the text begins with a thought."""
        return self._thinking is None

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """Takes a piece; gives pieces that are not empty, and whether each is of the thought."""
        self._kept += text
        if self._thinking is None:
            begun = self._kept.lstrip()
            if _OPEN.startswith(begun):
                return
            self._thinking = begun.startswith(_OPEN)
            if self._thinking:
                self._kept = begun.removeprefix(_OPEN)
        if self._thinking:
            thought, tag, after = self._kept.partition(_CLOSE)
            if tag:
                self._thinking, self._kept = False, after
            else:
                size = len(thought) - _begun(thought)
                thought, self._kept = thought[:size], thought[size:]
            if thought:
                yield True, thought
        if not self._thinking and self._kept:
            spoken, self._kept = self._kept, ""
            yield False, spoken

    def finish(self) -> Iterator[tuple[bool, str]]:
        """Gives what was kept."""
        if self._kept:
            yield self._thinking is True, self._kept
        self._kept = ""


def _begun(text: str) -> int:
    """How many characters at the end of a text may be the beginning of the closing tag."""
    return next((size for size in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:size])), 0)
