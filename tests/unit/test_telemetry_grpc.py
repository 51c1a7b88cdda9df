"""The SERVER span of an rpc, over a real grpc.aio server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, format_span_id, format_trace_id

from assistants.telemetry.grpc import TracingInterceptor, inject_metadata
from assistants.telemetry.observer import current_traceparent
from assistants.v1 import (
    run_event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
)

GET_THREAD = "assistants.v1.ThreadService/GetThread"
WATCH_RUN = "assistants.v1.RunService/WatchRun"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SECRET = "what was said"


class Spans(SpanExporter):
    """Finished spans, to be waited for: one may end just after its client was answered."""

    def __init__(self) -> None:
        self.finished: asyncio.Queue[ReadableSpan] = asyncio.Queue()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self.finished.put_nowait(span)
        return SpanExportResult.SUCCESS

    async def one(self) -> ReadableSpan:
        async with asyncio.timeout(10):
            return await self.finished.get()


class Threads(thread_service_pb2_grpc.ThreadServiceServicer):
    """Answers as the name of the thread asks."""

    seen: str | None = None

    async def GetThread(
        self,
        request: thread_service_pb2.GetThreadRequest,
        context: "grpc.aio.ServicerContext[object, object]",
    ) -> thread_service_pb2.Thread:
        self.seen = current_traceparent()
        match request.name:
            case "threads/abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such thread")
            case "threads/unavailable":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
            case "threads/bug":
                raise ValueError(SECRET)
            case "threads/set":
                context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            case "threads/late":
                await asyncio.Event().wait()
        return thread_service_pb2.Thread(name=request.name)


class Runs(run_service_pb2_grpc.RunServiceServicer):
    """Streams events for ever, unless told otherwise."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []
        self.closed = asyncio.Event()

    async def WatchRun(
        self, request: run_service_pb2.WatchRunRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        try:
            for sequence in range(1, 1_000_000):
                self.seen.append(current_traceparent())
                yield run_event_pb2.RunEvent(sequence=sequence)
                if request.name.endswith("/short") and sequence == 2:
                    return
                if request.name.endswith("/abort"):
                    await context.abort(grpc.StatusCode.DATA_LOSS, "events are gone")
                await asyncio.sleep(0)
        finally:
            self.closed.set()


class Server:
    """A server with the interceptor, and stubs of it."""

    def __init__(self, channel: grpc.aio.Channel, threads: Threads, runs: Runs, spans: Spans) -> None:
        self.threads, self.runs, self.spans = threads, runs, spans
        self.thread_stub = thread_service_pb2_grpc.ThreadServiceStub(channel)
        self.run_stub = run_service_pb2_grpc.RunServiceStub(channel)
        self.health_stub = health_pb2_grpc.HealthStub(channel)


@asynccontextmanager
async def serving(spans: Spans, interceptor: TracingInterceptor) -> AsyncIterator[Server]:
    # The other methods stay as generated: unimplemented.
    threads, runs = Threads(), Runs()  # type: ignore[abstract]
    server = grpc.aio.server(interceptors=(interceptor,))
    thread_service_pb2_grpc.add_ThreadServiceServicer_to_server(threads, server)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Server(channel, threads, runs, spans)
    finally:
        await server.stop(grace=None)


@pytest.fixture
async def provider() -> AsyncIterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
async def server(provider: TracerProvider) -> AsyncIterator[Server]:
    spans = Spans()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    interceptor = TracingInterceptor(server_address="assistants.test", server_port=443, provider=provider)
    async with serving(spans, interceptor) as server:
        yield server


async def get_thread(server: Server, name: str, timeout_s: float = 10) -> grpc.StatusCode:
    try:
        await server.thread_stub.GetThread(
            thread_service_pb2.GetThreadRequest(name=f"threads/{name}"), timeout=timeout_s
        )
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_call_is_a_server_span_under_the_callers(server: Server) -> None:
    request = thread_service_pb2.GetThreadRequest(name="threads/a")
    await server.thread_stub.GetThread(request, metadata=(("traceparent", PARENT),))

    span = await server.spans.one()
    assert span.name == GET_THREAD
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert format_trace_id(span.context.trace_id) == TRACE_ID
    assert format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    peer_port = span.attributes["network.peer.port"]
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": GET_THREAD,
        "rpc.status_code": "OK",
        "server.address": "assistants.test",
        "server.port": 443,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": peer_port,
    }
    assert server.threads.seen == f"00-{TRACE_ID}-{format_span_id(span.context.span_id)}-01"


