"""The benchmark itself: that it runs, and the form of what it prints. Its figures are nobody's test."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "turns": {"clients", "turns_per_s", "p50_ms", "p99_ms", "server_cpu_ms_per_turn"},
    "ttft": {"samples", "p50_ms", "p99_ms", "engine_p50_ms", "engine_p99_ms", "added_ttft_p50_ms"},
    "relay": {"words", "tokens_per_s", "engine_tokens_per_s", "ratio"},
    "long_thread": {"turns", "first_cpu_ms", "last_cpu_ms", "added_cpu_ms", "first_p50_ms", "last_p50_ms"},
}


def test_each_case_is_one_line_of_json() -> None:
    tiny = ("--clients", "1,2", "--turns", "4", "--samples", "3", "--words", "200", "--long-turns", "4")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.turns", *tiny, "--json-only"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case.pop("benchmark") for case in cases] == ["turns", "turns", "ttft", "relay", "long_thread"]
    assert [set(case) for case in cases] == [FIGURES["turns"], *FIGURES.values()]
    assert all(isinstance(figure, int | float) for case in cases for figure in case.values())
    assert [case.get("clients") for case in cases[:2]] == [1, 2]
