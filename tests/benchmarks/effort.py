"""What reasoning is worth: accuracy, tokens and seconds on GSM8K by effort and by number of samples.

    python -m tests.benchmarks.effort [--data DIR] [--model NAME] [--limit 24] [--state FILE]

The answer is a document of one number, so whatever a model thinks it thinks in its thought, and an effort is
nothing but the budget of that. All cases sample with one temperature and one seed a problem, so that one
sample and a vote of several differ in nothing else. One line of JSON a case:

effort       Accuracy with its 95 % interval, mean tokens of all samples together, mean seconds.
effort_order The highest of the efforts against low: whether it is not below it beyond the interval.

With a state file a run that was ended goes on where it was, and `--minutes` ends one; what was measured with
other settings is kept beside.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import click

from runtime.engines.base import Engine
from runtime.errors import OutputInvalid
from runtime.reasoning.final_answer import final_answer
from runtime.types import ChatMessage, ChatRole, Effort, GenerateRequest, JsonSchemaFormat, Priority, Sampling
from tests.benchmarks.measure import print_case, wilson_interval
from tests.benchmarks.model import DATA_DIR, BenchmarkModel, ask, model_options, start_engine

CASES = "none:1,low:1,medium:1,high:1,low:4,low:8"
SLOTS = 4
CONTEXT_TOKENS = 4_096
ANSWER = JsonSchemaFormat(
    name="answer",
    schema_json=json.dumps(
        {
            "type": "object",
            "properties": {"answer": {"type": "number"}},
            "required": ["answer"],
            "additionalProperties": False,
        }
    ),
    strict=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How a problem is put."""

    effort: Effort
    samples: int
    """1 is no vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A word problem and the number that solves it."""

    id: int
    """Line of the data, from 0."""
    question: str
    solution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One problem, put once: a line of the state file."""

    model: str
    temperature: float
    seed: int
    problem: int
    effort: str
    samples: int
    right: bool
    answer: str
    output_tokens: int
    reasoning_tokens: int
    seconds: float

    def settles(self, model: str, temperature: float, seed: int, problem: Problem, case: Case) -> bool:
        """Whether this is that problem, put in that way."""
        return (self.model, self.temperature, self.seed) == (model, temperature, seed) and (
            self.problem == problem.id and (self.effort, self.samples) == (case.effort, case.samples)
        )


class State:
    """Outcomes, kept in a file where one is named."""

    def __init__(self, path: Path | None) -> None:
        """Reads what is there; a last line that was cut counts as not written."""
        self._path = path
        self.outcomes: list[Outcome] = []
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            path.write_text(whole, encoding="utf-8")
            self.outcomes = [Outcome(**json.loads(line)) for line in whole.splitlines()]

    def add(self, outcome: Outcome) -> None:
        """Keeps an outcome."""
        self.outcomes.append(outcome)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                print(json.dumps(asdict(outcome)), file=file)


def read_problems(path: Path, limit: int) -> list[Problem]:
    """Reads the first problems of a JSON lines file of GSM8K."""
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for _, line in zip(range(limit), file, strict=False)]
    return [
        Problem(id=index, question=line["question"], solution=final_answer(line["answer"]) or "")
        for index, line in enumerate(lines)
    ]


def parse_cases(text: str) -> list[Case]:
    """Reads `EFFORT:SAMPLES,…`. Raises `ValueError`."""
    pairs = (case.split(":") for case in text.split(","))
    return [Case(effort=Effort(effort), samples=int(samples)) for effort, samples in pairs]


async def solve(engine: Engine, problem: Problem, case: Case, *, temperature: float, seed: int) -> Outcome:
    """Puts a problem once."""
    request = GenerateRequest(
        messages=(
            ChatMessage(role=ChatRole.SYSTEM, content="Solve the problem. Give the answer as a number."),
            ChatMessage(role=ChatRole.USER, content=problem.question),
        ),
        response_format=ANSWER,
        effort=case.effort,
        consensus=case.samples,
        sampling=Sampling(temperature=temperature, seed=seed + problem.id),
        priority=Priority.BATCH,
    )
    start = time.perf_counter()
    try:
        answer = await ask(engine, request)
        text, usage = answer.text, answer.end.usage
    # A wrong answer, not a broken benchmark: what the grammar cannot hold is no part of this schema.
    except OutputInvalid as error:
        text, usage = error.document, error.usage
    number = _number(text)
    return Outcome(
        model=engine.model.name,
        temperature=temperature,
        seed=seed,
        problem=problem.id,
        effort=case.effort.value,
        samples=case.samples,
        right=number == problem.solution,
        answer=number or text,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_output_tokens,
        seconds=round(time.perf_counter() - start, 3),
    )


def _number(document: str) -> str | None:
    try:
        return final_answer(str(json.loads(document)["answer"]))
    except (ValueError, KeyError, TypeError):
        return None


async def measure(
    model: BenchmarkModel,
    problems: Sequence[Problem],
    cases: Sequence[Case],
    state: State,
    *,
    temperature: float,
    seed: int,
    minutes: float | None,
) -> None:
    """Puts what was not put yet: problem by problem, so that an ended run compares like with like."""
    deadline = None if minutes is None else time.monotonic() + minutes * 60
    left = [
        (problem, case)
        for problem in problems
        for case in cases
        if not any(done.settles(model.name, temperature, seed, problem, case) for done in state.outcomes)
    ]
    if not left:
        return
    async with start_engine(model, slots=SLOTS, context_tokens=CONTEXT_TOKENS) as engine:
        for problem, case in left:
            if deadline is not None and time.monotonic() > deadline:
                return
            state.add(await solve(engine, problem, case, temperature=temperature, seed=seed))


def report(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    """Prints a line a case, over the problems that all cases were put."""
    by_case = {case: list(_of(case, outcomes)) for case in cases}
    common = set.intersection(*({outcome.problem for outcome in some} for some in by_case.values()))
    shares: dict[Case, tuple[float, float]] = {}
    for case, some in by_case.items():
        put = [outcome for outcome in some if outcome.problem in common]
        if not put:
            continue
        right = sum(outcome.right for outcome in put)
        low, high = wilson_interval(right, len(put))
        shares[case] = right / len(put), low
        print_case(
            "effort",
            effort=case.effort.value,
            consensus=case.samples,
            problems=len(put),
            accuracy=round(right / len(put), 4),
            interval_low=round(low, 4),
            interval_high=round(high, 4),
            output_tokens=round(mean(outcome.output_tokens for outcome in put), 1),
            reasoning_tokens=round(mean(outcome.reasoning_tokens for outcome in put), 1),
            seconds=round(mean(outcome.seconds for outcome in put), 2),
        )
    high_case, low_case = Case(effort=Effort.HIGH, samples=1), Case(effort=Effort.LOW, samples=1)
    if high_case in shares and low_case in shares:
        print_case(
            "effort_order",
            high_minus_low=round(shares[high_case][0] - shares[low_case][0], 4),
            high_not_below_low=shares[high_case][0] >= shares[low_case][1],
        )


def _of(case: Case, outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    return (one for one in outcomes if (one.effort, one.samples) == (case.effort, case.samples))


@click.command()
@model_options
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    default=DATA_DIR / "gsm8k",
    show_default="beside the repository",
    help="Directory with a .jsonl file of GSM8K.",
)
@click.option("--limit", default=24, show_default=True, help="Problems, from the first on.")
@click.option("--cases", default=CASES, show_default=True, help="EFFORT:SAMPLES, separated by commas.")
@click.option("--temperature", default=0.6, show_default=True, help="Of all cases.")
@click.option("--seed", default=1, show_default=True, help="Of the first problem; it rises by one a problem.")
@click.option("--state", type=click.Path(dir_okay=False, path_type=Path), help="JSON lines to resume from.")
@click.option("--minutes", type=float, help="After which no problem is begun.")
def main(
    model: str,
    model_path: Path | None,
    data: Path,
    limit: int,
    cases: str,
    temperature: float,
    seed: int,
    state: Path | None,
    minutes: float | None,
) -> None:
    """Measure what reasoning is worth."""
    try:
        chosen_cases = parse_cases(cases)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--cases") from error
    chosen = BenchmarkModel.find(model, model_path)
    problems = read_problems(next(iter(sorted(data.glob("*.jsonl")))), limit)
    known = State(state)
    asyncio.run(
        measure(chosen, problems, chosen_cases, known, temperature=temperature, seed=seed, minutes=minutes)
    )
    report(
        chosen_cases,
        [
            outcome
            for outcome in known.outcomes
            if (outcome.model, outcome.temperature, outcome.seed) == (chosen.name, temperature, seed)
            and outcome.problem < len(problems)
        ],
    )


if __name__ == "__main__":
    main()
