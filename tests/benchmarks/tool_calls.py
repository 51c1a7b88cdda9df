"""Tool calls on the Berkeley Function Calling Leaderboard: valid, the right function, the right arguments.

    python -m tests.benchmarks.tool_calls [--data DIR] [--model NAME | --model-path FILE] [--limit 40]

The same problems are put to our engine and to llama.cpp's own chat endpoint with the same model, both
greedily and one at a time. One line of JSON a case:

tool_calls   By category, for those that need a call together (`calls`), and for all. `valid_share` is that of
             the calls made: of a tool that was offered, with arguments that satisfy its schema. A call that
             the limit of tokens cut (`cut_calls`) was not made, by the finish reason of its turn. `ratio` is
             right arguments against llama.cpp's; where that has none, against one: at least that.
forced       With tool_choice required, and with the right function named: problems on which calls were made,
             and that all of them were valid and of that function.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import click
import jsonschema

from runtime.engines.base import Engine
from runtime.types import (
    ChatMessage,
    ChatRole,
    GenerateRequest,
    NamedToolChoice,
    Priority,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from tests.benchmarks.bfcl import CATEGORIES, Call, Problem, read_problems, right_arguments, right_functions
from tests.benchmarks.measure import print_case
from tests.benchmarks.model import DATA_DIR, BenchmarkModel, ask, model_options, start_engine
from tests.benchmarks.native_tools import start_native

CONTEXT_TOKENS = 4_096

Told = Callable[[Problem, str, Sequence[ToolCall]], None]
"""Is told each answer: to which problem, asked how, and the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be said about the calls of one answer."""

    calls: int
    valid_calls: int
    right_functions: bool
    right_arguments: bool
    cut_calls: int = 0


def judge(calls: Sequence[ToolCall], problem: Problem) -> Verdict:
    """Judges an answer. A call that is not valid makes it wrong."""
    parsed = [call for call in (_parse(call, problem) for call in calls) if call is not None]
    whole = len(parsed) == len(calls)
    return Verdict(
        calls=len(calls),
        valid_calls=len(parsed),
        right_functions=whole and right_functions(parsed, problem),
        right_arguments=whole and right_arguments(parsed, problem),
    )


def _parse(call: ToolCall, problem: Problem) -> Call | None:
    """Reads a call; None when it is of no tool that was offered, or breaks its schema."""
    schemas = {tool.name: json.loads(tool.parameters_json) for tool in problem.tools}
    try:
        arguments = json.loads(call.arguments_json)
        jsonschema.validate(arguments, schemas[call.name])
    except (ValueError, KeyError, jsonschema.ValidationError):
        return None
    return Call(name=call.name, arguments=arguments)


async def ask_engine(
    engine: Engine, problems: Sequence[Problem], told: Told, *, most_tokens: int, forced: bool
) -> dict[str, list[Verdict]]:
    """Puts the problems to an engine, by each way of choosing tools."""
    verdicts: dict[str, list[Verdict]] = {"auto": [], "required": [], "named": []}
    for problem in problems:
        choices: dict[str, ToolChoice] = {"auto": ToolChoiceMode.AUTO}
        if forced:
            name = problem.expected[0].name if problem.expected else problem.tools[-1].name
            choices |= {"required": ToolChoiceMode.REQUIRED, "named": NamedToolChoice(name=name)}
        for way, choice in choices.items():
            answer = await ask(
                engine,
                GenerateRequest(
                    messages=(ChatMessage(role=ChatRole.USER, content=problem.question),),
                    tools=problem.tools,
                    tool_choice=choice,
                    max_output_tokens=most_tokens,
                    sampling=Sampling(temperature=0),
                    priority=Priority.BATCH,
                ),
            )
            told(problem, way, answer.tool_calls)
            named = isinstance(choice, NamedToolChoice)
            # A call of another function than the one that was named is as bad as an invalid one.
            allowed = [call for call in answer.tool_calls if not named or call.name == choice.name]
            verdict = judge(allowed, problem)
            verdicts[way].append(replace(verdict, calls=len(answer.tool_calls), cut_calls=answer.cut_calls))
    return verdicts


def ask_native(
    model: BenchmarkModel, problems: Sequence[Problem], told: Told, *, most_tokens: int
) -> list[Verdict]:
    """Puts the problems to llama.cpp's own chat endpoint."""
    verdicts = []
    with start_native(model, context_tokens=CONTEXT_TOKENS) as native:
        for problem in problems:
            calls = native.ask(problem.question, problem.tools, max_tokens=most_tokens)
            told(problem, "native", calls)
            verdicts.append(judge(calls, problem))
    return verdicts


