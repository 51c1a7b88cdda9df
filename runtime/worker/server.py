"""Serves an engine over gRPC: the service runtime.v1.ReasoningEngine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from runtime.engines import wire
from runtime.engines.base import Engine
from runtime.errors import EngineError
from runtime.events import EngineEvent
from runtime.v1 import reasoning_engine_pb2 as pb
from runtime.v1 import reasoning_engine_pb2_grpc as pb_grpc
from runtime.worker.status import abort

SERVICE = pb.DESCRIPTOR.services_by_name["ReasoningEngine"].full_name
MOST_MESSAGE_BYTES = 64 * 1024 * 1024
"""A prompt may be long."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    # Clients find out by pings that this machine is gone; they must be allowed to.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two workers on one port would share the requests without knowing of each other.
    ("grpc.so_reuseport", 0),
)


class EngineServicer(pb_grpc.ReasoningEngineServicer):
    """Puts any `Engine` behind the service."""

    def __init__(self, engine: Engine) -> None:
        """Serves `engine`, which the caller closes."""
        self._engine = engine

    async def Generate(  # type: ignore[override]
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateEvent],
    ) -> None:
        """Streams one turn."""
        # Not a generator: a cancelled call would leave one suspended, with its
        # slot, until the garbage collector comes by.
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    await context.write(wire.event_to_proto(event))
        except EngineError as error:
            await abort(context, error)

    async def CountTokens(
        self,
        request: pb.CountTokensRequest,
        context: grpc.aio.ServicerContext[pb.CountTokensRequest, pb.CountTokensResponse],
    ) -> pb.CountTokensResponse:
        """Counts the tokens of each message."""
        try:
            messages = [wire.message_from_proto(message) for message in request.messages]
            return pb.CountTokensResponse(tokens=await self._engine.count_tokens(messages))
        except EngineError as error:
            await abort(context, error)

    async def Embed(
        self,
        request: pb.EmbedRequest,
        context: grpc.aio.ServicerContext[pb.EmbedRequest, pb.EmbedResponse],
    ) -> pb.EmbedResponse:
        """Embeds texts."""
        if not self._engine.model.embeddings:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED, f"The model {self._engine.model.name} gives no embeddings."
            )
        try:
            return wire.embeddings_to_proto(await self._engine.embed(list(request.texts)))
        except EngineError as error:
            await abort(context, error)

    async def GetModel(
        self,
        request: pb.GetModelRequest,
        context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.Model],
    ) -> pb.Model:
        """Describes the model."""
        return wire.model_to_proto(self._engine.model)

    def _events(self, request: pb.GenerateRequest) -> AsyncGenerator[EngineEvent]:
        return self._engine.generate(wire.request_from_proto(request))


async def serve(engine: Engine, target: str) -> tuple[grpc.aio.Server, str]:
    """Starts to serve an engine, with gRPC health beside it.

    Args:
        engine: is ready.
        target: `unix:/path` or `host:port`; port 0 is any free one.

    Returns:
        The server, and the target at which clients reach it.

    Raises:
        RuntimeError: the target cannot be listened at.
    """
    server = grpc.aio.server(options=_OPTIONS)
    pb_grpc.add_ReasoningEngineServicer_to_server(EngineServicer(engine), server)
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(target)
    await server.start()
    for service in ("", SERVICE):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    host, separator, asked_port = target.rpartition(":")
    return server, f"{host}:{port}" if separator and asked_port == "0" else target
