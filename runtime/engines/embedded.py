"""An engine on this machine: a supervised worker process and a client of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Self

from runtime.engines.remote import RemoteEngine
from runtime.errors import EngineUnavailable
from runtime.events import EngineEvent
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo
from runtime.worker.spec import WorkerSpec
from runtime.worker.supervisor import Supervisor, Worker

_RESTART_TIMEOUT_S = 60.0


class EmbeddedEngine:
    """An `Engine` whose worker process it owns, and replaces when it dies."""

    def __init__(self, supervisor: Supervisor, model: ModelInfo) -> None:
        """Takes over a started supervisor; `start` makes one."""
        self._supervisor = supervisor
        self._model = model
        self._remote: RemoteEngine | None = None
        self._remote_worker: Worker | None = None
        self._connecting = asyncio.Lock()

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Self:
        """Starts a worker and waits until its model is loaded.

        Raises:
            WorkerStartFailed: it did not come up; the message is one line for people.
        """
        supervisor = Supervisor(spec)
        worker = await supervisor.start()
        return cls(supervisor, worker.model)

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        return self._model

    @property
    def ready(self) -> bool:
        """False while the worker is being restarted, and when it stays down."""
        return self._supervisor.worker is not None

    @property
    def worker_pid(self) -> int | None:
        """Process of the worker; None while there is none."""
        worker = self._supervisor.worker
        return worker.pid if worker else None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn, as `Engine.generate` says; waits up to a minute for a restart."""
        async with self._remote_in_use() as remote, aclosing(remote.generate(request)) as events:
            async for event in events:
                yield event

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, as `Engine.count_tokens` says."""
        async with self._remote_in_use() as remote:
            return await remote.count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts, as `Engine.embed` says."""
        async with self._remote_in_use() as remote:
            return await remote.embed(texts)

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits for a worker. Raises `EngineUnavailable` after `timeout_s`, or when none will come."""
        await self._supervisor.wait(timeout_s)

    async def aclose(self) -> None:
        """Ends all generations and the worker. May be called twice."""
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.aclose()
        await self._supervisor.aclose()

    @asynccontextmanager
    async def _remote_in_use(self) -> AsyncIterator[RemoteEngine]:
        """Gives a client of the worker that is ready now; a failing one is replaced."""
        worker = await self._supervisor.wait(_RESTART_TIMEOUT_S)
        try:
            yield await self._connected(worker)
        except EngineUnavailable:
            self._supervisor.lost(worker)
            raise

    async def _connected(self, worker: Worker) -> RemoteEngine:
        async with self._connecting:
            if self._remote is not None and self._remote_worker is worker:
                return self._remote
            previous, self._remote = self._remote, None
            if previous is not None:
                await previous.aclose()
            self._remote = await RemoteEngine.connect(worker.target)
            self._remote_worker = worker
            return self._remote
