"""Threads that are longer than the model's context."""

import asyncio
import re
from pathlib import Path

import pytest

from assistants.client import Client, Run
from assistants.v1.run_pb2 import RunError, TruncationStrategy
from tests.recovery.journals import SHORT, ask, assert_done_once, ended
from tests.serving import serving

pytestmark = pytest.mark.real_model

CONTEXT_TOKENS = 512
SMALL_CONTEXT = ("--slots", "1", "--context-tokens", str(CONTEXT_TOKENS))


async def test_a_message_longer_than_the_context_fails_its_run_with_both_numbers(tmp_path: Path) -> None:
    strategies = (TruncationStrategy(last_messages=1), TruncationStrategy(auto=TruncationStrategy.Auto()))
    async with asyncio.timeout(40), serving(tmp_path, *SMALL_CONTEXT) as server, server.client() as client:
        for strategy in strategies:
            await check_too_long(client, strategy)


async def check_too_long(client: Client, strategy: TruncationStrategy) -> None:
    thread, assistant = await ask(client, "How long is a piece of string? " * 100)
    run = await client.stream(thread.name, assistant.name, truncation_strategy=strategy).result()

    told = await ended(client, run.name)
    assert told.run.state == Run.STATE_FAILED
    assert told.run.error.code == RunError.CODE_INVALID_PROMPT
    prompt_tokens, context_tokens = map(int, re.findall(r"\d+", told.run.error.message))
    assert context_tokens == CONTEXT_TOKENS
    assert prompt_tokens > CONTEXT_TOKENS
    assert not told.messages
    # The thread is free, and its newest message is what counts now.
    await client.create_message(thread.name, SHORT)
    run = await client.stream(thread.name, assistant.name, truncation_strategy=strategy).result()
    assert run.state == Run.STATE_COMPLETED


async def test_a_long_thread_of_short_messages_is_cut_to_the_context(tmp_path: Path) -> None:
    async with asyncio.timeout(30), serving(tmp_path, *SMALL_CONTEXT) as server, server.client() as client:
        thread, assistant = await ask(client, "This is the first of many messages.")
        for number in range(60):
            await client.create_message(thread.name, f"Message {number} says nothing that matters.")
        await client.create_message(thread.name, SHORT)
        run = await client.stream(thread.name, assistant.name).result()

        told = await ended(client, run.name)
        assert_done_once(told)
        assert 0 < told.run.usage.input_tokens < CONTEXT_TOKENS
