"""A small OTLP receiver: what `assistants demo` and the tests look at traces with."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc

from assistants.telemetry.setup import EXTRA, TelemetryMisconfigured

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"

AttributeValue = str | bool | int | float | bytes | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """A span of any trace that another one refers to."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """A finished span. Ids are hexadecimal, times nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty if the span has no parent."""
    name: str
    kind: str
    """"internal", "server", "client", "producer" or "consumer"."""
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue]
    status: str
    """"unset", "ok" or "error"."""
    links: tuple[SpanLink, ...] = ()


class OtlpReceiver:
    """Receives spans over OTLP/gRPC on a free loopback port and keeps the newest.

    An asynchronous context manager: it listens inside `async with`.

    Args:
        max_spans: how many spans are kept.
    """

    def __init__(self, max_spans: int = 10_000) -> None:
        self._spans: deque[ReceivedSpan] = deque(maxlen=max_spans)
        self._arrival = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        """Starts to listen.

        Raises:
            TelemetryMisconfigured: OTLP's protocol buffers are not installed.
        """
        try:
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
        except ModuleNotFoundError as error:
            raise TelemetryMisconfigured(
                f"Receiving traces needs OTLP's protocol buffers: pip install '{EXTRA}'."
            ) from error

        async def export(
            request: "ExportTraceServiceRequest", context: object
        ) -> "ExportTraceServiceResponse":
            await self._keep(request)
            return trace_service_pb2.ExportTraceServiceResponse()

        handler = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
            response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
        )
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),)
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    @property
    def endpoint(self) -> str:
        """Value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """In the order of their arrival."""
        return tuple(self._spans)

    async def wait_for(
        self, predicate: Callable[[Sequence[ReceivedSpan]], bool], timeout_s: float
    ) -> tuple[ReceivedSpan, ...]:
        """Waits until the spans received so far satisfy the predicate, and returns them.

        Raises:
            TimeoutError: they do not within `timeout_s` seconds.
        """
        async with asyncio.timeout(timeout_s), self._arrival:
            await self._arrival.wait_for(lambda: predicate(self.spans))
            return self.spans

    async def _keep(self, request: "ExportTraceServiceRequest") -> None:
        async with self._arrival:
            self._spans.extend(
                _received(span)
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self._arrival.notify_all()


def _received(span: "Span") -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={attribute.key: _value(attribute.value) for attribute in span.attributes},
        status=span.status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        links=tuple(
            SpanLink(trace_id=link.trace_id.hex(), span_id=link.span_id.hex()) for link in span.links
        ),
    )


def _value(value: "AnyValue") -> AttributeValue:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return {item.key: _value(item.value) for item in value.kvlist_value.values}
        case scalar:
            scalar_value: str | bool | int | float | bytes = getattr(value, scalar)
            return scalar_value
