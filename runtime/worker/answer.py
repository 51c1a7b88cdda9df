"""What a sample says behind its thought: parsed, checked, and brought to an end before its limit."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from runtime.chat.stop import StopFilter
from runtime.chat.turn_parser import ParsedEvent, TurnParser
from runtime.errors import EngineFault, OutputInvalid
from runtime.events import EngineEvent, LogprobsDelta, PromptProgress, TextDelta
from runtime.output.compile import hits_bound
from runtime.output.validate import violations
from runtime.types import FinishReason, Timings, TokenLogprob, ToolCall, Usage
from runtime.worker.closing import Closing
from runtime.worker.completion import Completed, Completion, Piece
from runtime.worker.llama_cpp import LlamaServer
from runtime.worker.plan import TurnPlan

AnswerEvent = ParsedEvent | LogprobsDelta


class Answer:
    """One sample's answer or calls, from its first piece to its end."""

    def __init__(self, plan: TurnPlan, closing: Closing | None) -> None:
        """Begins an answer.

        Args:
            plan: the turn that it belongs to.
            closing: brings a document to its end when the limit is near; None is for text.
        """
        self._plan = plan
        self._form = plan.form
        self._parser = TurnParser(plan.form)
        self._stop = StopFilter(plan.stop)
        self._closing = closing
        self._held: list[AnswerEvent] = []
        self._logprobs: list[TokenLogprob] = []
        self._texts: list[str] = []
        self.done = False
        """Whether the answer has ended before its completion: nothing more of that counts."""
        self.finish_reason = FinishReason.STOP
        self.usage = Usage()
        self.timings = Timings()
        self.closed_early = False
        self.invalid: OutputInvalid | None = None
        """What it misses that no grammar could express; then nothing of it was given."""

    @property
    def text(self) -> str:
        """The text, or the document, so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        """The whole calls so far."""
        return self._parser.calls

    async def feed(self, piece: Piece) -> list[AnswerEvent]:
        """Takes a piece and gives the events that it brings.

        Raises:
            EngineFault: the engine broke the grammar.
        """
        if self.done:
            return []
        self.usage, self.timings = piece.usage, piece.timings
        events = await self._events(self._parser.feed(piece.text))
        if self._plan.top_logprobs is not None and (self._form.document or self._parser.text_so_far):
            self._logprobs += piece.logprobs
        if self._closing is not None and self._closing.closed:
            self.done = self.closed_early = True
            self.usage = replace(self.usage, output_tokens=self._closing.tokens)
        self.done = self.done or self._stop.stopped or self._parser.repeated
        return self._give(events)

    async def finish(self, completed: Completed | None = None) -> list[AnswerEvent]:
        """Ends the answer and gives what was held back.

        Args:
            completed: None when the answer was done before its completion.

        Raises:
            EngineFault: the engine broke the grammar.
        """
        cut = False
        if completed is not None and not self.done:
            self.usage, self.timings = completed.usage, completed.timings
            cut = completed.finish_reason is FinishReason.LENGTH and not self._complete()
        events = await self._events(self._parser.finish(cut=cut))
        given = self._give([*events, *self._grown(self._stop.finish())])
        if cut:
            self.finish_reason = FinishReason.LENGTH
            # Half a document that has not been validated is not told.
            return given
        if missed := self._missed():
            self.invalid = OutputInvalid(document=self._said(), violations=missed, usage=self.usage)
            return []
        if self._parser.calls:
            self.finish_reason = FinishReason.TOOL_CALLS
        held, self._held = self._held, []
        return _merged([*held, *given])

    def _complete(self) -> bool:
        """Whether the document had just ended when its limit came."""
        return self._closing is not None and self._closing.tokens > 0 and self._closing.complete

    async def _events(self, parsed: list[ParsedEvent]) -> list[ParsedEvent]:
        events: list[ParsedEvent] = []
        for event in parsed:
            if not isinstance(event, TextDelta):
                events.append(event)
            elif self._closing is not None:
                grown = await self._closing.feed(event.text, tokens=self.usage.output_tokens)
                events += self._grown(grown)
            else:
                events += self._grown(self._stop.feed(event.text))
        return events

    def _grown(self, text: str) -> list[ParsedEvent]:
        if not text:
            return []
        self._texts.append(text)
        return [TextDelta(text)]

    def _give(self, events: list[ParsedEvent]) -> list[AnswerEvent]:
        given: list[AnswerEvent] = list(events)
        if self._logprobs:
            most = self._plan.top_logprobs or 0
            given.append(
                LogprobsDelta(tuple(replace(token, top=token.top[:most]) for token in self._logprobs))
            )
            self._logprobs = []
        if not self._holds_back():
            return given
        self._held += given
        return []

    def _holds_back(self) -> bool:
        # Text beside tools whose calls are held back is safe: no call can follow it.
        return self._form.held and (self._form.document is not None or not self._parser.text_so_far)

    def _missed(self) -> tuple[str, ...]:
        document = self._form.document
        if document is None or self._parser.calls:
            return tuple(self._parser.missed)
        missed = violations(document, self.text)
        if missed and document.exact:
            raise EngineFault(f"The engine broke the grammar of the answer: {missed[0]}")
        if not missed:
            self.closed_early = self.closed_early or hits_bound(document, self.text)
        return missed

    def _said(self) -> str:
        return self.text or "\n".join(f"{call.name}({call.arguments_json})" for call in self._parser.calls)


async def write_answers(
    server: LlamaServer, completion: Completion, answers: Sequence[Answer]
) -> AsyncGenerator[tuple[int, EngineEvent]]:
    """Generates the samples of a completion; gives each event with the number of its answer.

    Raises:
        EngineError: as `LlamaServer.complete`, `Answer.feed` and `Answer.finish` do.
    """
    running = dict(enumerate(answers))
    async with aclosing(server.complete(completion)) as chunks:
        async for chunk in chunks:
            if isinstance(chunk, PromptProgress):
                yield 0, chunk
                continue
            number = chunk.sample
            answer = running.get(number)
            if answer is None:
                continue
            events = await (answer.finish(chunk) if isinstance(chunk, Completed) else answer.feed(chunk))
            if answer.done:
                events += await answer.finish()
            if answer.done or isinstance(chunk, Completed):
                del running[number]
            for event in events:
                yield number, event
            if not running:
                return


def _merged(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """Joins neighbouring texts: what was held back is one delta."""
    merged: list[AnswerEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        else:
            merged.append(event)
    return merged
