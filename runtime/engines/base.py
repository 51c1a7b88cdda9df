"""The seam between the loop and whatever does inference."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from runtime.events import EngineEvent
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo


class Engine(Protocol):
    """Does inference for one model, at chat level.

    Calls wait while the engine is starting; they raise `EngineUnavailable` when
    it does not come up.
    """

    @property
    def model(self) -> ModelInfo:
        """The model; constant for the life of the engine."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a generation would start now; False while loading or restarting."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn; `TurnEnd` comes last.

        Closing the generator, or cancelling the task that reads it, frees the slot.

        Raises:
            EngineUnavailable: the engine died; events may have been given before.
            EngineOverloaded: its queue is full.
            PromptRejected: the prompt cannot be carried out.
            EngineFault: it broke the protocol.
        """
        ...

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Tokens of each message in a prompt, with what the template puts around it."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts. Raises `EngineFault` when the model gives no embeddings."""
        ...

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until `ready`. Raises `EngineUnavailable` after `timeout_s` or when it never will be."""
        ...

    async def aclose(self) -> None:
        """Ends all generations and releases everything. May be called twice."""
        ...
