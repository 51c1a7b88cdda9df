"""The benchmarks with a real model: that they run, what they print, and that they judge rightly."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.types import ToolCall
from tests.benchmarks.bfcl import Problem, read_problems
from tests.benchmarks.effort import parse_cases
from tests.benchmarks.measure import wilson_interval
from tests.benchmarks.tool_calls import judge

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = {
    "simple_python": [
        {
            "id": "simple_python_0",
            "question": [[{"role": "user", "content": "What is the weather in New York on 1 and 2 May?"}]],
            "function": [
                {
                    "name": "weather.get",
                    "description": "Tells the weather.",
                    "parameters": {
                        "type": "dict",
                        "properties": {
                            "city": {"type": "string", "description": "City."},
                            "days": {"type": "array", "items": {"type": "float"}, "description": "Days."},
                            "place": {"type": "dict", "description": "Where.", "optional": True},
                        },
                        "required": ["city", "days"],
                    },
                }
            ],
        }
    ],
    "multiple": [],
    "parallel": [],
    "irrelevance": [],
}
ANSWERS = [
    {
        "id": "simple_python_0",
        "ground_truth": [
            {
                "weather.get": {
                    "city": ["New York", "NYC"],
                    "days": [[1, 2]],
                    "place": ["", {"state": ["NY", "N.Y."], "land": ["", "US"]}],
                }
            }
        ],
    }
]
TOOL_CALLS = {"category", "problems", "valid_share", "cut_calls", "right_functions", "right_arguments"}
NATIVE = {
    "native_valid_share",
    "native_cut_calls",
    "native_right_functions",
    "native_right_arguments",
    "ratio",
}
FORCED = {"tool_choice", "problems", "called_share", "valid_share", "cut_calls"}
EFFORT = {"effort", "consensus", "problems", "accuracy", "interval_low", "interval_high"}
EFFORT |= {"output_tokens", "reasoning_tokens", "seconds"}
PREFIX = {"case", "turn", "samples", "prompt_tokens", "new_tokens", "uncached_new_tokens"}
PREFIX |= {"ttft_ms", "prompt_ms", "uncached_ttft_ms", "uncached_over_cached"}


def run(module: str, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def bfcl(tmp_path: Path) -> Path:
    category = PROBLEMS["simple_python"]
    for name in PROBLEMS:
        problems = [{**problem, "id": f"{name}_0"} for problem in category]
        write_lines(tmp_path / f"{name}.jsonl", problems)
        if name != "irrelevance":
            answers = [{**answer, "id": f"{name}_0"} for answer in ANSWERS]
            write_lines(tmp_path / "possible_answer" / f"{name}.jsonl", answers)
    return tmp_path


@pytest.fixture
def problem(bfcl: Path) -> Problem:
    return read_problems(bfcl, limit=1, seed=1)[0]


def weather(arguments: str, name: str = "weather_get") -> ToolCall:
    return ToolCall(id="call_1", name=name, arguments_json=arguments)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ('{"city": "New York", "days": [1, 2]}', True),
        ('{"city": "new-york", "days": [1.0, 2.0]}', True),
        ('{"city": "NYC", "days": [1, 2], "place": {"state": "ny"}}', True),
        ('{"city": "NYC", "days": [1, 2], "place": {"land": "US"}}', False),
        ('{"city": "NYC", "days": [1, 2], "place": {"state": "NY", "street": "5"}}', False),
        ('{"city": "NYC", "days": [2, 1]}', False),
        ('{"city": "Boston", "days": [1, 2]}', False),
        ('{"city": "NYC", "days": [1, 2], "unit": "C"}', False),
    ],
)
def test_calls_are_judged_by_the_possible_answers(problem: Problem, arguments: str, right: bool) -> None:
    verdict = judge([weather(arguments)], problem)
    assert (verdict.valid_calls, verdict.right_functions, verdict.right_arguments) == (1, True, right)


@pytest.mark.parametrize(
    "call",
    [weather('{"city": "NYC"}'), weather('{"city": "NYC", "days": [1'), weather("{}", name="weather.get")],
    ids=["breaks the schema", "cut", "unknown tool"],
)
def test_a_call_that_is_not_valid_is_wrong(problem: Problem, call: ToolCall) -> None:
    verdict = judge([call], problem)
    assert (verdict.calls, verdict.valid_calls, verdict.right_functions) == (1, 0, False)


def test_calls_must_be_as_many_as_expected(problem: Problem) -> None:
    call = weather('{"city": "NYC", "days": [1, 2]}')
    assert not judge([], problem).right_functions
    assert not judge([call, call], problem).right_arguments


def test_no_call_is_right_where_none_is_expected(bfcl: Path) -> None:
    problem = read_problems(bfcl, limit=4, seed=1)[3]
    assert problem.category == "irrelevance"
    assert judge([], problem).right_arguments
    assert not judge([weather('{"city": "NYC", "days": [1, 2]}')], problem).right_functions


def test_the_interval_of_a_share() -> None:
    low, high = wilson_interval(5, 10)
    assert (round(low, 3), round(high, 3)) == (0.237, 0.763)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1


def test_tool_calls_prints_a_line_a_case(bfcl: Path, model_path: Path) -> None:
    tiny = ("--limit", "2", "--most-tokens", "64")
    cases = run("tool_calls", "--data", str(bfcl), "--model-path", str(model_path), *tiny)
    assert [case.pop("benchmark") for case in cases] == ["tool_calls"] * 4 + ["forced"] * 2
    assert [set(case) for case in cases] == [TOOL_CALLS | NATIVE] * 4 + [FORCED] * 2
    assert [case.get("category") for case in cases[:4]] == ["simple_python", "multiple", "calls", "all"]
    assert [case["valid_share"] for case in cases] == [1.0] * 6
    assert [case["called_share"] for case in cases[4:]] == [1.0] * 2


def test_effort_goes_on_where_it_was(tmp_path: Path, model_path: Path) -> None:
    question = {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
    write_lines(tmp_path / "gsm8k" / "test.jsonl", [question, question])
    state = tmp_path / "state.jsonl"
    common = ("--data", str(tmp_path / "gsm8k"), "--model-path", str(model_path), "--state", str(state))
    run("effort", *common, "--limit", "1", "--cases", "minimal:1")
    [kept] = state.read_text(encoding="utf-8").splitlines()
    # As if it had been killed while it wrote.
    state.write_text(f'{kept}\n{{"model": ', encoding="utf-8")
    cases = run("effort", *common, "--limit", "2", "--cases", "none:1,minimal:1,minimal:2")
    assert [case.pop("benchmark") for case in cases] == ["effort"] * 3
    assert [set(case) for case in cases] == [EFFORT] * 3
    assert [case["problems"] for case in cases] == [2] * 3
    lines = state.read_text(encoding="utf-8").splitlines()
    assert lines[0] == kept
    assert len(lines) == 6


def test_cases_of_effort() -> None:
    assert [(case.effort, case.samples) for case in parse_cases("none:1,low:8")] == [("none", 1), ("low", 8)]
    for wrong in ("much:1", "low", "low:x"):
        with pytest.raises(ValueError, match=r".+"):
            parse_cases(wrong)


def test_prefix_prints_a_line_a_turn_and_a_ratio(model_path: Path) -> None:
    options = ("--turns", "2,3", "--samples", "1", "--words", "8")
    cases = run("prefix", "--model-path", str(model_path), *options)
    assert [case.pop("benchmark") for case in cases] == ["prefix", "prefix", "prefix_ratio"] * 2
    turns, ratios = [cases[0], cases[1], cases[3], cases[4]], [cases[2], cases[5]]
    assert [set(case) for case in turns] == [PREFIX] * 4
    assert [set(case) for case in ratios] == [{"case", "ttft_3_over_2", "least", "most"}] * 2
    # What is cached is all but the new question; what is not is all but what every prompt begins with.
    assert all(case["new_tokens"] < case["prompt_tokens"] / 2 for case in turns)
    assert all(case["uncached_new_tokens"] > case["prompt_tokens"] - 10 for case in turns)
