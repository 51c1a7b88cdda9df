"""The engine inside a worker: renders, tokenises, waits for a slot, generates."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Self, assert_never

from runtime.chat.render import ChatTemplate
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable, PromptRejected
from runtime.events import EngineEvent, PromptProgress, TextDelta, TurnEnd
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo, Priority, TextFormat
from runtime.worker.completion import Completed, Completion
from runtime.worker.llama_cpp import LlamaServer
from runtime.worker.queue import SlotQueue
from runtime.worker.spec import WorkerSpec
from runtime.worker.tokenizer import PromptEncoder, Tokenizer


class LlamaEngine:
    """An `Engine` on a model in this process."""

    def __init__(
        self,
        server: LlamaServer,
        *,
        tokenizer: Tokenizer,
        encoder: PromptEncoder,
        model: ModelInfo,
        queue_length: int,
    ) -> None:
        """Takes over the parts; `load` makes them."""
        self._server = server
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._model = model
        self._queue = SlotQueue(model.slots, length=queue_length)
        self._closed = False

    @classmethod
    def load(cls, spec: WorkerSpec, directory: Path) -> Self:
        """Loads a model. Blocks for seconds to minutes.

        Args:
            spec: the model and its share of the machine.
            directory: as for `LlamaServer.load`.

        Raises:
            ModelCorrupt: the file is no whole GGUF file.
            WorkerStartFailed: it is, but cannot be loaded.
            PromptRejected: its chat template is broken.
        """
        server = LlamaServer.load(spec, directory)
        properties = server.ask("/props")
        bos_token, eos_token = properties.get("bos_token") or "", properties.get("eos_token") or ""
        template = ChatTemplate(properties.get("chat_template"), bos_token=bos_token, eos_token=eos_token)
        tokenizer = Tokenizer(server.ask)
        model = ModelInfo(
            name=spec.name,
            provider="llama_cpp",
            # Native code rounds up what it was asked for.
            context_tokens=min(spec.context_tokens, properties["default_generation_settings"]["n_ctx"]),
            slots=spec.slots,
            native_reasoning=spec.native_reasoning,
            embeddings=spec.embeddings,
        )
        encoder = PromptEncoder(template, tokenizer, bos_token=bos_token)
        return cls(server, tokenizer=tokenizer, encoder=encoder, model=model, queue_length=spec.queue_length)

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        return self._model

    @property
    def ready(self) -> bool:
        """True until `aclose`."""
        return not self._closed

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn, as `Engine.generate` says."""
        self._require_open()
        _require_plain(request)
        arrived = time.perf_counter()
        prompt = await self._encoder.encode(request.messages)
        room_tokens = self._model.context_tokens - len(prompt)
        if room_tokens < 1:
            raise ContextExceeded(prompt_tokens=len(prompt), context_tokens=self._model.context_tokens)
        completion = Completion(
            prompt=prompt,
            max_tokens=min(request.max_output_tokens or room_tokens, room_tokens),
            stop=request.stop,
            sampling=request.sampling,
        )
        prepared = time.perf_counter()
        async with self._queue.slot(request.priority):
            self._require_open()
            waited = time.perf_counter()
            async with aclosing(self._server.complete(completion)) as chunks:
                async for chunk in chunks:
                    match chunk:
                        case str():
                            yield TextDelta(chunk)
                        case PromptProgress():
                            yield chunk
                        case Completed():
                            timings = replace(
                                chunk.timings, queue_s=waited - prepared, prepare_s=prepared - arrived
                            )
                            yield TurnEnd(chunk.finish_reason, chunk.usage, timings)
                        case _:
                            assert_never(chunk)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, as `PromptEncoder.count` does."""
        self._require_open()
        return await self._encoder.count(messages)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts, each with a unit vector. Raises `EngineFault` without `--embeddings`."""
        self._require_open()
        if not self._model.embeddings:
            raise EngineFault(f"The worker of {self._model.name} was started without embeddings.")
        if not texts:
            return Embeddings(vectors=(), input_tokens=0)
        async with self._queue.slot(Priority.INTERACTIVE):
            vectors, input_tokens = await self._server.embed(texts)
        return Embeddings(vectors=tuple(map(tuple, vectors)), input_tokens=input_tokens)

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns at once: a loaded model is ready. Raises `EngineUnavailable` after `aclose`."""
        self._require_open()

    async def aclose(self) -> None:
        """Ends all generations and frees the model; waits for native code."""
        self._closed = True
        await asyncio.gather(self._server.aclose(), self._tokenizer.aclose())

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The worker is shutting down.")


def _require_plain(request: GenerateRequest) -> None:
    """Refuses what needs a grammar, rather than to answer without one."""
    if request.tools:
        raise PromptRejected("This engine does not call tools yet.")
    if not isinstance(request.response_format, TextFormat):
        raise PromptRejected("This engine answers with text only: no response format yet.")
    if request.consensus > 1:
        raise PromptRejected("This engine takes one sample only: no consensus yet.")
