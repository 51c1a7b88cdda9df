"""Wiring: from a configuration to a server that answers, and back down."""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from assistants.config import DRAIN_GRACE_S, ServerConfig
from assistants.operations.assistants import AssistantOperations
from assistants.operations.chat import ChatOperations
from assistants.operations.messages import MessageOperations
from assistants.operations.models import ModelOperations
from assistants.operations.runs import RunOperations
from assistants.operations.thread_transfer import ThreadTransferOperations
from assistants.operations.threads import ThreadOperations
from assistants.runs.context import ThreadContexts
from assistants.runs.executor import RunExecutor
from assistants.runs.sweep import Sweep
from assistants.runs.watch import Watch
from assistants.server.dispatch import dispatch
from assistants.server.engine import served_model, start_engine, unloaded_models
from assistants.server.health import RUN_SERVICE, Health
from assistants.server.interceptors import ErrorInterceptor
from assistants.services.assistants import AssistantServicer
from assistants.services.chat_completions import ChatCompletionServicer
from assistants.services.messages import MessageServicer
from assistants.services.models import ModelServicer
from assistants.services.runs import RunServicer
from assistants.services.thread_transfer import ThreadTransferServicer
from assistants.services.threads import ThreadServicer
from assistants.storage.assistants import SqlAssistants
from assistants.storage.database import Database
from assistants.storage.event_log import SqlEventLog
from assistants.storage.messages import SqlMessages
from assistants.storage.opening import postgres_database, sqlite_database
from assistants.storage.requests import SqlRequests
from assistants.storage.retention import SqlEventRetention
from assistants.storage.run_store import SqlRunStore
from assistants.storage.thread_transfer import SqlThreadTransfer
from assistants.storage.threads import SqlThreads
from assistants.telemetry.grpc import TracingInterceptor
from assistants.telemetry.observer import RunTelemetry
from assistants.v1 import (
    assistant_service_pb2,
    assistant_service_pb2_grpc,
    chat_completion_service_pb2,
    chat_completion_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
    thread_transfer_service_pb2,
    thread_transfer_service_pb2_grpc,
)
from runtime.engines.base import Engine

