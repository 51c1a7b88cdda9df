"""How many JSON Schemas compile, how fast, and what a model makes of them.

    python -m tests.benchmarks.json_schema [--data DIR] [--model NAME] [--limit N] [--cases compile]

One line of JSON a case:

compile           Shares of schemas that compile exactly and at all, as the whole grammar of a turn, and CPU
                  milliseconds of that, from the text of the schema on: the best of three times a schema.
compile_category  The same shares by category of the data.
generate          Shares of asked documents that were finished, and of finished ones that are valid.
overhead          Seconds a token under a schema's grammar over those of free text, by turns.
"""

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from runtime.chat.turn_form import turn_form
from runtime.engines.base import Engine
from runtime.errors import OutputInvalid, PromptRejected
from runtime.output.compile import compile_schema
from runtime.output.validate import violations
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    FinishReason,
    GenerateRequest,
    JsonSchemaFormat,
    ResponseFormat,
    Sampling,
    TextFormat,
)
from tests.benchmarks.measure import milliseconds, percentile, print_case
from tests.benchmarks.model import DATA_DIR, BenchmarkModel, ask, model_options, start_engine

CASES = ("compile", "generate", "overhead")
ROOMS_TOKENS = (1024, 2048, 4096)
"""Each has bounds, and so a compilation, of its own."""
CONTEXT_TOKENS = 4096
SHOWN_CHARACTERS = 3000
"""Longest schema that is put into a prompt."""
OVERHEAD_TOKENS = 384
"""Limit that the long documents below can end before: the search for an ending near it is not the rule."""
LONG_SCHEMAS = (
    {"type": "object", "properties": {"story": {"type": "string", "minLength": 300}}, "required": ["story"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 30},
    {
        "type": "array",
        "minItems": 6,
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": ["city", "river", "mountain"]},
                "size": {"type": "number"},
            },
            "required": ["name", "kind", "size"],
            "additionalProperties": False,
        },
    },
)
"""Of their documents each has some hundred tokens at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSchema:
    """One schema of the data."""

    name: str
    category: str
    schema_json: str

    @property
    def response_format(self) -> JsonSchemaFormat:
        return JsonSchemaFormat(name="document", schema_json=self.schema_json)


def read_schemas(data: Path, limit: int | None) -> list[DataSchema]:
    """The schemas of JSONSchemaBench, mixed by a fixed seed so that a few of them are of all kinds."""
    schemas = []
    for path in sorted(data.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        schemas.append(
            DataSchema(
                name=path.stem,
                category=re.split(r"---|_\d", path.stem)[0],
                schema_json=json.dumps(content["schema"]),
            )
        )
    if not schemas:
        raise click.BadParameter(f"no schemas in {data}", param_hint="--data")
    random.Random(3).shuffle(schemas)
    return schemas[:limit]


def measure_compile(schemas: Sequence[DataSchema]) -> None:
    """Compiles each schema into the grammar of a turn."""
    compile_turn(JsonSchemaFormat(name="warm", schema_json='{"type": "object"}'), ROOMS_TOKENS[0])
    seconds: list[float] = []
    verdicts: dict[str, list[bool | None]] = {}
    for schema in schemas:
        times, exact = zip(
            *(compile_turn(schema.response_format, room) for room in ROOMS_TOKENS), strict=True
        )
        seconds.append(min(times))
        verdicts.setdefault(schema.category, []).append(exact[-1])
    for category, found in sorted(verdicts.items()):
        print_case("json_schema", case="compile_category", category=category, **shares(found))
    print_case(
        "json_schema",
        case="compile",
        **shares([exact for found in verdicts.values() for exact in found]),
        compile_median_ms=milliseconds(median(seconds)),
        compile_p95_ms=milliseconds(percentile(seconds, 95)),
        compile_max_ms=milliseconds(max(seconds)),
    )


def compile_turn(response_format: ResponseFormat, room_tokens: int) -> tuple[float, bool | None]:
    """Seconds of this thread, and whether the grammar is exact: None when there is none."""
    request = GenerateRequest(
        messages=(ChatMessage(role=ChatRole.USER, content="?"),), response_format=response_format
    )
    start = time.thread_time()
    try:
        form = turn_form(request, room_tokens=room_tokens)
        form.grammar()
    except PromptRejected:
        return time.thread_time() - start, None
    return time.thread_time() - start, not form.held


def shares(found: Sequence[bool | None]) -> dict[str, float]:
    """Counts and shares of verdicts of `compile_turn`."""
    strict, compiled = sum(exact is True for exact in found), sum(exact is not None for exact in found)
    return {
        "schemas": len(found),
        "compiled_strict": strict,
        "compiled": compiled,
        "compile_share_strict": round(strict / len(found), 4),
        "compile_share": round(compiled / len(found), 4),
    }


async def measure_generate(
    engine: Engine, schemas: Sequence[DataSchema], *, documents: int, tokens: int
) -> None:
    """Asks for documents of schemas that compile and fit the prompt."""
    asked = finished = valid = closed = refused = 0
    for schema in itertools.islice(_askable(schemas), documents):
        asked += 1
        compiled = compile_schema(schema.schema_json, strict=False, subject="schema")
        try:
            answer = await ask(engine, _request(schema.schema_json, schema.response_format, tokens))
        except OutputInvalid as error:
            # Told as such, and asked again by the loop: not a document that was given.
            refused += 1
            click.echo(f"    {schema.name}: {error}")
            continue
        if answer.end.finish_reason is not FinishReason.STOP:
            continue
        finished += 1
        closed += answer.end.closed_early
        if missed := violations(compiled, answer.text):
            click.echo(f"    {schema.name}: {missed[0]}: {answer.text[:200]}")
        else:
            valid += 1
    print_case(
        "json_schema",
        case="generate",
        documents=asked,
        max_output_tokens=tokens,
        finished_share=round(finished / asked, 4),
        valid_share=round(valid / max(1, finished), 4),
        closed_early_share=round(closed / max(1, finished), 4),
        refused_share=round(refused / asked, 4),
    )


def _askable(schemas: Sequence[DataSchema]) -> Iterator[DataSchema]:
    for schema in schemas:
        _, exact = compile_turn(schema.response_format, ROOMS_TOKENS[-1])
        if exact is not None and len(schema.schema_json) <= SHOWN_CHARACTERS:
            yield schema


async def measure_overhead(engine: Engine, *, pairs: int) -> None:
    """Times tokens with and without a grammar, by turns."""
    ratios = []
    for index in range(pairs + 1):
        schema_json = json.dumps(LONG_SCHEMAS[index % len(LONG_SCHEMAS)])
        document = JsonSchemaFormat(name="document", schema_json=schema_json)
        free_s = await _token_s(engine, schema_json, TextFormat())
        bound_s = await _token_s(engine, schema_json, document)
        if index:  # the first pair warms both up
            ratios.append(bound_s / free_s)
    ratios.sort()
    print_case(
        "json_schema",
        case="overhead",
        pairs=pairs,
        overhead_ratio=round(median(ratios), 4),
        least=round(ratios[0], 4),
        most=round(ratios[-1], 4),
    )


async def _token_s(engine: Engine, schema_json: str, response_format: ResponseFormat) -> float:
    answer = await ask(engine, _request(schema_json, response_format, OVERHEAD_TOKENS))
    return answer.end.timings.generate_s / max(1, answer.end.usage.output_tokens)


def _request(schema_json: str, response_format: ResponseFormat, tokens: int) -> GenerateRequest:
    text = f"Write a long, realistic example of a JSON document for this JSON Schema:\n{schema_json}"
    return GenerateRequest(
        messages=(ChatMessage(role=ChatRole.USER, content=text),),
        response_format=response_format,
        effort=Effort.NONE,
        sampling=Sampling(temperature=0),
        max_output_tokens=tokens,
    )


async def measure_model(
    model: BenchmarkModel,
    schemas: Sequence[DataSchema],
    cases: Sequence[str],
    *,
    documents: int,
    tokens: int,
    pairs: int,
) -> None:
    """Runs the cases that need the model."""
    async with start_engine(model, slots=1, context_tokens=CONTEXT_TOKENS) as engine:
        if "generate" in cases:
            await measure_generate(engine, schemas, documents=documents, tokens=tokens)
        if "overhead" in cases:
            await measure_overhead(engine, pairs=pairs)


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA_DIR / "jsonschemabench",
    show_default=True,
    help="Directory of JSONSchemaBench files.",
)
@model_options
@click.option("--limit", type=int, help="Schemas that are looked at; all of them by default.")
@click.option("--documents", default=40, show_default=True, help="Documents that the model is asked for.")
@click.option("--tokens", default=256, show_default=True, help="Most tokens of a document.")
@click.option("--pairs", default=6, show_default=True, help="Pairs of bound and free text, at least 5.")
@click.option("--cases", default=",".join(CASES), show_default=True, help="Which to measure.")
def main(
    data: Path,
    model: str,
    model_path: Path | None,
    limit: int | None,
    documents: int,
    tokens: int,
    pairs: int,
    cases: str,
) -> None:
    """Measure schemas: how many compile, how fast, and whether documents satisfy them."""
    chosen = cases.split(",")
    if unknown := set(chosen).difference(CASES):
        raise click.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--cases")
    schemas = read_schemas(data, limit)
    if "compile" in chosen:
        measure_compile(schemas)
    if set(chosen) != {"compile"}:
        found = BenchmarkModel.find(model, model_path)
        asyncio.run(measure_model(found, schemas, chosen, documents=documents, tokens=tokens, pairs=pairs))


if __name__ == "__main__":
    main()