@pytest.mark.parametrize(
    ("name", "code", "is_error"),
    [
        ("abort", grpc.StatusCode.NOT_FOUND, False),
        ("set", grpc.StatusCode.FAILED_PRECONDITION, False),
        ("unavailable", grpc.StatusCode.UNAVAILABLE, True),
        ("bug", grpc.StatusCode.UNKNOWN, True),
    ],
)
async def test_only_codes_of_the_servers_fault_are_errors(
    server: Server, name: str, code: grpc.StatusCode, is_error: bool
) -> None:
    assert await get_thread(server, name) is code

    span = await server.spans.one()
    assert span.attributes is not None
    assert span.attributes["rpc.status_code"] == code.name
    assert span.attributes.get("error.type") == (code.name if is_error else None)
    assert span.status.status_code is (StatusCode.ERROR if is_error else StatusCode.UNSET)
    assert [event.attributes for event in span.events] == (
        [{"exception.type": "ValueError"}] if name == "bug" else []
    )
    assert SECRET not in span.to_json()


async def test_a_deadline_that_passes_is_an_error(server: Server) -> None:
    assert await get_thread(server, "late", timeout_s=0.2) is grpc.StatusCode.DEADLINE_EXCEEDED

    span = await server.spans.one()
    assert span.attributes is not None
    assert span.attributes["rpc.status_code"] == "DEADLINE_EXCEEDED"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_stream_is_one_span_that_is_current_at_each_step(server: Server) -> None:
    call = server.run_stub.WatchRun(run_service_pb2.WatchRunRequest(name="threads/a/runs/short"))
    assert [event.sequence async for event in call] == [1, 2]

    span = await server.spans.one()
    assert span.name == WATCH_RUN
    assert span.attributes is not None
    assert span.attributes["rpc.status_code"] == "OK"
    (traceparent,) = set(server.runs.seen)
    assert traceparent is not None
    assert format_span_id(span.context.span_id) in traceparent


async def test_a_stream_that_the_client_leaves_early(server: Server) -> None:
    call = server.run_stub.WatchRun(run_service_pb2.WatchRunRequest(name="threads/a/runs/long"))
    assert (await anext(aiter(call))).sequence == 1
    call.cancel()

    span = await server.spans.one()
    assert span.attributes is not None
    assert span.attributes["rpc.status_code"] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()
    assert server.runs.closed.is_set(), "the handler's generator is closed before the span ends"


async def test_a_stream_that_aborts(server: Server) -> None:
    call = server.run_stub.WatchRun(run_service_pb2.WatchRunRequest(name="threads/a/runs/abort"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS

    span = await server.spans.one()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "DATA_LOSS"


async def test_health_checks_are_not_traced(server: Server) -> None:
    await server.health_stub.Check(health_pb2.HealthCheckRequest())
    await get_thread(server, "a")

    assert (await server.spans.one()).name == GET_THREAD


async def test_while_tracing_is_off_handlers_pass_unwrapped() -> None:
    async with serving(Spans(), TracingInterceptor(provider=NoOpTracerProvider())) as server:
        assert await get_thread(server, "a") is grpc.StatusCode.OK
        assert server.threads.seen is None


async def test_streaming_requests_are_traced_too(provider: TracerProvider) -> None:
    spans = Spans()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def count(requests: AsyncIterator[empty_pb2.Empty], context: object) -> empty_pb2.Empty:
        async for _ in requests:
            pass
        return empty_pb2.Empty()

    async def echo(
        requests: AsyncIterator[empty_pb2.Empty], context: object
    ) -> AsyncIterator[empty_pb2.Empty]:
        async for request in requests:
            yield request

    server = grpc.aio.server(interceptors=(TracingInterceptor(provider=provider),))
    handlers = {
        "Count": grpc.stream_unary_rpc_method_handler(count, empty_pb2.Empty.FromString, _serialize),
        "Echo": grpc.stream_stream_rpc_method_handler(echo, empty_pb2.Empty.FromString, _serialize),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Streams", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        counting: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            "/test.Streams/Count"
        )
        assert await counting(iter([b"", b""])) == b""
        assert (await spans.one()).name == "test.Streams/Count"
        echoing: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/test.Streams/Echo"
        )
        assert [response async for response in echoing(iter([b"", b""]))] == [b"", b""]
        assert (await spans.one()).name == "test.Streams/Echo"
    await server.stop(grace=None)


def _serialize(message: empty_pb2.Empty) -> bytes:
    return message.SerializeToString()


def test_the_current_context_goes_into_outgoing_metadata(provider: TracerProvider) -> None:
    assert tuple(inject_metadata((("authorization", "x"),))) == (("authorization", "x"),)
    with trace.use_span(provider.get_tracer("test").start_span("caller")):
        traceparent = current_traceparent()
        assert tuple(inject_metadata((("authorization", "x"),))) == (
            ("authorization", "x"),
            ("traceparent", traceparent),
        )
