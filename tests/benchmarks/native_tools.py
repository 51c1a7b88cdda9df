"""Tool calls by llama.cpp's own means: its chat endpoint, its template, its parser. For comparison."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runtime.types import FunctionTool, ToolCall
from tests.benchmarks.model import BenchmarkModel


class NativeTools:
    """A model behind llama.cpp's chat endpoint, in this process."""

    def __init__(self, native: Any) -> None:
        """Takes over a native server; `start_native` makes one."""
        self._native = native

    def ask(self, question: str, tools: Sequence[FunctionTool], *, max_tokens: int) -> tuple[ToolCall, ...]:
        """Asks with tool_choice auto, greedily; gives the calls that llama.cpp recognises."""
        request = {
            "messages": [{"role": "user", "content": question}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": json.loads(tool.parameters_json),
                    },
                }
                for tool in tools
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        answer = self._native.handle_chat_completions(request)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return tuple(
            ToolCall(
                id=call["id"], name=call["function"]["name"], arguments_json=call["function"]["arguments"]
            )
            for call in answer["choices"][0]["message"].get("tool_calls") or ()
        )


@contextmanager
def start_native(model: BenchmarkModel, *, context_tokens: int) -> Iterator[NativeTools]:
    """Loads a model; it is freed on exit."""
    # As in a worker: threads that spin starve each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model.path)
    params.verbosity = -1
    params.n_parallel = 1
    params.n_ctx = context_tokens
    params.fit_params = False
    params.use_jinja = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.endpoint_slots = False
    params.ui = False
    native = NativeTools(xllamacpp.Server(params))
    yield native
    del native
