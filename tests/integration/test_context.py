"""How a thread is cut to the context: in large steps, remembered, and never silently too long."""

from itertools import pairwise

from assistants.client import Client, Run
from assistants.v1 import run_pb2
from runtime.testing import ScriptedEngine
from tests.integration.conftest import Serve

WORDS_A_MESSAGE = 20


async def talk(client: Client, turns: int, **run: object) -> list[Run]:
    """A thread on which each turn says 20 words and the echo says them again."""
    assistant = await client.create_assistant(model="scripted", instructions="one two three")
    thread = await client.create_thread()
    ended = []
    for turn in range(turns):
        await client.create_message(thread.name, " ".join([f"turn{turn}"] + ["word"] * (WORDS_A_MESSAGE - 1)))
        ended.append(await client.stream(thread.name, assistant.name, **run).result())
    return ended


async def test_a_long_thread_is_cut_in_large_steps(serve: Serve) -> None:
    async with serve(ScriptedEngine.echo(context_tokens=400)) as client:
        runs = await talk(client, 40)
    assert {run.state for run in runs} == {Run.STATE_COMPLETED}
    sizes = [run.usage.input_tokens for run in runs]
    assert max(sizes) <= 400
    cuts = sum(later < earlier for earlier, later in pairwise(sizes))
    # Each turn adds some 48 tokens with their template; cutting at each would make 34 cuts.
    assert 1 <= cuts <= 14


async def test_where_a_thread_was_cut_outlives_the_server(serve: Serve) -> None:
    async with serve(ScriptedEngine.echo(context_tokens=400)) as client:
        runs = await talk(client, 12)
        thread = runs[0].name.rsplit("/", 2)[0]
        assistant, before = runs[0].assistant, runs[-1].usage.input_tokens
    async with serve(ScriptedEngine.echo(context_tokens=400)) as client:
        await client.create_message(thread, "again")
        after = (await client.stream(thread, assistant).result()).usage.input_tokens
    assert after <= before + WORDS_A_MESSAGE + 1


async def test_a_single_message_that_cannot_fit_fails_with_both_numbers(serve: Serve) -> None:
    async with serve(ScriptedEngine.echo(context_tokens=300)) as client:
        assistant = await client.create_assistant(model="scripted")
        thread = await client.create_thread()
        await client.create_message(thread.name, "word " * 301)
        run = await client.stream(thread.name, assistant.name).result()
    assert run.error.code == run_pb2.RunError.CODE_INVALID_PROMPT
    assert "301" in run.error.message
    assert "300" in run.error.message


async def test_last_messages_is_not_cut_further(serve: Serve) -> None:
    last = run_pb2.TruncationStrategy(last_messages=3)
    async with serve(ScriptedEngine.echo(context_tokens=10_000)) as client:
        runs = await talk(client, 6, truncation_strategy=last)
    assert [run.usage.input_tokens for run in runs] == [23, 63, 63, 63, 63, 63]


async def test_max_input_tokens_cuts_one_run_only(serve: Serve) -> None:
    async with serve(ScriptedEngine.echo(context_tokens=10_000)) as client:
        runs = await talk(client, 5)
        thread, assistant = runs[0].name.rsplit("/", 2)[0], runs[0].assistant
        await client.create_message(thread, "five words in this message")
        limited = await client.stream(thread, assistant, max_input_tokens=60).result()
        assert limited.usage.input_tokens <= 60
        await client.create_message(thread, "again")
        free = await client.stream(thread, assistant).result()
        assert free.usage.input_tokens > runs[-1].usage.input_tokens
        refused = await client.stream(thread, assistant, max_input_tokens=2).result()
        assert refused.state == Run.STATE_INCOMPLETE
        assert refused.incomplete_reason == Run.INCOMPLETE_REASON_MAX_INPUT_TOKENS
