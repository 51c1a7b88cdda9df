"""An engine on this machine: a supervised worker process and a client of it."""

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

    def __init__(self, supervisor: Supervisor, worker: Worker) -> None:
        """Takes over a started supervisor and its first worker; `start` makes them."""
        self._supervisor = supervisor
        self._model = worker.model
        self._worker = worker
        self._remote = RemoteEngine.at(worker.target, worker.model)

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Self:
        """Starts a worker and waits until its model is loaded.

        Raises:
            WorkerStartFailed: it did not come up; the message is one line for people.
        """
        supervisor = Supervisor(spec)
        worker = await supervisor.start()
        return cls(supervisor, worker)

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
        await self._remote.aclose()
        await self._supervisor.aclose()

    @asynccontextmanager
    async def _remote_in_use(self) -> AsyncIterator[RemoteEngine]:
        """Gives a client of the worker that is ready now; one that fails is replaced."""
        worker = await self._supervisor.wait(_RESTART_TIMEOUT_S)
        remote = self._remote
        if worker is not self._worker:
            previous, remote = remote, RemoteEngine.at(worker.target, worker.model)
            self._worker, self._remote = worker, remote
            await previous.aclose()
        try:
            yield remote
        except EngineUnavailable:
            self._supervisor.lost(worker)
            raise
