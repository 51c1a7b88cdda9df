"""Texts before which an answer ends."""

from collections.abc import Sequence


class StopFilter:
    """Passes text on until one of the stops comes; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Takes stops that are not empty."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """Whether a stop has come: nothing after it counts."""

    def feed(self, text: str) -> str:
        """Takes a piece of text and gives what is certainly before any stop."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            # The one that was whole first, so that it does not matter how the text was cut.
            _, start = min(found)
            self.stopped, self._held = True, ""
            return text[:start]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """Gives what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
