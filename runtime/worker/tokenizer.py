"""Text to token ids, by the model's own tokenizer, and remembered."""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtime.chat.render import ChatTemplate, Piece
from runtime.chat.transcript import THOUGHT_CLOSE, THOUGHT_OPEN, transcribe
from runtime.types import ChatMessage, ChatRole

Ask = Callable[[str, object], Any]
"""Posts a body to a path of the native server and returns its answer; blocks."""

_Ids = Sequence[int]
"""An array of them, at 4 bytes a token."""

_OPENING_TAG = THOUGHT_OPEN.strip()
_CLOSING_TAG = THOUGHT_CLOSE.strip()
_THREADS = 2
_CACHED_TOKENS = 4_000_000


class Tokenizer:
    """Tokenises the pieces of prompts.

    Pieces come back turn after turn: they are cached by their text, up to 4
    million tokens, which is 16 MB.
    """

    def __init__(self, ask: Ask) -> None:
        """Asks the model how it begins a sequence. Blocks shortly."""
        self._ask = ask
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenize")
        self._cache: OrderedDict[Piece, _Ids] = OrderedDict()
        self._cached_tokens = 0
        self.beginning = self._beginning()
        """Tokens that the model wants before a prompt: its BOS token, or nothing."""

    async def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Tokenises pieces one by one and joins the ids. Knows no BOS token.

        Raises:
            EngineFault: the native server did not answer.
        """
        # Copied before waiting: the cache may forget meanwhile.
        found = {piece: tokens for piece in pieces if (tokens := self._recall(piece)) is not None}
        unknown = [piece for piece in dict.fromkeys(pieces) if piece not in found]
        if unknown:
            loop = asyncio.get_running_loop()
            for piece, tokens in await loop.run_in_executor(self._threads, self._tokenize_all, unknown):
                found[piece] = tokens
                self._remember(piece, tokens)
        ids: list[int] = []
        for piece in pieces:
            ids.extend(found[piece])
        return ids

    async def count(self, text: str) -> int:
        """Counts the tokens of a text in which special tokens do not count."""
        return len(await self.encode([Piece(text, special=False)])) if text else 0

    async def aclose(self) -> None:
        """Waits for what is being tokenised."""
        await asyncio.to_thread(self._threads.shutdown)

    def _tokenize_all(self, pieces: Sequence[Piece]) -> list[tuple[Piece, _Ids]]:
        return [
            (piece, self._tokenize(piece.text, add_special=False, parse_special=piece.special))
            for piece in pieces
        ]

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> _Ids:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return array("i", self._ask("/tokenize", body)["tokens"])

    def _beginning(self) -> tuple[int, ...]:
        plain = self._tokenize("a", add_special=False, parse_special=False)
        whole = self._tokenize("a", add_special=True, parse_special=False)
        # What is added behind ends a sequence, which a prompt must not.
        return tuple(whole[: whole.index(plain[0])]) if plain[0] in whole else ()

    def _recall(self, piece: Piece) -> _Ids | None:
        tokens = self._cache.get(piece)
        if tokens is not None:
            self._cache.move_to_end(piece)
        return tokens

    def _remember(self, piece: Piece, tokens: _Ids) -> None:
        if piece in self._cache:
            return
        self._cache[piece] = tokens
        self._cached_tokens += len(tokens)
        while self._cached_tokens > _CACHED_TOKENS:
            _, forgotten = self._cache.popitem(last=False)
            self._cached_tokens -= len(forgotten)


class PromptEncoder:
    """Messages to the token ids of a prompt, and to the tokens that each costs."""

    def __init__(
        self, template: ChatTemplate, tokenizer: Tokenizer, *, bos_token: str, native_reasoning: bool = False
    ) -> None:
        """Args give how to render and tokenise, the text of the BOS token, and whether the model thinks."""
        self._template = template
        self._tokenizer = tokenizer
        self._bos_token = bos_token
        self._native_reasoning = native_reasoning
        self._overheads: dict[ChatRole, int] = {}

    async def encode(self, messages: Sequence[ChatMessage], *, think: bool) -> list[int]:
        """Makes a prompt in which the model speaks next.

        Args:
            messages: transcribed: roles system, user and assistant only.
            think: whether it begins with a thought; a model that would of itself is kept from it if not.

        Raises:
            PromptRejected: the model's template refuses the messages.
            EngineFault: the native server did not answer.
        """
        pieces = self._template.render(messages, think=think)
        written = pieces[-1].text if pieces[-1].special else ""
        if think and not written.rstrip().endswith(_OPENING_TAG):
            pieces += (Piece(THOUGHT_OPEN, special=True),)
        elif not think and self._native_reasoning and not written.rstrip().endswith(_CLOSING_TAG):
            opening = "" if written.rstrip().endswith(_OPENING_TAG) else THOUGHT_OPEN
            pieces += (Piece(opening + THOUGHT_CLOSE, special=True),)
        return await self._encode(pieces)

    async def count(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, with what the template puts around it.

        What a prompt has besides its messages, such as the opening of the
        model's turn, belongs to no message and is not counted.

        Raises:
            PromptRejected: the model's template refuses a role.
            EngineFault: the native server did not answer.
        """
        counts = []
        for message in _transcribed_each(messages):
            overhead = self._overheads.get(message.role)
            if overhead is None:
                overhead = self._overheads[message.role] = await self._overhead(message.role)
            counts.append(overhead + await self._tokenizer.count(message.content))
        return counts

    async def _encode(self, pieces: Sequence[Piece]) -> list[int]:
        ids = await self._tokenizer.encode(pieces)
        if pieces and pieces[0].special and self._bos_token and pieces[0].text.startswith(self._bos_token):
            # The template has written it: a second one harms the answer.
            return ids
        return [*self._tokenizer.beginning, *ids]

    async def _encode_history(self, messages: Sequence[ChatMessage]) -> list[int]:
        return await self._encode(self._template.render(messages, generation_prompt=False))

    async def _overhead(self, role: ChatRole) -> int:
        """Measures what a message of a role adds to a prompt, besides its content."""
        question = ChatMessage(role=ChatRole.USER, content="a")
        answer = ChatMessage(role=ChatRole.ASSISTANT, content="a")
        probe = ChatMessage(role=role, content="a")
        if role in (ChatRole.SYSTEM, ChatRole.DEVELOPER):
            # Not compared with a prompt that has none: the template may put its own there.
            others = sum(await self.count([question]))
            whole = await self._encode_history((probe, question))
            added = len(whole) - others
        else:
            before = (question,) if role is ChatRole.ASSISTANT else (question, answer)
            shorter = await self._encode_history(before)
            added = len(await self._encode_history((*before, probe))) - len(shorter)
        return max(0, added - await self._tokenizer.count(probe.content))


def _transcribed_each(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Each on its own: a message has the same count wherever it stands."""
    return [plain for message in messages for plain in transcribe([message])]
