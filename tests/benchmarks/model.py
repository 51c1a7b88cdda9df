"""What the benchmarks with a real model share: the model, an engine on it, an answer with its times."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from runtime.engines.base import Engine
from runtime.engines.embedded import EmbeddedEngine
from runtime.errors import EngineFault
from runtime.events import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.models.catalog import DEFAULT_MODEL
from runtime.models.pull import pull
from runtime.models.store import ModelStore
from runtime.types import GenerateRequest, ToolCall
from runtime.worker.spec import WorkerSpec

P = ParamSpec("P")
R = TypeVar("R")

DATA_DIR = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Where the data lie by default: beside the repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkModel:
    """The model that is measured."""

    name: str
    path: Path
    """Its GGUF file."""

    @classmethod
    def find(cls, name: str, path: Path | None) -> "BenchmarkModel":
        """A file where one is named, else a model of the catalogue, which is pulled if need be."""
        if path is not None:
            return cls(name=path.stem, path=path)
        return cls(name=name, path=pull(ModelStore(), name).path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A turn that was read to its end."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    """Those that are whole."""
    cut_calls: int
    """Calls that the limit of tokens cut; no client takes them for calls."""
    end: TurnEnd
    first_s: float
    """Until its first piece, of whatever kind."""
    whole_s: float


def model_options(command: Callable[P, R]) -> Callable[P, R]:
    """Adds the options that name a model."""
    command = click.option(
        "--model-path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="GGUF file to measure in place of a model of the catalogue.",
    )(command)
    return click.option(
        "--model", default=DEFAULT_MODEL, show_default=True, help="Name in the catalogue of models."
    )(command)


@asynccontextmanager
async def start_engine(
    model: BenchmarkModel, *, slots: int, context_tokens: int
) -> AsyncIterator[EmbeddedEngine]:
    """An engine of our own with nothing in its cache; closed on exit."""
    engine = await EmbeddedEngine.start(
        WorkerSpec(model_path=model.path, name=model.name, slots=slots, context_tokens=context_tokens)
    )
    try:
        yield engine
    finally:
        await engine.aclose()


async def ask(engine: Engine, request: GenerateRequest) -> Answer:
    """Generates one turn and puts its events together."""
    text, reasoning = [], []
    calls: list[ToolCall] = []
    cut_calls = 0
    opened: ToolCallStart | None = None
    arguments: list[str] = []
    first_s: float | None = None
    end: TurnEnd | None = None
    start = time.perf_counter()
    async for event in engine.generate(request):
        match event:
            case TextDelta():
                text.append(event.text)
            case ReasoningDelta():
                reasoning.append(event.text)
            case ToolCallStart():
                cut_calls += 1
                opened, arguments = event, []
            case ToolCallDelta():
                arguments.append(event.arguments_json)
            case ToolCallEnd():
                assert opened is not None
                cut_calls -= 1
                calls.append(ToolCall(id=opened.id, name=opened.name, arguments_json="".join(arguments)))
            case TurnEnd():
                end = event
            case _:
                continue
        if first_s is None:
            first_s = time.perf_counter() - start
    if end is None or first_s is None:
        raise EngineFault("The stream has no end.")
    return Answer(
        text="".join(text),
        reasoning="".join(reasoning),
        tool_calls=tuple(calls),
        cut_calls=cut_calls,
        end=end,
        first_s=first_s,
        whole_s=time.perf_counter() - start,
    )
