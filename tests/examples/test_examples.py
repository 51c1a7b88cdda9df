"""Each example does what its docstring says, run as a user runs it."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.models.catalog import DEFAULT_MODEL
from tests.serving import ServerProcess, serving

pytestmark = [pytest.mark.real_model, pytest.mark.asyncio(loop_scope="module")]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT_S = 120.0
KILLED = re.compile(r"\n\[the client was killed; going on after event \d+\]\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all examples; `model_path` is there so that its model is."""
    async with serving(tmp_path_factory.mktemp("data"), "--model", DEFAULT_MODEL) as server:
        yield server


async def run(script: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / script, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            stdout, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return stdout.decode()


async def test_hello(server: ServerProcess) -> None:
    state, answer = (await run("01_hello.py", server.address)).split("\n", 1)
    assert re.fullmatch(r"threads/\S+/runs/\S+: STATE_(COMPLETED|INCOMPLETE)", state)
    assert answer.strip()


async def test_hello_with_a_model(server: ServerProcess) -> None:
    assert "STATE_" in await run("01_hello.py", server.address, "--model", DEFAULT_MODEL)


async def test_stream(server: ServerProcess) -> None:
    answer, usage = (await run("02_stream.py", server.address)).rstrip("\n").rsplit("\n", 1)
    assert answer.strip()
    assert re.fullmatch(r"usage: [1-9]\d* input tokens, [1-9]\d* output tokens", usage)


async def test_resume(server: ServerProcess) -> None:
    told = await run("03_resume.py", server.address)
    before, after = KILLED.split(told)
    rest, verdict = after.rstrip("\n").rsplit("\n", 1)
    assert before.strip()
    assert rest.strip(), "the run had ended before its client was killed"
    assert verdict == "the pieces make the stored message: True"


async def test_function_tools(server: ServerProcess) -> None:
    told = await run("04_function_tools.py", server.address)
    form = (
        r'get_weather \{"city": *"(Paris|Oslo|Rome)", *"unit": *"(celsius|fahrenheit)"\} '
        r'gave \{.*"sky": "clear"\}\n'
        r".*\n"
        r"threads/\S+/runs/\S+: STATE_(COMPLETED|INCOMPLETE)\n"
    )
    assert re.fullmatch(form, told, re.DOTALL), told


async def test_structured_output(server: ServerProcess) -> None:
    told = await run("05_structured_output.py", server.address)
    assert re.fullmatch(r"Person\(name='.*', age=\d+, skills=\[.*\]\)\n", told, re.DOTALL)


async def test_reasoning(server: ServerProcess) -> None:
    told = await run("06_reasoning.py", server.address)
    answer = r'\{"apples": -?\d+\}'
    assert re.search(rf"^EFFORT_NONE: {answer}, 0 of \d+ tokens were reasoning$", told, re.MULTILINE)
    assert re.search(rf"^EFFORT_LOW: {answer}, [1-9]\d* of \d+ tokens were reasoning$", told, re.MULTILINE)
    assert re.search(rf"^the majority: {answer} \(\d+ for .*\)$", told, re.MULTILINE)


async def test_chat_completions(server: ServerProcess) -> None:
    told = await run("07_chat_completions.py", server.address)
    form = (
        r"whole: .*\S.*in pieces: .*\S.* \[[1-9]\d* tokens\]\n"
        r"as JSON: \{'city': '(Paris|Rome|Oslo)', 'nights': \d+\}\n"
        r'get_weather \{"city": *"(Paris|Rome|Oslo)"\} gave \{.*"celsius": 21\}\n'
        r"with the tool: .*"
    )
    assert re.fullmatch(form, told, re.DOTALL), told


async def test_the_client_of_the_readme(server: ServerProcess, tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    script = tmp_path / "readme.py"
    script.write_text(program.replace("127.0.0.1:50051", server.address), encoding="utf-8")
    assert re.search(r"\d+ tokens, resumable after event \d+\n$", await run(str(script)))
