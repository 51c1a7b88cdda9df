"""Turns the errors of operations into gRPC statuses; logs and hides bugs."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from assistants.domain.errors import AssistantsError, InvalidArgument, Violation
from assistants.services.status import internal_status, status_of
from assistants.telemetry.observer import current_traceparent, trace_id_of

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_Read: TypeAlias = Callable[[bytes], Any] | None

_logger = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Wraps the handler of an rpc."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/assistants."):
            return handler
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guarded_stream(method, handler.unary_stream, handler.request_deserializer),
                request_deserializer=None,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                _guarded_upload(method, handler.stream_unary, handler.request_deserializer),
                request_deserializer=None,
                response_serializer=handler.response_serializer,
            )
        assert handler.unary_unary, "no service of ours takes a stream and gives one"
        return grpc.unary_unary_rpc_method_handler(
            _guarded(method, handler.unary_unary, handler.request_deserializer),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )


def _guarded(method: str, behavior: Callable[..., Any], read: _Read) -> Callable[..., Any]:
    async def serve(received: bytes, context: _Context) -> object:
        async with _told(method, context):
            return await behavior(_request(read, received), context)

    return serve


def _guarded_upload(method: str, behavior: Callable[..., Any], read: _Read) -> Callable[..., Any]:
    async def serve(received: AsyncIterator[bytes], context: _Context) -> object:
        async with _told(method, context):
            return await behavior((_request(read, piece) async for piece in received), context)

    return serve


def _guarded_stream(method: str, behavior: Callable[..., Any], read: _Read) -> Callable[..., Any]:
    assert inspect.isasyncgenfunction(behavior)

    async def serve(received: bytes, context: _Context) -> None:
        async with (
            _told(method, context),
            aclosing(behavior(_request(read, received), context)) as responses,
        ):
            async for response in responses:
                await context.write(response)

    return serve


def _request(read: _Read, received: bytes) -> object:
    """Reads a request here, and not in gRPC, which takes bytes that are none for a fault of ours."""
    assert read is not None
    try:
        return read(received)
    except DecodeError as error:
        raise InvalidArgument(Violation("request", f"cannot be read: {error}")) from error


@asynccontextmanager
async def _told(method: str, context: _Context) -> AsyncIterator[None]:
    """Ends the rpc with the status of whatever is raised within."""
    try:
        yield
    except AssistantsError as error:
        await context.abort_with_status(status_of(error))
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        _logger.error("%s failed", method, exc_info=error)
        await context.abort_with_status(internal_status(trace_id_of(current_traceparent())))
