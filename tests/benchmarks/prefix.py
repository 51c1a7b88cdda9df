"""What the length of a thread costs: time to first token of its later turns at equal new tokens.

    python -m tests.benchmarks.prefix [--model NAME | --model-path FILE] [--turns 2,10,30] [--samples 9]

Threads stand at each of the turns, and one after the other asks its next question, of the same
length each; so the figures of one sample are seconds apart and their ratios hold on a busy machine.
One line of JSON a case and turn, and one a case:

alone        A slot for each thread: its history is where it was left.
interleaved  Five threads on two slots: a history is put back from the cache in memory.
uncached     In both cases: the same prompt, but for its first words, which nobody has asked before.

`ttft_30_over_2` is the last of the turns against the first: 1 would be history for free. What it is above 1
is attention, which looks back at every token of the history for each new one, cached or not: a small part of
what a large model computes, half of it for one of 135M parameters at 3,000 tokens.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click

from runtime.engines.base import Engine
from runtime.types import ChatMessage, ChatRole, GenerateRequest, Priority, Sampling
from tests.benchmarks.measure import milliseconds, print_case
from tests.benchmarks.model import Answer, BenchmarkModel, ask, model_options, start_engine

CASES = ("alone", "interleaved")
INTERLEAVED_THREADS = 5
INTERLEAVED_SLOTS = 2
UNCACHED_SAMPLES = 2
ANSWER_WORDS = 8
# One token each in any vocabulary, so that prompts of equal words are of equal tokens.
WORDS = ("time", "people", "year", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")
TURN_OVERHEAD_TOKENS = 16
"""What a template writes around a question and an answer, at the most."""


class Conversation:
    """A thread that stands before a turn, and asks its question ever anew."""

    def __init__(self, *, turn: int, words: int, seed: int) -> None:
        """Makes up a history of `turn - 1` questions of `words` words, and their answers."""
        self.turn = turn
        self._words = words
        self._random = random.Random(seed)
        self._history: list[ChatMessage] = []
        for _ in range(turn - 1):
            self._history.append(self._said(ChatRole.USER, words))
            self._history.append(self._said(ChatRole.ASSISTANT, ANSWER_WORDS))
        self._opening = self._system()

    def next_turn(self) -> GenerateRequest:
        """The same history with a question that was not asked yet."""
        return self._request(self._opening)

    def uncached_turn(self) -> GenerateRequest:
        """The same with other first words, so that nothing of it was read before."""
        return self._request(self._system())

    def _request(self, opening: ChatMessage) -> GenerateRequest:
        return GenerateRequest(
            messages=(opening, *self._history, self._said(ChatRole.USER, self._words)),
            # More than one: the first may hold but half a character.
            max_output_tokens=4,
            sampling=Sampling(temperature=0),
            priority=Priority.BATCH,
        )

    def _system(self) -> ChatMessage:
        return self._said(ChatRole.SYSTEM, 12)

    def _said(self, role: ChatRole, words: int) -> ChatMessage:
        return ChatMessage(role=role, content=" ".join(self._random.choices(WORDS, k=words)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTimes:
    """What one turn took, over all samples."""

    cached: list[Answer] = field(default_factory=list)
    uncached: list[Answer] = field(default_factory=list)


async def measure(
    engine: Engine, conversations: Sequence[Conversation], *, samples: int
) -> dict[int, TurnTimes]:
    """Times each conversation's turn, by turns."""
    times = {conversation.turn: TurnTimes() for conversation in conversations}
    # Twice: where slots are few, the second round finds what the first one was pushed out to.
    for _ in range(2):
        for conversation in conversations:
            await ask(engine, conversation.next_turn())
    for _ in range(samples):
        for conversation in conversations:
            times[conversation.turn].cached.append(await ask(engine, conversation.next_turn()))
    # Fewer: each reads a whole history.
    for _ in range(min(samples, UNCACHED_SAMPLES)):
        for turn in times:
            conversation = next(one for one in conversations if one.turn == turn)
            times[turn].uncached.append(await ask(engine, conversation.uncached_turn()))
    return times


def report(case: str, times: dict[int, TurnTimes]) -> None:
    """Prints a line a turn, and one for the ratio between the last and the first."""
    for turn, turn_times in times.items():
        usages = [answer.end.usage for answer in turn_times.cached]
        first_s = median(answer.first_s for answer in turn_times.cached)
        uncached_s = median(answer.first_s for answer in turn_times.uncached)
        print_case(
            "prefix",
            case=case,
            turn=turn,
            samples=len(turn_times.cached),
            prompt_tokens=median(usage.input_tokens for usage in usages),
            new_tokens=median(usage.input_tokens - usage.cached_input_tokens for usage in usages),
            uncached_new_tokens=median(
                answer.end.usage.input_tokens - answer.end.usage.cached_input_tokens
                for answer in turn_times.uncached
            ),
            ttft_ms=milliseconds(first_s),
            # The rest is ours: rendering, tokenising, and the way there and back.
            prompt_ms=milliseconds(median(answer.end.timings.prompt_s for answer in turn_times.cached)),
            uncached_ttft_ms=milliseconds(uncached_s),
            uncached_over_cached=round(uncached_s / first_s, 2),
        )
    first, last = min(times), max(times)
    pairs = list(zip(times[first].cached, times[last].cached, strict=False))
    ratios = sorted(later.first_s / earlier.first_s for earlier, later in pairs)
    print_case(
        "prefix_ratio",
        case=case,
        **{f"ttft_{last}_over_{first}": round(median(ratios), 3)},
        least=round(ratios[0], 3),
        most=round(ratios[-1], 3),
    )


async def run(
    model: BenchmarkModel, cases: Sequence[str], turns: Sequence[int], words: int, samples: int
) -> None:
    """Measures the cases, each with an engine of its own."""
    tokens_a_turn = words + ANSWER_WORDS + TURN_OVERHEAD_TOKENS
    context_tokens = (max(turns) + 1) * tokens_a_turn
    for case in cases:
        if case == "alone":
            at, slots = list(turns), len(turns)
        else:
            at = list(itertools.islice(itertools.cycle(turns), max(INTERLEAVED_THREADS, len(turns))))
            slots = INTERLEAVED_SLOTS
        conversations = [Conversation(turn=turn, words=words, seed=seed) for seed, turn in enumerate(at)]
        async with start_engine(model, slots=slots, context_tokens=context_tokens) as engine:
            report(case, await measure(engine, conversations, samples=samples))


@click.command()
@model_options
@click.option("--turns", default="2,10,30", show_default=True, help="Turns that are timed, rising, from 2.")
@click.option("--words", default=16, show_default=True, help="New words a turn.")
@click.option("--samples", default=9, show_default=True, help="Times that each turn is timed.")
@click.option("--cases", default=",".join(CASES), show_default=True, help="Which to measure.")
def main(model: str, model_path: Path | None, turns: str, words: int, samples: int, cases: str) -> None:
    """Measure what the length of a thread costs."""
    chosen = cases.split(",")
    if unknown := set(chosen).difference(CASES):
        raise click.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--cases")
    asyncio.run(run(BenchmarkModel.find(model, model_path), chosen, json.loads(f"[{turns}]"), words, samples))


if __name__ == "__main__":
    main()
