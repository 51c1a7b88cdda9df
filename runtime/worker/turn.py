"""One turn on a loaded model: its thought, then its calls or its answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from runtime.events import EngineEvent, PromptProgress, ReasoningDelta, TurnEnd
from runtime.output.ending import DocumentMatcher
from runtime.reasoning.effort import ThoughtBudget
from runtime.types import Timings, Usage
from runtime.worker.answer import Answer, write_answers
from runtime.worker.closing import Closing
from runtime.worker.completion import Completion, Piece
from runtime.worker.llama_cpp import LlamaServer
from runtime.worker.plan import TurnPlan
from runtime.worker.thinking import Thought, think
from runtime.worker.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTurn:
    """One sample of a turn, whole."""

    events: Sequence[EngineEvent]
    """Without an end."""
    answer: Answer
    usage: Usage
    timings: Timings


class TurnWriter:
    """Writes turns, in slots that the caller holds."""

    def __init__(self, server: LlamaServer, tokenizer: Tokenizer, *, context_tokens: int) -> None:
        self._server = server
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens

    async def write(self, plan: TurnPlan) -> AsyncGenerator[EngineEvent]:
        """Streams one sample; `TurnEnd` comes last.

        Raises:
            OutputInvalid: nothing of the answer was given.
            EngineError: as `LlamaServer.complete` does, or the engine broke the grammar.
        """
        thought: Thought | None = None
        if plan.thought is not None:
            async with aclosing(think(self._server, self._tokenizer, plan, plan.thought)) as thinking:
                async for item in thinking:
                    match item:
                        case PromptProgress():
                            yield item
                        case Piece(text=text):
                            yield ReasoningDelta(text)
                        case Thought():
                            thought = item
        prompt, left = self._behind(plan, thought)
        answer = await self._answer(plan, left)
        completion = _completion(plan, prompt, left)
        async with aclosing(write_answers(self._server, completion, [answer])) as events:
            async for _, event in events:
                # The prompt was read before the thought; what is read behind it is a few tokens.
                if thought is None or not isinstance(event, PromptProgress):
                    yield event
        if answer.invalid is not None:
            raise answer.invalid.after(_usage(thought, answer))
        yield TurnEnd(
            answer.finish_reason,
            _usage(thought, answer),
            _timings(thought, answer),
            closed_early=answer.closed_early,
        )

    async def write_samples(self, plan: TurnPlan, samples: int) -> list[WrittenTurn]:
        """Writes several samples that share the prompt; a slot is held for each.

        Raises:
            EngineError: as `LlamaServer.complete` does, or the engine broke the grammar.
        """
        if plan.thought is None:
            return await self._write_together(plan, samples)
        thoughts = await self._think_together(plan, plan.thought, samples)
        async with asyncio.TaskGroup() as tasks:
            written = [tasks.create_task(self._write_behind(plan, thought)) for thought in thoughts]
        return [task.result() for task in written]

    async def _think_together(self, plan: TurnPlan, budget: ThoughtBudget, samples: int) -> list[Thought]:
        thoughts: list[Thought] = []
        thinking = think(self._server, self._tokenizer, plan, budget, samples=samples)
        async with aclosing(thinking) as items:
            async for item in items:
                if isinstance(item, Thought):
                    thoughts.append(item)
        return thoughts

    async def _write_behind(self, plan: TurnPlan, thought: Thought) -> WrittenTurn:
        prompt, left = self._behind(plan, thought)
        answer = await self._answer(plan, left)
        (written,) = await self._drain(_completion(plan, prompt, left), [answer], [thought])
        return written

    async def _write_together(self, plan: TurnPlan, samples: int) -> list[WrittenTurn]:
        answers = [await self._answer(plan, plan.max_tokens) for _ in range(samples)]
        completion = replace(_completion(plan, plan.prompt, plan.max_tokens), samples=samples)
        return await self._drain(completion, answers, [None] * samples)

    async def _drain(
        self, completion: Completion, answers: Sequence[Answer], thoughts: Sequence[Thought | None]
    ) -> list[WrittenTurn]:
        events: list[list[EngineEvent]] = [
            [ReasoningDelta(thought.text)] if thought and thought.text else [] for thought in thoughts
        ]
        async with aclosing(write_answers(self._server, completion, answers)) as written:
            async for number, event in written:
                if not isinstance(event, PromptProgress):
                    events[number].append(event)
        return [
            WrittenTurn(
                events=events[number],
                answer=answer,
                usage=_usage(thoughts[number], answer),
                timings=_timings(thoughts[number], answer),
            )
            for number, answer in enumerate(answers)
        ]

    def _behind(self, plan: TurnPlan, thought: Thought | None) -> tuple[Sequence[int], int]:
        """The prompt of the answer, and the tokens that it may have."""
        if thought is None:
            return plan.prompt, plan.max_tokens
        left = min(plan.max_tokens - thought.usage.output_tokens, self._context_tokens - len(thought.prompt))
        return thought.prompt, max(1, left)

    async def _answer(self, plan: TurnPlan, limit_tokens: int) -> Answer:
        document = plan.form.document
        if document is None:
            return Answer(plan, None)
        grammar = f"%llguidance {{}}\nstart: %json {document.grammar_json}"
        matcher = await asyncio.to_thread(DocumentMatcher, grammar)
        return Answer(plan, Closing(matcher, self._tokenizer, limit_tokens=limit_tokens))


def _completion(plan: TurnPlan, prompt: Sequence[int], max_tokens: int) -> Completion:
    return Completion(
        prompt=prompt,
        max_tokens=max_tokens,
        grammar=plan.grammar,
        sampling=plan.sampling,
        top_logprobs=plan.top_logprobs,
    )


def _usage(thought: Thought | None, answer: Answer) -> Usage:
    if thought is None:
        return answer.usage
    # The prompt is counted once, as it was found: not again with the thought in it.
    return thought.usage + Usage(output_tokens=answer.usage.output_tokens)


def _timings(thought: Thought | None, answer: Answer) -> Timings:
    return answer.timings if thought is None else thought.timings + answer.timings
