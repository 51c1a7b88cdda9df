"""The prompt of a run: instructions, then the thread's history cut to the context.

The history of a warm thread is kept and only added to, so that a turn costs the
same however long the thread is. Where the history is cut is stored on the thread
and moves in large steps: the prompts of many turns share their prefix, and with
it the engine's cache.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from assistants.domain.content import Role
from assistants.domain.errors import Fenced
from assistants.domain.message import Message, MessageState
from assistants.domain.ports import MessageRepository, ThreadRepository
from assistants.domain.run import AutoTruncation, LastMessages, Run
from assistants.domain.thread import Thread
from runtime.engines.base import Engine
from runtime.types import ChatMessage, ChatRole

_WARM_CHARACTERS = 64_000_000
"""Characters of history kept in memory, over all threads."""
_OVERHEAD_BYTES = 64
"""More bytes than any template's frame of one message has tokens."""
_ROLES = {Role.USER: ChatRole.USER, Role.ASSISTANT: ChatRole.ASSISTANT}


class InputLimitExceeded(Exception):
    """The newest message and the instructions alone are over the run's max_input_tokens."""

    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(f"The prompt has {tokens} tokens; max_input_tokens is {limit}.")


@dataclass(slots=True)
class _Entry:
    """One message of a history."""

    position: int
    message: ChatMessage
    tokens: int
    """Counted, or an upper bound until it matters."""
    counted: bool = False


@dataclass(slots=True)
class _History:
    """What is remembered of a thread."""

    version: int
    next_position: int
    entries: list[_Entry] = field(default_factory=list)
    tokens: int = 0
    """Sum over the entries."""
    characters: int = 0


class ThreadContexts:
    """Builds prompts, and keeps the histories of threads in use."""

    def __init__(self, threads: ThreadRepository, messages: MessageRepository, engine: Engine) -> None:
        self._threads = threads
        self._messages = messages
        self._engine = engine
        self._warm: OrderedDict[str, _History] = OrderedDict()
        self._characters = 0

    async def build(self, run: Run) -> tuple[ChatMessage, ...]:
        """The messages of the run's next prompt, oldest first.

        Raises:
            Fenced: there is no such thread.
            InputLimitExceeded: not even the newest message fits max_input_tokens.
        """
        thread = await self._threads.get(run.project_id, run.thread_id)
        if thread is None:  # the run is refused at this moment, for want of its thread
            raise Fenced(run.id)
        match run.settings.truncation:
            case AutoTruncation():
                history = await self._history(thread)
                entries = await self._fit(run, thread, history)
            case LastMessages(count=count):
                history = await self._history(thread)
                if len(history.entries) < count and thread.context_start > 0:
                    history = await self._load(thread, start=0)
                entries = history.entries[-count:]
        prompt = (entry.message for entry in entries)
        if run.settings.instructions:
            return (ChatMessage(role=ChatRole.SYSTEM, content=run.settings.instructions), *prompt)
        return tuple(prompt)

    async def _history(self, thread: Thread) -> _History:
        """The remembered history with the newest messages added."""
        history = self._warm.pop(thread.id, None)
        if history is not None:
            self._characters -= history.characters
        if history is None or history.version != thread.history_version:
            history = await self._load(thread, start=thread.context_start)
        else:
            await self._extend(thread, history)
        self._warm[thread.id] = history
        self._characters += history.characters
        while self._characters > _WARM_CHARACTERS and len(self._warm) > 1:
            _, coldest = self._warm.popitem(last=False)
            self._characters -= coldest.characters
        return history

    async def _load(self, thread: Thread, *, start: int) -> _History:
        history = _History(version=thread.history_version, next_position=start)
        await self._extend(thread, history)
        return history

    async def _extend(self, thread: Thread, history: _History) -> None:
        new = await self._messages.since(
            thread.project_id,
            thread.id,
            history.next_position,
            at_most=thread.next_position - history.next_position,
        )
        for message in new:
            if message.state is MessageState.IN_PROGRESS:
                break  # the run's own, begun by an earlier attempt
            history.next_position = message.position + 1
            if entry := _entry(message):
                history.entries.append(entry)
                history.tokens += entry.tokens
                history.characters += len(entry.message.content)

    async def _fit(self, run: Run, thread: Thread, history: _History) -> list[_Entry]:
        """The entries that fit; moves the thread's start when the context is outgrown."""
        context = self._engine.model.context_tokens
        settings = run.settings
        wanted = context // 4 if settings.max_output_tokens is None else settings.max_output_tokens
        budget = context - min(wanted, context // 2)
        limit = settings.max_input_tokens
        instructions = _bound(settings.instructions) if settings.instructions else 0
        if instructions + history.tokens <= (budget if limit is None else min(budget, limit)):
            return history.entries
        # The bound is over the budget: now the true counts matter.
        instructions = await self._count(settings.instructions, history)
        if instructions + history.tokens > budget:
            dropped = _excess(history.entries, history.tokens, max(budget // 2 - instructions, 0))
            if dropped:
                for entry in history.entries[:dropped]:
                    history.tokens -= entry.tokens
                    history.characters -= len(entry.message.content)
                    self._characters -= len(entry.message.content)
                del history.entries[:dropped]
                start = history.entries[0].position
                await self._threads.set_context_start(run.project_id, thread.id, start)
        if limit is None or instructions + history.tokens <= limit:
            return history.entries
        kept = history.entries[_excess(history.entries, history.tokens, max(limit - instructions, 0)) :]
        tokens = instructions + sum(entry.tokens for entry in kept)
        if tokens > limit:
            raise InputLimitExceeded(tokens=tokens, limit=limit)
        return kept

    async def _count(self, instructions: str, history: _History) -> int:
        """Counts what is not counted yet; gives the tokens of the instructions."""
        system = [ChatMessage(role=ChatRole.SYSTEM, content=instructions)] if instructions else []
        uncounted = [entry for entry in history.entries if not entry.counted]
        counts = await self._engine.count_tokens([*system, *(entry.message for entry in uncounted)])
        for entry, tokens in zip(uncounted, counts[len(system) :], strict=True):
            history.tokens += tokens - entry.tokens
            entry.tokens, entry.counted = tokens, True
        return counts[0] if system else 0


def _entry(message: Message) -> _Entry | None:
    text = message.text
    if not text:
        return None
    return _Entry(
        position=message.position,
        message=ChatMessage(role=_ROLES[message.role], content=text),
        tokens=_bound(text),
    )


def _bound(text: str) -> int:
    """At least as many tokens as the text has: no token is shorter than a byte."""
    return len(text.encode(errors="replace")) + _OVERHEAD_BYTES


def _excess(entries: list[_Entry], tokens: int, budget: int) -> int:
    """How many of the oldest entries to leave out for the rest to fit; never the newest."""
    dropped = 0
    while tokens > budget and dropped < len(entries) - 1:
        tokens -= entries[dropped].tokens
        dropped += 1
    # An answer without its question confuses a model.
    while dropped and dropped < len(entries) - 1 and entries[dropped].message.role is ChatRole.ASSISTANT:
        dropped += 1
    return dropped
