"""The engine inside a worker: renders, tokenises, waits for a slot, generates."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Self

from runtime.chat.render import ChatTemplate
from runtime.chat.transcript import transcribe
from runtime.chat.turn_form import TurnForm, turn_form
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable
from runtime.events import EngineEvent, TurnEnd
from runtime.reasoning.effort import ThoughtBudget, thought_budget
from runtime.types import (
    ChatMessage,
    Embeddings,
    GenerateRequest,
    ModelInfo,
    Priority,
    TextFormat,
    Timings,
    ToolChoiceMode,
)
from runtime.worker.consensus import write_by_majority
from runtime.worker.llama_cpp import LlamaServer
from runtime.worker.plan import TurnPlan
from runtime.worker.queue import SlotQueue
from runtime.worker.spec import WorkerSpec
from runtime.worker.tokenizer import PromptEncoder, Tokenizer
from runtime.worker.turn import TurnWriter


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
        self._writer = TurnWriter(server, tokenizer, context_tokens=model.context_tokens)
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
            logprobs=True,
        )
        encoder = PromptEncoder(
            template, tokenizer, bos_token=bos_token, native_reasoning=spec.native_reasoning
        )
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
        arrived = time.perf_counter()
        plan = await self._plan(request)
        prepared = time.perf_counter()
        if request.consensus > 1:
            turn = write_by_majority(
                self._writer, self._queue, plan, samples=request.consensus, priority=request.priority
            )
            async with aclosing(turn) as events:
                async for event in events:
                    yield _timed(event, Timings(prepare_s=prepared - arrived))
            return
        async with self._queue.slot(request.priority):
            self._require_open()
            before = Timings(queue_s=time.perf_counter() - prepared, prepare_s=prepared - arrived)
            async with aclosing(self._writer.write(plan)) as events:
                async for event in events:
                    yield _timed(event, before)

    async def _plan(self, request: GenerateRequest) -> TurnPlan:
        """Renders, tokenises and compiles.

        Raises:
            ContextExceeded: the prompt leaves no room for an answer.
            PromptRejected: as `turn_form` does, or the model's template refuses the messages.
        """
        budget = self._budget(request, self._model.context_tokens)
        prompt = await self._encode(request, think=budget is not None)
        room_tokens = self._room(request, prompt)
        if budget is not None:
            budget = self._budget(request, room_tokens)
            if budget is None:
                prompt = await self._encode(request, think=False)
                room_tokens = self._room(request, prompt)
        if _is_plain(request):
            form, grammar = TurnForm(), None
        else:
            answer_tokens = room_tokens - (budget.most_tokens if budget else 0)
            form, grammar = await asyncio.to_thread(_compiled, request, answer_tokens)
        return TurnPlan(
            prompt=prompt,
            thought=budget,
            form=form,
            grammar=grammar,
            max_tokens=room_tokens,
            sampling=request.sampling,
            stop=request.stop,
            top_logprobs=request.top_logprobs,
        )

    def _budget(self, request: GenerateRequest, room_tokens: int) -> ThoughtBudget | None:
        return thought_budget(request.effort, room_tokens=room_tokens)

    async def _encode(self, request: GenerateRequest, *, think: bool) -> list[int]:
        messages = transcribe(
            request.messages,
            tools=request.tools,
            response_format=request.response_format,
            think=think and not self._model.native_reasoning,
            # At most about a quarter of the context.
            most_schema_characters=self._model.context_tokens,
        )
        return await self._encoder.encode(messages, think=think)

    def _room(self, request: GenerateRequest, prompt: Sequence[int]) -> int:
        room_tokens = self._model.context_tokens - len(prompt)
        if room_tokens < 1:
            raise ContextExceeded(prompt_tokens=len(prompt), context_tokens=self._model.context_tokens)
        return min(request.max_output_tokens or room_tokens, room_tokens)

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


def _is_plain(request: GenerateRequest) -> bool:
    """Whether any text will do: there is nothing to compile."""
    return (
        not request.tools
        and request.tool_choice in (ToolChoiceMode.AUTO, ToolChoiceMode.NONE)
        and isinstance(request.response_format, TextFormat)
    )


def _compiled(request: GenerateRequest, room_tokens: int) -> tuple[TurnForm, str | None]:
    form = turn_form(request, room_tokens=room_tokens)
    return form, form.grammar()


def _timed(event: EngineEvent, before: Timings) -> EngineEvent:
    """Adds what happened before the slot was held to the end of a turn."""
    return replace(event, timings=before + event.timings) if isinstance(event, TurnEnd) else event
