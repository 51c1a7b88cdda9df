"""The demo: a real server in its own process, used as any client would use it."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from assistants.client import Client, Run, RunStep, text_of
from assistants.telemetry.receiver import OtlpReceiver, ReceivedSpan
from assistants.telemetry.tree import render_tree
from assistants.v1.common_pb2 import GenerationParams

_READY_TIMEOUT_S = 300.0
_TRACE_TIMEOUT_S = 15.0
_INSTRUCTIONS = "You are a helpful assistant. Answer in one or two short sentences."


def run_demo(*, models_dir: Path, model: str, question: str) -> int:
    """Runs the demo on the terminal; gives the exit code."""
    return asyncio.run(_demo(models_dir, model, question))


async def _demo(models_dir: Path, model: str, question: str) -> int:
    async with OtlpReceiver() as receiver:
        with tempfile.TemporaryDirectory(prefix="assistants-demo-") as data_dir:
            async with _server(models_dir, model, Path(data_dir), receiver.endpoint) as address:
                _say(f"server ready on {address}, model {model}")
                async with Client(address) as client:
                    run = await _ask(client, model, question)
        # The server exports what is left when it stops.
        spans = await receiver.wait_for(lambda spans: _whole(spans, run.trace_id), _TRACE_TIMEOUT_S)
    _say("trace")
    print(render_tree([span for span in spans if span.trace_id == run.trace_id]))
    return 0 if run.state in (Run.STATE_COMPLETED, Run.STATE_INCOMPLETE) else 1


async def _ask(client: Client, model: str, question: str) -> Run:
    assistant = await client.create_assistant(model=model, display_name="Demo", instructions=_INSTRUCTIONS)
    thread = await client.create_thread()
    message = await client.create_message(thread.name, question)
    for name in (assistant.name, thread.name, message.name):
        print(f"created {name}")
    _say(f"user: {question}")
    print("assistant: ", end="")
    # A small model does best with its likeliest words.
    likeliest = GenerationParams(temperature=0)
    stream = client.stream(thread.name, assistant.name, max_output_tokens=128, generation_params=likeliest)
    async for event in stream:
        print(text_of(event), end="", flush=True)
    print()
    _say(f"run {stream.run.name}: {Run.State.Name(stream.run.state)}, {stream.last_sequence} events")
    async for step in client.list_run_steps(stream.run.name):
        state, kind = RunStep.State.Name(step.state), step.WhichOneof("details")
        print(f"step {step.index}  {kind}  {state}  output {step.usage.output_tokens} tokens")
    usage = stream.run.usage
    print(
        f"usage   input {usage.input_tokens} tokens ({usage.cached_input_tokens} cached), "
        f"output {usage.output_tokens} tokens ({usage.reasoning_output_tokens} reasoning)"
    )
    return stream.run


@asynccontextmanager
async def _server(models_dir: Path, model: str, data_dir: Path, otlp_endpoint: str) -> AsyncIterator[str]:
    """A server in its own process; gives its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "assistants", "serve", "--grpc-address", "127.0.0.1:0"),
        *("--data-dir", str(data_dir), "--models-dir", str(models_dir), "--model", model),
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
        if not line.startswith("ready "):
            raise SystemExit(await process.wait())  # it said why on stderr
        yield dict(field.split("=", 1) for field in line.split()[1:])["grpc"]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _whole(spans: Sequence[ReceivedSpan], trace_id: str) -> bool:
    """Whether the request that began the trace has arrived, which ends last."""
    return any(span.trace_id == trace_id and not span.parent_span_id for span in spans)


def _say(text: str) -> None:
    print(f"\n── {text}", flush=True)
