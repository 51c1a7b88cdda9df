"""A document ends valid before its limit, whenever a valid ending fits."""

import asyncio

from runtime.errors import EngineFault
from runtime.output.ending import DocumentMatcher
from runtime.worker.tokenizer import Tokenizer

_LOOK_EVERY_TOKENS = 16
_NEAR_TOKENS = 64
_MOST_BYTES_A_TOKEN = 8


class Closing:
    """Follows a document, and knows an ending for it while its limit is near.

    Far from the limit, or while none is in sight, it looks only now and then how long an ending
    would be. Near it, it looks at each piece: one behind which no ending would fit any more is
    dropped, and the ending that was known before takes its place.
    """

    def __init__(self, matcher: DocumentMatcher, tokenizer: Tokenizer, *, limit_tokens: int) -> None:
        """Begins a document.

        Args:
            matcher: fresh, of the document's grammar.
            tokenizer: counts what an ending costs.
            limit_tokens: that the document may have.
        """
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._limit = limit_tokens
        self._look_at = 0
        self._zone = _NEAR_TOKENS
        self._safe: str | None = None
        self.tokens = 0
        """Of the document so far, with its ending once it is closed."""
        self.closed = False
        """Whether the document has been brought to its end."""

    @property
    def complete(self) -> bool:
        """Whether the document may end here."""
        return self._matcher.complete

    async def feed(self, text: str, *, tokens: int) -> str:
        """Takes what the model wrote and gives what the document grows by.

        Args:
            text: whole characters.
            tokens: generated for the document so far, with this text.

        Raises:
            EngineFault: the text breaks the grammar.
        """
        if not self._matcher.feed(text):
            raise EngineFault("The engine broke the grammar of the answer.")
        left = self._limit - tokens
        if tokens < self._look_at and (left > self._zone or self._safe is None):
            self.tokens = tokens
            return text
        self._look_at = tokens + _LOOK_EVERY_TOKENS
        # In a thread: a large schema takes tens of milliseconds.
        most_bytes = max(left, 1) * _MOST_BYTES_A_TOKEN
        ending = await asyncio.to_thread(self._matcher.shortest_ending, most_bytes=most_bytes)
        cost = None if ending is None else await self._cost(ending, left)
        if cost is not None and cost <= left:
            self._safe, self._zone = ending, _NEAR_TOKENS + 3 * cost
            self.tokens = tokens
            return text
        if self._safe is None:
            # No ending ever fitted; the document is cut where the limit is.
            self.tokens = tokens
            return text
        self.closed = True
        self.tokens += await self._tokenizer.count(self._safe)
        return self._safe

    async def _cost(self, ending: str, left: int) -> int:
        """Tokens of an ending, or an upper bound if that is low enough."""
        size = len(ending.encode())
        return size if size <= left else await self._tokenizer.count(ending)
