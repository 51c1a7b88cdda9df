"""An engine on any server of OpenAI's Chat Completions API: vLLM, SGLang, llama-server, Ollama and others."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Self

from runtime.engines.majority import majority
from runtime.engines.openai_answer import AnswerReader, AnswerRules
from runtime.engines.openai_chunk import parse_chunk
from runtime.engines.openai_client import NoRoom, OpenAIClient
from runtime.engines.openai_flavour import (
    Flavour,
    ServedModel,
    health_path,
    probe,
    token_count,
    tokenize_request,
)
from runtime.engines.openai_request import request_body
from runtime.errors import EngineError, EngineFault, EngineUnavailable, PromptRejected
from runtime.events import EngineEvent
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo, Timings, Usage

_HEALTH_INTERVAL_S = 0.5
_HEALTH_TIMEOUT_S = 5.0
_CONCURRENT_COUNTS = 8
_SEEDS = (1 << 32) - 1
_TEMPLATE_TOKENS = 16
"""More than a chat template writes around a message, or around a call within one."""


class OpenAIHttpEngine:
    """An `Engine` on a server that is not ours: what it gives is validated before it is given on.

    What cannot be had over this protocol: a server's stop texts also end its thoughts, and Ollama cuts
    prompts that are too long in place of refusing them.
    """

    def __init__(self, client: OpenAIClient, served: ServedModel) -> None:
        """Takes over a client; `connect` makes one."""
        self._client = client
        self._served = served
        self._closed = False
        self._answers = asyncio.Event()
        self._answers.set()
        self._recovery: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        flavour: Flavour | None = None,
        model: str | None = None,
        api_key: str | None = None,
        context_tokens: int | None = None,
        slots: int | None = None,
    ) -> Self:
        """Connects to a server and finds out what it is.

        Args:
            url: where the API is, such as `http://host:8000/v1`.
            flavour: kind of server; None looks for it.
            model: id of the model there; None is the only one.
            api_key: sent as a bearer token.
            context_tokens: of one generation; None is what the server says.
            slots: generations at the same time; None is what the server says, else 16.

        Raises:
            EngineUnavailable: it does not answer.
            EngineFault: it has no such model, or does not tell what was not given here.
        """
        client = OpenAIClient(url, api_key=api_key)
        try:
            served = await probe(
                client, flavour=flavour, model=model, context_tokens=context_tokens, slots=slots
            )
        except BaseException:
            await client.aclose()
            raise
        return cls(client, served)

    @property
    def model(self) -> ModelInfo:
        """The model as the server described it on `connect`."""
        return self._served.info

    @property
    def ready(self) -> bool:
        """Whether the server answered when it was last asked; asked again by itself until it does."""
        return not self._closed and self._answers.is_set()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn, as `Engine.generate` says.

        A consensus is as many requests as it has samples, as many at a time as there are slots; the
        votes are counted here.

        Raises:
            OutputInvalid: the answer misses its schema, or the call that was demanded; nothing of it was
                given. Of a consensus: all samples do.
        """
        self._require_open()
        if request.top_logprobs is not None and not self.model.logprobs:
            raise PromptRejected(f"logprobs: servers of the kind {self.model.provider} give none.")
        rules = AnswerRules(request)
        try:
            if request.consensus == 1:
                async with aclosing(self._sample(request, rules)) as events:
                    async for event in events:
                        yield event
            else:
                for event in await majority(
                    [self._sample(request, rules, index) for index in range(request.consensus)],
                    at_a_time=self.model.slots,
                    documents=rules.document is not None,
                ):
                    yield event
        except EngineUnavailable:
            self._lost()
            raise

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, as `Engine.count_tokens` says; never too few.

        Where the server tokenises, tokens of the contents, and 16 for the template around a message or
        a call. Else an upper bound: a token is at least a byte of UTF-8.
        """
        self._require_open()
        limit = asyncio.Semaphore(_CONCURRENT_COUNTS)

        async def count(message: ChatMessage) -> int:
            async with limit:
                tokens = await self._tokens(_written(message))
            return tokens + _TEMPLATE_TOKENS * (1 + len(message.tool_calls))

        return await asyncio.gather(*map(count, messages))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts, as `Engine.embed` says."""
        self._require_open()
        if not self.model.embeddings:
            raise EngineFault(f"The model {self.model.name} gives no embeddings.")
        answer = await self._ask(
            "embeddings", {"model": self._served.id, "input": list(texts), "encoding_format": "float"}
        )
        try:
            entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
            return Embeddings(
                vectors=tuple(tuple(map(float, entry["embedding"])) for entry in entries),
                input_tokens=int(answer["usage"]["prompt_tokens"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFault(f"The server's embeddings cannot be read: {error!r}") from error

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until the server answers, as `Engine.wait_ready` says."""
        self._require_open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._answers.wait()
        except TimeoutError:
            raise EngineUnavailable(f"The server at {self._client.url} does not answer.") from None
        self._require_open()

    async def aclose(self) -> None:
        """Ends all generations and closes the connections. May be called twice."""
        self._closed = True
        self._answers.set()
        if self._recovery is not None:
            self._recovery.cancel()
        await self._client.aclose()

    async def _sample(
        self, request: GenerateRequest, rules: AnswerRules, index: int = 0
    ) -> AsyncGenerator[EngineEvent]:
        seed = request.sampling.seed
        if seed is not None:
            # Samples with one seed would be one sample.
            seed = (seed + index) % _SEEDS
        try:
            async with aclosing(self._attempt(request, rules, seed, request.max_output_tokens)) as events:
                async for event in events:
                    yield event
            return
        except NoRoom as refusal:
            # Here a limit beyond the context means as much as fits, as with our own engine.
            room_tokens = refusal.room_tokens
        async with aclosing(self._attempt(request, rules, seed, room_tokens)) as events:
            async for event in events:
                yield event

    async def _attempt(
        self, request: GenerateRequest, rules: AnswerRules, seed: int | None, max_output_tokens: int | None
    ) -> AsyncGenerator[EngineEvent]:
        body = request_body(
            request,
            flavour=self._served.flavour,
            model_id=self._served.id,
            context_tokens=self.model.context_tokens,
            max_output_tokens=max_output_tokens,
            seed=seed,
        )
        reader = AnswerReader(rules)
        started = time.monotonic()
        first: float | None = None
        async with aclosing(self._client.stream("chat/completions", body)) as chunks:
            async for data in chunks:
                for event in reader.feed(parse_chunk(data)):
                    yield event
                if first is None and (reader.thought or reader.spoken):
                    first = time.monotonic()
        ended = time.monotonic()
        timings = Timings(prompt_s=(first or ended) - started, generate_s=ended - (first or ended))
        for event in reader.finish(await self._usage(reader), timings):
            yield event

    async def _usage(self, reader: AnswerReader) -> Usage:
        """What the server counted; tokens of the thought that it does not tell apart are counted here.

        Without its tokenizer they are the thought's share of the characters.
        """
        counted = reader.end()
        thought_tokens = counted.thought_tokens
        if thought_tokens is None and reader.thought and self._served.tokenizes:
            thought_tokens = await self._tokens(reader.thought)
        elif thought_tokens is None:
            written = len(reader.thought) + len(reader.spoken)
            thought_tokens = (counted.completion_tokens or 0) * len(reader.thought) // max(written, 1)
        return counted.value(thought_tokens=thought_tokens)

    async def _tokens(self, text: str) -> int:
        asked = (
            tokenize_request(self._served.flavour, self._served.id, text) if self._served.tokenizes else None
        )
        if asked is None:
            return len(text.encode("utf-8", "replace"))
        return token_count(await self._ask(*asked))

    async def _ask(self, path: str, body: dict[str, object]) -> Any:
        try:
            return await self._client.ask(path, body)
        except EngineUnavailable:
            self._lost()
            raise

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The engine is closed.")

    def _lost(self) -> None:
        """Asks for the server's health until it is well."""
        if not self._closed and self._answers.is_set():
            self._answers.clear()
            self._recovery = asyncio.create_task(self._recover(), name="engine health")

    async def _recover(self) -> None:
        while True:
            try:
                await self._client.ask(health_path(self._served.flavour), timeout_s=_HEALTH_TIMEOUT_S)
            except EngineError:
                await asyncio.sleep(_HEALTH_INTERVAL_S)
            else:
                self._answers.set()
                return


def _written(message: ChatMessage) -> str:
    """All that is somebody's text in a message."""
    calls = (f"{call.id}{call.name}{call.arguments_json}" for call in message.tool_calls)
    return "".join((message.reasoning, message.content, message.tool_call_id or "", *calls))
