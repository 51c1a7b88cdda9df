"""`assistants serve` with engines that are not its own."""

import asyncio
from pathlib import Path

import click
import pytest

from assistants.cli import serve
from assistants.client import Run
from runtime.engines.openai_flavour import Flavour
from tests.integration.workers import two_workers
from tests.recovery.journals import SHORT, Reader, ask, assert_done_once, ended
from tests.scripted_http import answer, delta, scripted_server
from tests.serving import run_cli, serving


@pytest.mark.real_model
async def test_runs_go_on_when_one_of_two_workers_is_killed(tmp_path: Path, model_path: Path) -> None:
    async with (
        asyncio.timeout(120),
        two_workers(model_path) as workers,
        serving(tmp_path, "--worker", workers[0].target, "--worker", workers[1].target) as server,
        server.client() as client,
    ):
        assert server.ready.endswith("model=smollm2-135m")
        (model,) = [model for model in await client.list_models() if model.slots]
        assert model.slots == 2
        asked = [await ask(client, SHORT) for _ in range(4)]
        readers = [Reader(client.stream(thread.name, assistant.name)) for thread, assistant in asked]
        for reader in readers[:2]:
            await reader.pieces(3)
        await workers[0].kill()
        for reader in readers:
            await reader.end()
            assert_done_once(await ended(client, reader.stream.run.name))


@pytest.mark.real_model
async def test_a_server_starts_with_the_worker_that_is_there(tmp_path: Path, model_path: Path) -> None:
    async with asyncio.timeout(120), two_workers(model_path) as workers:
        await workers[0].kill()
        options = ("--worker", workers[0].target, "--worker", workers[1].target)
        async with serving(tmp_path, *options) as server, server.client() as client:
            thread, assistant = await ask(client, SHORT)
            reader = Reader(client.stream(thread.name, assistant.name))
            await reader.end()
            assert_done_once(await ended(client, reader.stream.run.name))
            assert await server.terminate() == 0
            assert f"No worker answers at {workers[0].target}" in await server.stderr()


async def test_a_run_on_a_server_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANTS_ENGINE_API_KEY", "sk-secret")
    async with asyncio.timeout(60), scripted_server() as scripted:
        scripted.plays.append(answer(delta(reasoning="hm"), delta(content="Hel"), delta(content="lo.")))
        async with serving(tmp_path, "--engine-url", scripted.url) as server, server.client() as client:
            assert server.ready.endswith("model=Model-8B")
            (model,) = [model for model in await client.list_models() if model.slots]
            assert (model.provider, model.context_tokens) == ("vllm", 4096)
            thread, assistant = await ask(client, "Hello", model="Model-8B")
            stream = client.stream(thread.name, assistant.name)
            async for _ in stream:
                pass
            assert stream.run.state == Run.STATE_COMPLETED
            assert stream.run.usage.output_tokens == 6
            told = await ended(client, stream.run.name)
            assert told.text == "Hello."
            assert await server.terminate() == 0
            assert "sk-secret" not in await server.stderr()
        assert {headers.get("authorization") for _, headers, _ in scripted.asked} == {"Bearer sk-secret"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--worker", "a:1", "--engine-url", "http://x/v1"), "--worker and --engine-url are two engines"),
        (("--worker", "a:1", "--slots", "2"), "--slots says nothing together with --worker"),
        (("--worker", "a:1", "--worker", "a:1"), "--worker was given twice: a:1"),
        (("--worker", "a:1", "--engine", "scripted"), "--engine says nothing together with --worker"),
        (("--engine-url", "http://x/v1", "--model", "m"), "--model says nothing together with --engine-url"),
        (("--engine-url", "host:8000"), "must be http://HOST:PORT/v1"),
        (("--engine-model", "m"), "--engine-model needs --engine-url"),
        (("--engine-flavour", "vllm"), "--engine-flavour needs --engine-url"),
    ],
)
async def test_options_that_contradict_each_other(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    finished = await run_cli("serve", "--data-dir", str(tmp_path), *options)
    assert (finished.code, finished.stdout) == (2, "")
    assert reason in " ".join(finished.stderr.split())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--worker", "127.0.0.1:9"), "No worker answers at 127.0.0.1:9"),
        (("--worker", "127.0.0.1:9", "--worker", "127.0.0.1:10"), "No worker answers at 127.0.0.1:9"),
        (("--engine-url", "http://127.0.0.1:9/v1"), "The server at http://127.0.0.1:9/v1 does not answer"),
    ],
)
async def test_engines_that_are_not_there(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    finished = await run_cli("serve", "--data-dir", str(tmp_path), "--grpc-address", "127.0.0.1:0", *options)
    assert (finished.code, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"assistants: {reason}")


def test_every_flavour_can_be_chosen() -> None:
    (option,) = [option for option in serve.params if option.name == "engine_flavour"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["auto", *Flavour]
