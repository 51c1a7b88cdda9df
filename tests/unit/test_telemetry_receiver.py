"""The OTLP receiver, and the tree that is drawn of what it received."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from assistants.telemetry.receiver import OtlpReceiver, ReceivedSpan, SpanLink
from assistants.telemetry.tree import WIDTH, render_tree

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
MODEL = "qwen3-1.7b-q4_k_m"

TREE = f"""\
trace {TRACE_ID}  5 spans  1,810.0 ms

SPAN                                 KIND           MS     IN  OUT   TTFT  NOTE
assistants.v1.RunService/CreateRun   server        3.2
└─ invoke_agent Math tutor           internal  1,808.0                     completed, attempt 2
   ├─ chat qwen3-1.7b-q4_k_m         client    1,796.0  1,212  231  112.3
   │  └─ generate qwen3-1.7b-q4_k_m  server    1,789.0
   └─ chat qwen3-1.7b-q4_k_m         client        4.0                     EngineUnavailable"""


@pytest.fixture
async def receiver() -> AsyncIterator[OtlpReceiver]:
    async with OtlpReceiver(max_spans=3) as receiver:
        yield receiver


def exporting_to(receiver: OtlpReceiver) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=receiver.endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
    return provider


async def test_spans_arrive_as_they_were_sent(receiver: OtlpReceiver) -> None:
    provider = exporting_to(receiver)
    tracer = provider.get_tracer("test")
    parent = tracer.start_span("parent", kind=SpanKind.SERVER, start_time=1_000)
    child = tracer.start_span(
        "child",
        context=set_span_in_context(parent),
        kind=SpanKind.CLIENT,
        attributes={"text": "a", "yes": True, "count": 3, "ratio": 0.5, "list": ("a", "b")},
        links=(Link(parent.get_span_context()),),
        start_time=2_000,
    )
    child.set_status(Status(StatusCode.ERROR))
    child.end(3_000)
    parent.end(4_000)

    spans = await receiver.wait_for(lambda spans: len(spans) == 2, timeout_s=10)
    received = {span.name: span for span in spans}
    trace_id, parent_id = received["parent"].trace_id, received["parent"].span_id
    assert received["parent"] == ReceivedSpan(
        trace_id=trace_id,
        span_id=parent_id,
        parent_span_id="",
        name="parent",
        kind="server",
        start_ns=1_000,
        end_ns=4_000,
        attributes={},
        status="unset",
    )
    assert received["child"] == ReceivedSpan(
        trace_id=trace_id,
        span_id=received["child"].span_id,
        parent_span_id=parent_id,
        name="child",
        kind="client",
        start_ns=2_000,
        end_ns=3_000,
        attributes={"text": "a", "yes": True, "count": 3, "ratio": 0.5, "list": ["a", "b"]},
        status="error",
        links=(SpanLink(trace_id=trace_id, span_id=parent_id),),
    )
    provider.shutdown()


async def test_only_the_newest_are_kept(receiver: OtlpReceiver) -> None:
    provider = exporting_to(receiver)
    for index in range(5):
        provider.get_tracer("test").start_span(f"span {index}").end()

    spans = await receiver.wait_for(lambda spans: "span 4" in {span.name for span in spans}, timeout_s=10)
    assert [span.name for span in spans] == ["span 2", "span 3", "span 4"]
    provider.shutdown()


async def test_waiting_in_vain_ends(receiver: OtlpReceiver) -> None:
    with pytest.raises(TimeoutError):
        await receiver.wait_for(lambda spans: bool(spans), timeout_s=0.01)


def span(
    span_id: str,
    parent_span_id: str,
    name: str,
    kind: str,
    times_ms: tuple[float, float],
    **attributes: str | int | float,
) -> ReceivedSpan:
    """A span; `__` in the name of an attribute stands for a point."""
    start_ms, end_ms = times_ms
    return ReceivedSpan(
        trace_id=TRACE_ID,
        span_id=span_id,
        parent_span_id=parent_span_id,
        name=name,
        kind=kind,
        start_ns=round(start_ms * 1e6),
        end_ns=round(end_ms * 1e6),
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
        status="error" if "error__type" in attributes else "unset",
    )


RUN = (
    span("5", "2", f"chat {MODEL}", "client", (1801, 1805), error__type="EngineUnavailable"),
    span(
        "2",
        "1",
        "invoke_agent Math tutor",
        "internal",
        (2, 1810),
        assistants__run__state="completed",
        assistants__run__attempt=2,
    ),
    span("1", "", "assistants.v1.RunService/CreateRun", "server", (0, 3.2), rpc__status_code="OK"),
    span("4", "3", f"generate {MODEL}", "server", (10, 1799)),
    span(
        "3",
        "2",
        f"chat {MODEL}",
        "client",
        (4, 1800),
        gen_ai__usage__input_tokens=1212,
        gen_ai__usage__output_tokens=231,
        gen_ai__response__time_to_first_chunk=0.1123,
    ),
)


def test_a_run_as_a_tree() -> None:
    assert render_tree(RUN) == TREE


def test_a_tree_fits_the_terminal() -> None:
    wide = [replace(span, name=span.name * 4) for span in RUN]
    lines = render_tree(wide).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "…" in lines[3]


def test_a_span_whose_parent_is_missing_is_a_root() -> None:
    lines = render_tree([one for one in RUN if one.span_id != "1"]).splitlines()
    assert lines[3].startswith("invoke_agent")


def test_columns_without_values_are_left_out() -> None:
    (lonely,) = (one for one in RUN if one.span_id == "4")
    assert render_tree([lonely]).splitlines() == [
        f"trace {TRACE_ID}  1 span  1,789.0 ms",
        "",
        "SPAN                        KIND         MS",
        f"generate {MODEL}  server  1,789.0",
    ]


def test_a_refused_call_shows_its_code() -> None:
    refused = span("1", "", "get", "server", (0, 1), rpc__status_code="NOT_FOUND")
    assert render_tree([refused]).endswith("NOT_FOUND")


def test_a_tree_is_of_one_trace() -> None:
    with pytest.raises(ValueError, match="one trace, not 2"):
        render_tree([RUN[0], replace(RUN[1], trace_id="f" * 32)])
    with pytest.raises(ValueError, match="one trace, not 0"):
        render_tree([])