def report(
    problems: Sequence[Problem], ours: Mapping[str, Sequence[Verdict]], native: Sequence[Verdict]
) -> None:
    """Prints the lines; those of the ways that were not asked are left out."""
    groups: dict[str, tuple[str, ...]] = {category: (category,) for category in CATEGORIES}
    groups |= {"calls": CATEGORIES[:-1], "all": CATEGORIES}
    for group, categories in groups.items():
        chosen = [index for index, problem in enumerate(problems) if problem.category in categories]
        if not chosen:
            continue
        figures = _shares([ours["auto"][index] for index in chosen])
        if native:
            theirs = _shares([native[index] for index in chosen])
            figures |= {f"native_{name}": share for name, share in theirs.items()}
            right, native_right = (
                sum(verdicts[index].right_arguments for index in chosen)
                for verdicts in (ours["auto"], native)
            )
            figures["ratio"] = round(right / max(1, native_right), 2)
        print_case("tool_calls", category=group, problems=len(chosen), **figures)
    for way in ("required", "named"):
        if verdicts := ours[way]:
            print_case(
                "forced",
                tool_choice=way,
                problems=len(verdicts),
                called_share=_share(verdict.calls + verdict.cut_calls > 0 for verdict in verdicts),
                valid_share=_valid_share(verdicts),
                cut_calls=sum(verdict.cut_calls for verdict in verdicts),
            )


def _shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    return {
        "valid_share": _valid_share(verdicts),
        "cut_calls": sum(verdict.cut_calls for verdict in verdicts),
        "right_functions": _share(verdict.right_functions for verdict in verdicts),
        "right_arguments": _share(verdict.right_arguments for verdict in verdicts),
    }


def _valid_share(verdicts: Sequence[Verdict]) -> float:
    calls = sum(verdict.calls for verdict in verdicts)
    return round(sum(verdict.valid_calls for verdict in verdicts) / calls, 4) if calls else 1.0


def _share(outcomes: Iterable[bool]) -> float:
    told = list(outcomes)
    return round(sum(told) / len(told), 4)


def _teller(details: TextIO | None) -> Told:
    def tell(problem: Problem, way: str, calls: Sequence[ToolCall]) -> None:
        if details is not None:
            written = [{"name": call.name, "arguments": call.arguments_json} for call in calls]
            verdict = judge(calls, problem)
            line = {"id": problem.id, "way": way, "right": verdict.right_arguments, "calls": written}
            print(json.dumps(line), file=details, flush=True)

    return tell


async def run(
    model: BenchmarkModel, problems: Sequence[Problem], told: Told, *, most_tokens: int, forced: bool
) -> dict[str, list[Verdict]]:
    """Puts the problems to an engine of our own."""
    async with start_engine(model, slots=1, context_tokens=CONTEXT_TOKENS) as engine:
        return await ask_engine(engine, problems, told, most_tokens=most_tokens, forced=forced)


@click.command()
@model_options
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=DATA_DIR / "bfcl",
    show_default="beside the repository",
    help="Directory with CATEGORY.jsonl and possible_answer/.",
)
@click.option("--limit", default=40, show_default=True, help="Problems, shared out to the categories.")
@click.option("--seed", default=1, show_default=True, help="Of the draw of problems.")
@click.option("--most-tokens", default=512, show_default=True, help="Of an answer.")
@click.option("--forced/--no-forced", default=True, help="Whether to ask with required and named too.")
@click.option("--native/--no-native", default=True, help="Whether to ask llama.cpp's own endpoint too.")
@click.option("--details", type=click.File("a"), help="File for a line of JSON an answer.")
def main(
    model: str,
    model_path: Path | None,
    data: Path,
    limit: int,
    seed: int,
    most_tokens: int,
    forced: bool,
    native: bool,
    details: TextIO | None,
) -> None:
    """Measure how right tool calls are."""
    chosen = BenchmarkModel.find(model, model_path)
    problems, told = read_problems(data, limit=limit, seed=seed), _teller(details)
    # One after the other: two models at a time would starve each other.
    ours = asyncio.run(run(chosen, problems, told, most_tokens=most_tokens, forced=forced))
    theirs = ask_native(chosen, problems, told, most_tokens=most_tokens) if native else []
    report(problems, ours, theirs)


if __name__ == "__main__":
    main()
