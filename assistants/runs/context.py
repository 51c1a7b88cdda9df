"""The prompt of a run: instructions, the thread's history cut to the context, the run's own turns.

The history of a warm thread is kept and only added to, so that a turn costs the
same however long the thread is. Where the history is cut is stored on the thread
and moves in large steps: the prompts of many turns share their prefix, and with
it the engine's cache.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from assistants.domain.content import Role
from assistants.domain.errors import Fenced
from assistants.domain.message import Message
from assistants.domain.ports import MessageRepository, ThreadRepository
from assistants.domain.run import AutoTruncation, LastMessages, Run
from assistants.domain.run_step import RunStep
from assistants.domain.thread import Thread
from assistants.domain.tool import ClientFunction
from assistants.runs.own_turns import own_turns
from runtime.chat.transcript import transcribe
from runtime.engines.base import Engine
from runtime.types import ChatMessage, ChatRole

_WARM_CHARACTERS = 64_000_000
"""Characters of history kept in memory, over all threads."""
_OVERHEAD_BYTES = 64
"""More bytes than any template's frame of one message, or of one call in it, has tokens."""
_ROLES = {Role.USER: ChatRole.USER, Role.ASSISTANT: ChatRole.ASSISTANT}


class InputLimitExceeded(Exception):
    """What is left of the run's max_input_tokens is too little for its next prompt."""

    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(f"The prompt has {tokens} tokens; of max_input_tokens {limit} are left.")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What the history shares the context with."""

    fixed: Sequence[ChatMessage]
    """What is never left out."""
    max_input_tokens: int | None


class ThreadContexts:
    """Builds prompts, and keeps the histories of threads in use."""

    def __init__(self, threads: ThreadRepository, messages: MessageRepository, engine: Engine) -> None:
        self._threads = threads
        self._messages = messages
        self._engine = engine
        self._warm: OrderedDict[str, _History] = OrderedDict()
        self._characters = 0

    async def build(
        self, run: Run, steps: Sequence[RunStep], *, max_input_tokens: int | None
    ) -> tuple[ChatMessage, ...]:
        """The messages of the run's next prompt, oldest first.

        Args:
            run: whose prompt it is.
            steps: all that it has made, in order.
            max_input_tokens: most tokens of the prompt; None is no limit but the context.

        Raises:
            Fenced: there is no such thread.
            InputLimitExceeded: not even the newest message fits `max_input_tokens`.
        """
        thread = await self._threads.get(run.project_id, run.thread_id)
        if thread is None:  # the run is refused at this moment, for want of its thread
            raise Fenced(run.id)
        match run.settings.truncation:
            case AutoTruncation():
                history, own = await self._history(thread, run)
                turns = own_turns(steps, own)
                limits = _Limits(
                    fixed=(*_instructions(run), *_definitions(run), *turns), max_input_tokens=max_input_tokens
                )
                entries = await self._fit(run, thread, history, limits)
            case LastMessages(count=count):
                history, own = await self._history(thread, run)
                if len(history.entries) < count and thread.context_start > 0:
                    history, own = await self._load(thread, run, start=0)
                turns = own_turns(steps, own)
                entries = history.entries[-count:]
        return (*_instructions(run), *(entry.message for entry in entries), *turns)

    async def _history(self, thread: Thread, run: Run) -> tuple[_History, Sequence[Message]]:
        """The remembered history with the newest messages added, and the messages of the run itself."""
        history = self._warm.pop(thread.id, None)
        if history is not None:
            self._characters -= history.characters
        if history is None or history.version != thread.history_version:
            history, own = await self._load(thread, run, start=thread.context_start)
        else:
            own = await self._extend(thread, run, history)
        self._warm[thread.id] = history
        self._characters += history.characters
        while self._characters > _WARM_CHARACTERS and len(self._warm) > 1:
            _, coldest = self._warm.popitem(last=False)
            self._characters -= coldest.characters
        return history, own

    async def _load(self, thread: Thread, run: Run, *, start: int) -> tuple[_History, Sequence[Message]]:
        history = _History(version=thread.history_version, next_position=start)
        return history, await self._extend(thread, run, history)

    async def _extend(self, thread: Thread, run: Run, history: _History) -> Sequence[Message]:
        """Adds the messages before the run's own; gives those, which become history when it has ended."""
        new = await self._messages.since(
            thread.project_id,
            thread.id,
            history.next_position,
            at_most=thread.next_position - history.next_position,
        )
        for index, message in enumerate(new):
            if message.run_id == run.id:
                return new[index:]  # nobody else writes to the thread meanwhile
            history.next_position = message.position + 1
            if entry := _entry(message):
                history.entries.append(entry)
                history.tokens += entry.tokens
                history.characters += len(entry.message.content)
        return ()

    async def _fit(self, run: Run, thread: Thread, history: _History, limits: _Limits) -> list[_Entry]:
        """The entries that fit; moves the thread's start when the context is outgrown."""
        context = self._engine.model.context_tokens
        settings = run.settings
        wanted = context // 4 if settings.max_output_tokens is None else settings.max_output_tokens
        budget = context - min(wanted, context // 2)
        limit = limits.max_input_tokens
        fixed = sum(_bound(message) for message in limits.fixed)
        if fixed + history.tokens <= (budget if limit is None else min(budget, limit)):
            return history.entries
        # The bound is over the budget: now the true counts matter.
        fixed = await self._count(limits.fixed, history)
        if fixed + history.tokens > budget:
            dropped = _excess(history.entries, history.tokens, max(budget // 2 - fixed, 0))
            if dropped:
                for entry in history.entries[:dropped]:
                    history.tokens -= entry.tokens
                    history.characters -= len(entry.message.content)
                    self._characters -= len(entry.message.content)
                del history.entries[:dropped]
                start = history.entries[0].position
                await self._threads.set_context_start(run.project_id, thread.id, start)
        if limit is None or fixed + history.tokens <= limit:
            return history.entries
        kept = history.entries[_excess(history.entries, history.tokens, max(limit - fixed, 0)) :]
        tokens = fixed + sum(entry.tokens for entry in kept)
        if tokens > limit:
            raise InputLimitExceeded(tokens=tokens, limit=limit)
        return kept

    async def _count(self, fixed: Sequence[ChatMessage], history: _History) -> int:
        """Counts what is not counted yet; gives the tokens of what is fixed."""
        uncounted = [entry for entry in history.entries if not entry.counted]
        counts = await self._engine.count_tokens([*fixed, *(entry.message for entry in uncounted)])
        for entry, tokens in zip(uncounted, counts[len(fixed) :], strict=True):
            history.tokens += tokens - entry.tokens
            entry.tokens, entry.counted = tokens, True
        return sum(counts[: len(fixed)])


def _instructions(run: Run) -> Sequence[ChatMessage]:
    instructions = run.settings.instructions
    return (ChatMessage(role=ChatRole.SYSTEM, content=instructions),) if instructions else ()


def _definitions(run: Run) -> Sequence[ChatMessage]:
    """What the model is told of its tools and of the form of its answer."""
    settings = run.settings
    tools = tuple(tool.function for tool in settings.tools if isinstance(tool, ClientFunction))
    return transcribe((), tools=tools, response_format=settings.response_format)


def _entry(message: Message) -> _Entry | None:
    text = message.text
    if not text:
        return None
    spoken = ChatMessage(role=_ROLES[message.role], content=text)
    return _Entry(position=message.position, message=spoken, tokens=_bound(spoken))


def _bound(message: ChatMessage) -> int:
    """At least as many tokens as the message has: no token is shorter than a byte."""
    texts = [message.content, message.reasoning]
    texts += (f"{call.name}{call.arguments_json}" for call in message.tool_calls)
    return sum(len(text.encode(errors="replace")) + _OVERHEAD_BYTES for text in texts if text)


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
