"""The thought of a turn: a free continuation up to its tag or its budget, in the sequence of the answer.

The answer is asked for in a second completion, whose prompt is the first one's with the thought behind it:
all but its last tokens are in the cache. One grammar for both would save that step, but could not see
where a thought was cut, and no text in a grammar matches the special tokens of models that have them for
their tags. So a thought is cut to the token, whatever the model.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from runtime.chat.render import Piece as PromptPiece
from runtime.chat.transcript import THOUGHT_CLOSE
from runtime.events import PromptProgress
from runtime.reasoning.effort import ThoughtBudget
from runtime.types import Timings, Usage
from runtime.worker.completion import Completed, Completion, Piece
from runtime.worker.llama_cpp import LlamaServer
from runtime.worker.plan import TurnPlan
from runtime.worker.tokenizer import Tokenizer

_CLOSING_TAG = THOUGHT_CLOSE.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """A finished thought."""

    sample: int
    prompt: Sequence[int]
    """The turn's prompt with the thought behind it: the model answers next."""
    text: str
    usage: Usage
    """All its output tokens are reasoning tokens."""
    timings: Timings


async def think(
    server: LlamaServer, tokenizer: Tokenizer, plan: TurnPlan, budget: ThoughtBudget, *, samples: int = 1
) -> AsyncGenerator[PromptProgress | Piece | Thought]:
    """Streams thoughts; a `Thought` is the last of each sample.

    Raises:
        EngineError: as `LlamaServer.complete` does.
    """
    completion = Completion(
        prompt=plan.prompt,
        max_tokens=budget.most_tokens,
        grammar=_at_least(budget.least_characters),
        samples=samples,
        stop=(_CLOSING_TAG,),
        sampling=plan.sampling,
    )
    texts = [""] * samples
    async with aclosing(server.complete(completion)) as chunks:
        async for chunk in chunks:
            match chunk:
                case PromptProgress():
                    yield chunk
                case Piece(sample=sample, text=text):
                    texts[sample] += text
                    yield chunk
                case Completed(sample=sample, usage=usage, timings=timings):
                    tail = [
                        PromptPiece(texts[sample].rstrip(), special=False),
                        PromptPiece(THOUGHT_CLOSE, special=True),
                    ]
                    yield Thought(
                        sample=sample,
                        prompt=[
                            *plan.prompt,
                            *await tokenizer.encode([piece for piece in tail if piece.text]),
                        ],
                        text=texts[sample],
                        usage=Usage(
                            input_tokens=usage.input_tokens,
                            cached_input_tokens=usage.cached_input_tokens,
                            output_tokens=usage.output_tokens,
                            reasoning_output_tokens=usage.output_tokens,
                        ),
                        timings=timings,
                    )


def _at_least(characters: int) -> str | None:
    """A grammar for thoughts that do not close before so many characters."""
    if not characters:
        return None
    return f"%llguidance {{}}\nstart: /[^<]{{{characters}}}(?s:.*)/"
