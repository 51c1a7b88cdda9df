"""A turn by majority: samples are drawn in waves of the free slots, and vote."""

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from runtime.events import EngineEvent, PromptProgress, TurnEnd
from runtime.reasoning.consensus import Sample, decide
from runtime.types import FinishReason, Priority, Timings, Usage
from runtime.worker.plan import TurnPlan
from runtime.worker.queue import SlotQueue
from runtime.worker.turn import TurnWriter, WrittenTurn

_SEEDS = 2**32 - 1


async def write_by_majority(
    writer: TurnWriter, queue: SlotQueue, plan: TurnPlan, *, samples: int, priority: Priority
) -> AsyncGenerator[EngineEvent]:
    """Draws samples of a turn and gives the events of the one that speaks for the majority.

    Samples that a limit cut, and documents that miss their schema, do not vote. Between waves the
    slots are free for others.

    Raises:
        OutputInvalid: no sample satisfies the schema.
        EngineError: as `TurnWriter.write_samples` does.
    """
    written: list[WrittenTurn] = []
    timings = Timings()
    while len(written) < samples:
        arrived = time.perf_counter()
        async with queue.slots(priority, most=samples - len(written)) as held:
            queue_s = time.perf_counter() - arrived
            wave = await writer.write_samples(_reseeded(plan, len(written)), held)
        written += wave
        # Samples of a wave are written at the same time.
        timings += replace(max((turn.timings for turn in wave), key=_busy_s), queue_s=queue_s)
        # Nothing can be told of the answer yet, but that it is being worked at.
        yield PromptProgress(tokens_read=len(plan.prompt), tokens=len(plan.prompt))
    usage = _usage(written)
    decision = decide([_sample(turn, plan) for turn in written])
    winner = written[decision.winner] if decision.votes else _best(written)
    if winner.answer.invalid is not None:
        raise winner.answer.invalid.after(usage)
    for event in winner.events:
        yield event
    yield TurnEnd(
        winner.answer.finish_reason,
        usage,
        timings,
        votes=decision.votes,
        closed_early=winner.answer.closed_early,
    )


def _reseeded(plan: TurnPlan, drawn: int) -> TurnPlan:
    """Another wave draws other samples; llama.cpp sees to it within a wave."""
    seed = plan.sampling.seed
    if seed is None:
        return plan
    return replace(plan, sampling=replace(plan.sampling, seed=(seed + drawn) % _SEEDS))


def _sample(turn: WrittenTurn, plan: TurnPlan) -> Sample:
    answer = turn.answer
    if answer.invalid is not None or answer.finish_reason is FinishReason.LENGTH:
        return Sample(text="")
    return Sample(
        text=answer.text, tool_calls=tuple(answer.tool_calls), document=plan.form.document is not None
    )


def _best(written: Sequence[WrittenTurn]) -> WrittenTurn:
    """The first that is not invalid, else the first: nobody voted."""
    return next((turn for turn in written if turn.answer.invalid is None), written[0])


def _busy_s(timings: Timings) -> float:
    return timings.prompt_s + timings.generate_s


def _usage(written: Sequence[WrittenTurn]) -> Usage:
    """The prompt counts once, as it was found first; what was generated counts wholly."""
    first = written[0].usage
    return replace(
        first,
        output_tokens=sum(turn.usage.output_tokens for turn in written),
        reasoning_output_tokens=sum(turn.usage.reasoning_output_tokens for turn in written),
    )
