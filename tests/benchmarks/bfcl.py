"""The Berkeley Function Calling Leaderboard: its problems, and how it judges calls.

Data and rules are those of `bfcl-eval` 2026.3.23 (github.com/ShishirPatil/gorilla), whose `ast_checker`
compares calls with lists of possible answers.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.types import FunctionTool

CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
"""One call of one function, of one in several, several calls of one, and none at all."""

_JSON_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_STRING_NOISE = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call whose arguments are a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question, the functions that may be called, and the calls that answer it."""

    id: str
    category: str
    question: str
    tools: tuple[FunctionTool, ...]
    expected: tuple[Call, ...]
    """Arguments are lists of values of which each will do; the value "" stands for leaving it out."""


def read_problems(directory: Path, *, limit: int, seed: int) -> list[Problem]:
    """Draws problems, as many of each category as of the next.

    Args:
        directory: holds `CATEGORY.jsonl` and `possible_answer/CATEGORY.jsonl`.
        limit: problems in all.
        seed: of the draw; the same seed is the same problems.
    """
    shuffled = []
    for category in CATEGORIES:
        problems = _read_category(directory, category)
        random.Random(seed).shuffle(problems)
        shuffled.append(problems)
    by_turns = [problem for row in zip(*shuffled, strict=False) for problem in row]
    return by_turns[:limit]


def _read_category(directory: Path, category: str) -> list[Problem]:
    answers_path = directory / "possible_answer" / f"{category}.jsonl"
    answers = {line["id"]: line["ground_truth"] for line in _read_lines(answers_path)}
    return [
        Problem(
            id=line["id"],
            category=category,
            question="\n\n".join(message["content"] for message in line["question"][0]),
            tools=tuple(map(_tool, line["function"])),
            expected=tuple(
                Call(name=_name(name), arguments=arguments)
                for call in answers.get(line["id"], ())
                for name, arguments in call.items()
            ),
        )
        for line in _read_lines(directory / f"{category}.jsonl")
    ]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    # Problems of the category `irrelevance` have no answers.
    if not path.exists() and path.parent.name == "possible_answer":
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _tool(function: Mapping[str, Any]) -> FunctionTool:
    return FunctionTool(
        name=_name(function["name"]),
        description=function["description"],
        parameters_json=json.dumps(_schema(function["parameters"])),
    )


def _name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)


def _schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of what BFCL writes with the types of Python."""
    schema = {key: value for key, value in parameters.items() if key != "optional"}
    schema["type"] = _JSON_SCHEMA_TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:
        schema["properties"] = {name: _schema(value) for name, value in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _schema(schema["items"])
    return schema


def right_functions(calls: Sequence[Call], problem: Problem) -> bool:
    """Whether the functions are called that should be, each as often, in any order."""
    return sorted(call.name for call in calls) == sorted(call.name for call in problem.expected)


def right_arguments(calls: Sequence[Call], problem: Problem) -> bool:
    """Whether the calls are those that should be made, in any order."""
    left = list(problem.expected)
    for call in calls:
        # As BFCL does: a call takes the first answer that it fits.
        fitting = next((answer for answer in left if _fits(call, answer)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return not left


def _fits(call: Call, answer: Call) -> bool:
    return call.name == answer.name and _same_object(call.arguments, answer.arguments)


def _same_object(value: Mapping[str, Any], options: Mapping[str, Sequence[Any]]) -> bool:
    """Whether each member is one of its options, and those left out may be."""
    return all(
        _is_one_of(value[name], options[name])
        if name in value and name in options
        else "" in options.get(name, ())
        for name in {*value, *options}
    )


def _is_one_of(value: Any, options: Sequence[Any]) -> bool:
    return any(_same(value, option) for option in options)


def _same(value: Any, option: Any) -> bool:
    match value, option:
        case str(), str():
            return _standard(value) == _standard(option)
        case bool(), _:
            return value is option
        case _, bool():
            return False
        case list(), list():
            return len(value) == len(option) and all(map(_same, value, option))
        case dict(), dict():
            return _same_object(value, option)
        case _:
            return bool(value == option)


def _standard(text: str) -> str:
    return _STRING_NOISE.sub("", text).lower().replace("'", '"')
