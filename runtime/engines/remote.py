"""An engine in another process: a client of runtime.v1.ReasoningEngine."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Self, TypeVar

import grpc

from runtime.engines import wire
from runtime.errors import EngineFault, EngineUnavailable
from runtime.events import EngineEvent, TurnEnd
from runtime.types import ChatMessage, Embeddings, GenerateRequest, ModelInfo
from runtime.v1 import reasoning_engine_pb2 as pb
from runtime.v1 import reasoning_engine_pb2_grpc as pb_grpc
from runtime.worker.server import MOST_MESSAGE_BYTES
from runtime.worker.status import to_error

_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    # A machine that is gone says nothing: only a ping finds out.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Without these, channels to the same target share a connection, and its death.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class RemoteEngine:
    """An `Engine` on a worker at a gRPC target."""

    def __init__(self, channel: grpc.aio.Channel, model: ModelInfo) -> None:
        """Takes over a channel; `connect` and `at` make one."""
        self._channel = channel
        self._stub = pb_grpc.ReasoningEngineStub(channel)
        self._model = model
        self._closed = False

    @classmethod
    def at(cls, target: str, model: ModelInfo) -> Self:
        """Makes a client of a worker whose model is known; connects on the first call.

        Args:
            target: `unix:/path` or `host:port`; there is no encryption.
            model: what the worker serves.
        """
        return cls(grpc.aio.insecure_channel(target, options=_OPTIONS), model)

    @classmethod
    async def connect(cls, target: str, *, timeout_s: float = 10.0) -> Self:
        """Connects to a worker and asks for its model.

        Args:
            target: `unix:/path` or `host:port`; there is no encryption.
            timeout_s: how long to wait for the worker.

        Raises:
            EngineUnavailable: it does not answer.
        """
        channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        stub = pb_grpc.ReasoningEngineStub(channel)
        try:
            model = await stub.GetModel(pb.GetModelRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            await channel.close()
            raise EngineUnavailable(f"No worker answers at {target}: {error.details()}") from error
        except asyncio.CancelledError:
            await channel.close()
            raise
        return cls(channel, wire.model_from_proto(model))

    @property
    def model(self) -> ModelInfo:
        """The model as the worker described it on `connect`."""
        return self._model

    @property
    def ready(self) -> bool:
        """Whether the worker was there when it was last needed."""
        return not self._closed and self._channel.get_state(try_to_connect=True) in (
            grpc.ChannelConnectivity.READY,
            grpc.ChannelConnectivity.IDLE,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generates one turn, as `Engine.generate` says."""
        self._require_open()
        call = self._stub.Generate(wire.request_to_proto(request))
        ended = False
        try:
            async for message in call:
                event = wire.event_from_proto(message)
                if event is not None:
                    ended = isinstance(event, TurnEnd)
                    yield event
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error
        except asyncio.CancelledError:
            self._raise_unless_cancelled()
            raise
        finally:
            call.cancel()
        if not ended:
            raise EngineFault("The worker ended a stream without an end event.")

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the tokens of each message, as `Engine.count_tokens` says."""
        request = pb.CountTokensRequest(messages=[wire.message_to_proto(message) for message in messages])
        response = await self._answer(self._stub.CountTokens, request)
        return list(response.tokens)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts, as `Engine.embed` says."""
        response = await self._answer(self._stub.Embed, wire.embed_request_to_proto(texts))
        return wire.embeddings_from_proto(response)

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until the worker answers, as `Engine.wait_ready` says: with the model that it had."""
        self._require_open()
        try:
            model = await self._stub.GetModel(pb.GetModelRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"The worker does not answer: {error.details()}") from error
        if model.name != self._model.name:
            raise EngineUnavailable(f"The worker has the model {model.name}, not {self._model.name}.")

    async def aclose(self) -> None:
        """Ends all generations and closes the channel. May be called twice."""
        self._closed = True
        await self._channel.close()

    async def _answer(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        self._require_open()
        try:
            return await method(request)
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error
        except asyncio.CancelledError:
            self._raise_unless_cancelled()
            raise

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The engine is closed.")

    def _raise_unless_cancelled(self) -> None:
        """Raises `EngineUnavailable` when it is the call that was cancelled, not its reader.

        gRPC raises the same `CancelledError` for both.
        """
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            reason = "The engine was closed." if self._closed else "The worker cancelled the call."
            raise EngineUnavailable(reason) from None
