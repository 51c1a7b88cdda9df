"""One SERVER span an rpc, and the trace context in gRPC metadata.

The interceptor goes first in the server's list, for two reasons: spans then
cover the other interceptors, and a response generator is turned into a writer,
which an interceptor further out would have to know. The writer is what makes
it correct: the whole rpc runs in one task and one context, so the span is
attached and detached there even when the client leaves early. A generator
would be closed in another context.
"""

from __future__ import annotations  # grpc's types are generic in the stubs only

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import unquote

import grpc
from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, set_span_in_context
from opentelemetry.util.types import AttributeValue

from assistants.telemetry import semconv, tracing

Metadata = Sequence[tuple[str, str | bytes]]
_Behavior = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

_UNTRACED = ("/grpc.health.", "/grpc.reflection.")

_SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that are the server's fault; the others are the caller's."""

_HANDLER_FACTORIES = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def inject_metadata(metadata: Metadata = ()) -> Metadata:
    """The metadata of a call, with the current trace context added."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*metadata, *carrier.items())


class TracingInterceptor(grpc.aio.ServerInterceptor):
    """Makes the SERVER span of each rpc, current while its handler runs.

    Health checks, reflection, unknown methods and handlers that are not
    asynchronous pass untraced; all do while tracing is off.

    Args:
        server_address: host name or socket path that clients dial, if known.
        server_port: its port, if it has one.
        provider: where spans go; None is the process's own provider.
    """

    def __init__(
        self,
        *,
        server_address: str | None = None,
        server_port: int | None = None,
        provider: TracerProvider | None = None,
    ) -> None:
        self._tracer = tracing.tracer(semconv.RPC_SCHEMA_URL, provider)
        self._server: dict[str, AttributeValue] = {}
        if server_address is not None:
            self._server[semconv.SERVER_ADDRESS] = server_address
            if server_port is not None:
                self._server[semconv.SERVER_PORT] = server_port

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of an rpc."""
        handler = await continuation(handler_call_details)
        if self._tracer is None or handler is None or handler_call_details.method.startswith(_UNTRACED):
            return handler
        behavior = _asynchronous(handler)
        if behavior is None:
            return handler

        parent = propagate.extract(_text_values(handler_call_details.invocation_metadata))
        name = handler_call_details.method.removeprefix("/")
        attributes: dict[str, AttributeValue] = {
            semconv.RPC_SYSTEM_NAME: semconv.RPC_SYSTEM_GRPC,
            semconv.RPC_METHOD: name,
            **self._server,
        }
        start_span = self._tracer.start_span

        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            span = start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
            token = otel_context.attach(set_span_in_context(span, parent))
            try:
                response = await behavior(request, context)
            except BaseException as error:
                _record(span, context, error)
                raise
            else:
                _record(span, context)
                return response
            finally:
                otel_context.detach(token)
                span.end()

        return _HANDLER_FACTORIES[handler.request_streaming, handler.response_streaming](
            traced,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _asynchronous(handler: grpc.RpcMethodHandler[Any, Any]) -> _Behavior | None:
    behavior: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if inspect.iscoroutinefunction(behavior):
        return cast("_Behavior", behavior)
    if inspect.isasyncgenfunction(behavior):
        return _writing(behavior)
    return None


def _writing(behavior: Callable[..., AsyncGenerator[Any]]) -> _Behavior:
    async def write(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async with aclosing(behavior(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write


def _record(
    span: Span, context: grpc.aio.ServicerContext[Any, Any], error: BaseException | None = None
) -> None:
    if not span.is_recording():
        return
    code = _code_of(context, error)
    span.set_attribute(semconv.RPC_STATUS_CODE, code.name)
    span.set_attributes(_peer_attributes(context.peer()))
    if code in _SERVER_ERRORS:
        span.set_attribute(semconv.ERROR_TYPE, code.name)
        span.set_status(StatusCode.ERROR)
    if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
        # A bug. Its message may quote what was said, so its type has to do.
        span.add_event(semconv.EXCEPTION_EVENT, {semconv.EXCEPTION_TYPE: type(error).__qualname__})


def _code_of(context: grpc.aio.ServicerContext[Any, Any], error: BaseException | None) -> grpc.StatusCode:
    """The code that the client sees."""
    if isinstance(error, asyncio.CancelledError):
        # gRPC cancels the handler both when the client leaves and when its deadline passes.
        late = context.time_remaining() == 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
    # None until the handler sets it, whatever the stubs say.
    code = cast("grpc.StatusCode | None", context.code()) or grpc.StatusCode.OK
    if error is not None and code is grpc.StatusCode.OK:
        return grpc.StatusCode.UNKNOWN
    return code


def _text_values(metadata: Metadata) -> dict[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}


def _peer_attributes(peer: str) -> dict[str, AttributeValue]:
    """From gRPC's "ipv4:127.0.0.1:5051", "ipv6:%5B::1%5D:5051" or "unix:/path"."""
    family, _, address = unquote(peer).partition(":")
    if family not in ("ipv4", "ipv6"):
        return {semconv.NETWORK_PEER_ADDRESS: address} if address else {}
    host, _, port = address.rpartition(":")
    attributes: dict[str, AttributeValue] = {semconv.NETWORK_PEER_ADDRESS: host.strip("[]")}
    if port.isdecimal():
        attributes[semconv.NETWORK_PEER_PORT] = int(port)
    return attributes