_SERVICES = (
    assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"].full_name,
    thread_service_pb2.DESCRIPTOR.services_by_name["ThreadService"].full_name,
    thread_transfer_service_pb2.DESCRIPTOR.services_by_name["ThreadTransferService"].full_name,
    message_service_pb2.DESCRIPTOR.services_by_name["MessageService"].full_name,
    RUN_SERVICE,
    chat_completion_service_pb2.DESCRIPTOR.services_by_name["ChatCompletionService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_OPTIONS = (
    # Two servers on one port would share its calls.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
_RUNS_PER_SLOT = 2
"""While a run is between two turns, another keeps its slot of the engine busy."""
_HIGHEST_PORT = 65_535
_LAST_EVENTS_S = 1.0
"""How long streams may take to deliver what was said when the last run was left."""

_logger = logging.getLogger(__name__)


class AddressInUse(Exception):
    """The server cannot listen there; the message is one line for people."""


class Server:
    """One server. An asynchronous context: started on entry, drained on exit."""

    def __init__(self, config: ServerConfig, *, engine: Engine | None = None) -> None:
        self._config = config
        self._given_engine = engine
        self._resources = AsyncExitStack()
        self.address = ""
        """Where it listens, once started."""
        self.model = ""
        """Name of the model that it serves, once started."""

    async def __aenter__(self) -> Self:
        """Starts everything, or nothing.

        Raises:
            DatabaseError, BrokerError, ModelError, WorkerStartFailed, EngineError, AddressInUse: one
                line each.
        """
        try:
            await self._start()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def _start(self) -> None:
        config, opened = self._config, self._resources
        database = await opened.enter_async_context(_database(config))
        engine = self._given_engine or await start_engine(config)
        opened.push_async_callback(engine.aclose)
        self.model = engine.model.name

        slots = engine.model.slots * _RUNS_PER_SLOT
        shared = await opened.enter_async_context(dispatch(config, engine, slots=slots))

        event_log = SqlEventLog(database)
        store = SqlRunStore(database, event_log)
        assistants, threads, messages = (
            SqlAssistants(database),
            SqlThreads(database),
            SqlMessages(database),
        )
        telemetry = RunTelemetry()
        executor = RunExecutor(
            store=store,
            event_log=event_log,
            queue=shared.queue,
            contexts=ThreadContexts(threads, messages, engine),
            engine=engine,
            telemetry=telemetry,
            slots=slots,
        )
        watch = Watch(event_log, live=shared.live, executes=executor.executes)
        sweep = Sweep(
            store=store,
            queue=shared.queue,
            executor=executor,
            requests=SqlRequests(database),
            events=SqlEventRetention(database),
            event_retention=timedelta(seconds=config.event_retention_s),
        )
        models = ModelOperations(
            engine, served_model(engine, config), unloaded_models(config, engine.model.name)
        )
        runs = RunOperations(
            store=store,
            assistants=assistants,
            threads=threads,
            models=models,
            executor=executor,
            queue=shared.queue,
            signals=shared.signals(executor),
            watch=watch,
        )

        chat = ChatOperations(engine, models, telemetry)

        server = grpc.aio.server(
            interceptors=(_tracing(config.grpc_address), ErrorInterceptor()), options=_OPTIONS
        )
        assistant_service_pb2_grpc.add_AssistantServiceServicer_to_server(
            AssistantServicer(AssistantOperations(assistants, models)), server
        )
        thread_service_pb2_grpc.add_ThreadServiceServicer_to_server(
            ThreadServicer(ThreadOperations(threads, runs)), server
        )
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(
            MessageServicer(MessageOperations(messages, threads)), server
        )
        thread_transfer_service_pb2_grpc.add_ThreadTransferServiceServicer_to_server(
            ThreadTransferServicer(ThreadTransferOperations(SqlThreadTransfer(database))), server
        )
        run_service_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(runs), server)
        chat_completion_service_pb2_grpc.add_ChatCompletionServiceServicer_to_server(
            ChatCompletionServicer(chat), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(models), server)
        status = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        reflection.enable_server_reflection(
            (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            server,
        )
        self.address = _listen(server, config.grpc_address)
        _warn_if_reachable(self.address)

        await shared.start(event_log=event_log, sweep=sweep, watch=watch)
        executor.start()
        sweeping = asyncio.create_task(sweep.run(), name="sweep")
        reporting = Health(status, engine=engine, sweep=sweep, dispatch=shared)
        watching = asyncio.create_task(reporting.report(), name="health")
        await server.start()

        async def drain() -> None:
            await status.enter_graceful_shutdown()
            for task in (sweeping, watching):
                task.cancel()
            await asyncio.wait((sweeping, watching))
            stopping = asyncio.create_task(server.stop(DRAIN_GRACE_S + _LAST_EVENTS_S))
            await asyncio.gather(executor.drain(shared.grace_s), chat.drain(DRAIN_GRACE_S))
            # Streams end with their runs. What is left watches something that ends elsewhere.
            await server.stop(_LAST_EVENTS_S)
            await stopping

        opened.push_async_callback(drain)


def _database(config: ServerConfig) -> AbstractAsyncContextManager[Database]:
    if config.database_url is None:
        return sqlite_database(config.data_dir)
    return postgres_database(config.database_url, shared=config.nats_url is not None)


def _listen(server: grpc.aio.Server, address: str) -> str:
    _, _, port_text = address.rpartition(":")
    # gRPC would take port 443 where there is none, and the remainder of one that is too large.
    if not address.startswith("unix:") and not (port_text.isdecimal() and int(port_text) <= _HIGHEST_PORT):
        raise AddressInUse(f"cannot listen on {address}: it is not host:port or unix:PATH")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressInUse(
            f"cannot listen on {address}: it is in use, or not an address of this machine"
        ) from error
    if address.startswith("unix:"):
        return address
    host, _, _ = address.rpartition(":")
    return f"{host}:{port}"


def _warn_if_reachable(address: str) -> None:
    host = address.rpartition(":")[0].strip("[]")
    if not address.startswith("unix:") and host not in ("localhost", "::1") and not host.startswith("127."):
        _logger.warning("listening on %s without authentication: whoever reaches it may use it", address)


def _tracing(address: str) -> TracingInterceptor:
    host, _, port = address.rpartition(":")
    if host == "unix" or not port.isdecimal() or port == "0":
        return TracingInterceptor(server_address=address)
    return TracingInterceptor(server_address=host, server_port=int(port))
