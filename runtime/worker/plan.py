"""What is to be generated, once the prompt has been read and the schemas compiled."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.chat.turn_form import TurnForm
from runtime.reasoning.effort import ThoughtBudget
from runtime.types import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlan:
    """One turn: a thought if there is a budget for it, then what the form lets through."""

    prompt: Sequence[int]
    """Token ids; they end where the model thinks, or answers if it does not think."""
    thought: ThoughtBudget | None
    form: TurnForm
    grammar: str | None
    """The form's; known to compile."""
    max_tokens: int
    """Of thought and answer together; at least 1, and no more than the context has left."""
    sampling: Sampling
    stop: tuple[str, ...]
    top_logprobs: int | None
