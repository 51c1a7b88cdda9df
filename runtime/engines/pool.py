"""Several engines of the same model as one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TypeVar

from runtime.engines.base import Engine
from runtime.errors import EngineError, EngineFault, EngineOverloaded, EngineUnavailable
from runtime.events import EngineEvent, PromptProgress
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo

AFFINITY_MARGIN = 0.5
"""How much busier than the least busy member, as a part of its slots, a thread's own member may be.

Beyond it, waiting for a slot, or sharing the machine, costs more than reading the prompt anew.
"""
COOL_DOWN_S = 2.0
"""How long a member that failed is left alone before it is asked whether it is well."""
_RECOVERY_TIMEOUT_S = 30.0

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(slots=True, eq=False)
class _Member:
    name: str
    engine: Engine
    generations: int = 0
    recovery: asyncio.Task[None] | None = field(default=None, repr=False)
    """Runs since the member failed and until it is well."""

    @property
    def load(self) -> float:
        """Generations of ours that it does, as a part of its slots."""
        return self.generations / self.engine.model.slots

    @property
    def well(self) -> bool:
        return self.recovery is None and self.engine.ready


class PooledEngine:
    """An `Engine` over members that serve the same model, on this machine or others.

    A thread stays with one member, whose cache has its prefix: of all members the one with the highest hash
    of name and thread (rendezvous hashing: Thaler and Ravishankar, "Using Name-Based Mappings to Increase
    Hit Rates", 1998). Every server that knows the members by the same names comes to the same choice,
    nothing is shared, and a member that comes or goes moves its own threads only: while it is not well, each
    to the one with the next highest hash. Other requests, and threads whose member is too busy, go to the
    least busy.
    """

    def __init__(self, members: Mapping[str, Engine], *, absent: Collection[str] = ()) -> None:
        """Takes over the members; made on the event loop.

        Args:
            members: engines by name; at least one. Names are the same on every server, such as targets.
            absent: names of those that did not answer yet.

        Raises:
            EngineFault: they serve different models.
        """
        self._model = _common_model(members)
        self._members = [_Member(name, engine) for name, engine in members.items()]
        self._closed = False
        for member in self._members:
            if member.name in absent:
                self._leave_alone(member)

    @property
    def model(self) -> ModelInfo:
        """The members' model, with the slots of all and the context of the smallest."""
        return self._model

    @property
    def ready(self) -> bool:
        """Whether a member is."""
        return not self._closed and any(member.well for member in self._members)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn, as `Engine.generate` says.

        A member that is overloaded is passed over. One that dies raises `EngineUnavailable` and is left
        alone: who asks again is served by another.
        """
        overload: EngineOverloaded | None = None
        for member in self._ranking(request.affinity):
            spoken = False
            member.generations += 1
            try:
                async with aclosing(member.engine.generate(request)) as events:
                    async for event in events:
                        spoken = spoken or not isinstance(event, PromptProgress)
                        yield event
                return
            except EngineOverloaded as error:
                if spoken:
                    raise
                overload = error
            except EngineUnavailable:
                self._leave_alone(member)
                raise
            finally:
                member.generations -= 1
        assert overload is not None
        raise overload

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, as `Engine.count_tokens` says, by whoever is there."""
        return await self._answer(lambda engine: engine.count_tokens(messages))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts, as `Engine.embed` says, by whoever is there."""
        return await self._answer(lambda engine: engine.embed(texts))

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until a member is ready, as `Engine.wait_ready` says."""
        self._require_open()
        waiting = {asyncio.create_task(self._wait_well(member, timeout_s)) for member in self._members}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None for task in done):
                    return
        finally:
            for task in waiting:
                task.cancel()
        self._require_open()
        raise EngineUnavailable("No engine of the pool answers.")

    async def aclose(self) -> None:
        """Closes all members. May be called twice."""
        self._closed = True
        for member in self._members:
            if member.recovery is not None:
                member.recovery.cancel()
        await asyncio.gather(*(member.engine.aclose() for member in self._members))

    def _ranking(self, affinity: str = "") -> list[_Member]:
        """Members in the order in which to ask them; never empty."""
        self._require_open()
        well = [member for member in self._members if member.well]
        # When none is, asking one says why, or waits for it.
        ranking = sorted(well or self._members, key=lambda member: member.load)
        if affinity:
            own = max(ranking, key=lambda member: _weight(member.name, affinity))
            if own.load - ranking[0].load <= AFFINITY_MARGIN:
                ranking.remove(own)
                ranking.insert(0, own)
        return ranking

    async def _answer(self, ask: Callable[[Engine], Awaitable[_Answer]]) -> _Answer:
        failure: EngineUnavailable | None = None
        for member in self._ranking():
            try:
                return await ask(member.engine)
            except EngineUnavailable as error:
                self._leave_alone(member)
                failure = error
        assert failure is not None
        raise failure

    async def _wait_well(self, member: _Member, timeout_s: float) -> None:
        if member.recovery is None:
            await member.engine.wait_ready(timeout_s)
            return
        await asyncio.wait({member.recovery}, timeout=timeout_s)
        if not member.well:
            raise EngineUnavailable(f"The engine {member.name} does not answer.")

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The engine is closed.")

    def _leave_alone(self, member: _Member) -> None:
        if member.recovery is None and not self._closed:
            member.recovery = asyncio.create_task(_recover(member), name=f"recovery of {member.name}")


async def _recover(member: _Member) -> None:
    """Waits until a member that failed is well."""
    while True:
        await asyncio.sleep(COOL_DOWN_S)
        try:
            await member.engine.wait_ready(_RECOVERY_TIMEOUT_S)
        except EngineError as error:
            _logger.warning("the engine %s is still not well: %s", member.name, error)
        else:
            member.recovery = None
            return


def _weight(name: str, affinity: str) -> bytes:
    return blake2b(f"{name}\0{affinity}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _common_model(members: Mapping[str, Engine]) -> ModelInfo:
    models = {name: engine.model for name, engine in members.items()}
    if len({model.name for model in models.values()}) != 1:
        told = ", ".join(f"{model.name} at {name}" for name, model in models.items())
        raise EngineFault(f"The engines of a pool have to serve the same model. They serve {told or 'none'}.")
    first = next(iter(models.values()))
    return replace(
        first,
        context_tokens=min(model.context_tokens for model in models.values()),
        slots=sum(model.slots for model in models.values()),
        native_reasoning=all(model.native_reasoning for model in models.values()),
        embeddings=all(model.embeddings for model in models.values()),
        logprobs=all(model.logprobs for model in models.values()),
    )
