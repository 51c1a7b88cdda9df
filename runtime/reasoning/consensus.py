"""The majority of several answers to one prompt.

Self-consistency: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
2022, arXiv 2203.11171: sample several thoughts, and take the answer that most of them come to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from runtime.reasoning.final_answer import canonical_number, final_answer
from runtime.types import ToolCall, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One finished answer, without its thought."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    document: bool = False
    """Whether the text is a JSON document that a response format asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which sample is the answer, and how the vote went."""

    winner: int
    """Index of the first sample that gave the answer with most votes; 0 when no sample gave any."""
    votes: tuple[Vote, ...]
    """Most first; of equals the one that was given first."""


def ballot(sample: Sample) -> str | None:
    """Writes what a sample says in a form in which samples that say the same are equal.

    Tool calls count by name and by the values of their arguments, in their order, whatever text stands
    before them; documents by value, so the order of keys and the spelling of numbers do not matter; text
    by its final answer.

    Returns:
        None when it says nothing that could be compared, such as a document that was cut: it abstains.
    """
    if sample.tool_calls:
        return _calls_ballot(sample.tool_calls)
    if sample.document:
        return _canonical_json(sample.text)
    return final_answer(sample.text)


def decide(samples: Sequence[Sample]) -> Decision:
    """Counts the ballots.

    Args:
        samples: at least one.
    """
    if not samples:
        raise ValueError("samples: there are none to decide between.")
    first_given: dict[str, int] = {}
    counts: dict[str, int] = {}
    for index, sample in enumerate(samples):
        if (answer := ballot(sample)) is not None:
            first_given.setdefault(answer, index)
            counts[answer] = counts.get(answer, 0) + 1
    # Sorting is stable: of equals the one that was given first stays first.
    ranked = sorted(counts, key=lambda answer: -counts[answer])
    return Decision(
        winner=first_given[ranked[0]] if ranked else 0,
        votes=tuple(Vote(answer=answer, count=counts[answer]) for answer in ranked),
    )


def _calls_ballot(calls: Sequence[ToolCall]) -> str | None:
    written = []
    for call in calls:
        arguments = _canonical_json(call.arguments_json)
        if arguments is None:
            return None
        written.append(f"{call.name}({arguments})")
    return ", ".join(written)


def _canonical_json(text: str) -> str | None:
    """Writes a JSON text so that equal values are equal texts; None when it is none."""
    try:
        value = json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_refuse_constant)
        return _written(value)
    # Nested deeper, or an exponent larger, than Python can follow: no sane document, nothing to compare.
    except (ValueError, RecursionError, ArithmeticError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON.")


def _written(value: Any) -> str:
    match value:
        case dict():
            members = (f"{_written(key)}:{_written(value[key])}" for key in sorted(value))
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(_written, value)) + "]"
        case Decimal():
            return canonical_number(value)
        case _:
            return json.dumps(value, ensure_ascii=False)
