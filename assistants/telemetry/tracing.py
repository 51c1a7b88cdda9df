"""The tracer, and trace contexts as W3C `traceparent` strings.

A run outlives the call that created it, so its trace context is stored with it,
as one string. That string is always W3C, whatever OTEL_PROPAGATORS says about
the wire.
"""

from importlib.metadata import PackageNotFoundError, version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from assistants.telemetry import semconv

_W3C = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"


def own_version() -> str:
    """The version of this distribution; "0" in a tree that is not installed."""
    try:
        return version("assistants-runtime")
    except PackageNotFoundError:
        return "0"


def tracer(schema_url: str, provider: trace.TracerProvider | None = None) -> trace.Tracer | None:
    """The tracer to start spans with, or None while tracing is off.

    Ask after `setup.configure`: the answer is not revised later.

    Args:
        schema_url: revision of the conventions that the spans follow.
        provider: where spans go; None is the process's own provider.
    """
    provider = provider or trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer(semconv.SCOPE_NAME, own_version(), schema_url)


def context_of(traceparent: str | None) -> Context:
    """A context in which the span of that string is the parent; empty for None or garbage."""
    carrier = {_TRACEPARENT: traceparent} if traceparent else {}
    return _W3C.extract(carrier, context=Context())


def span_context_of(traceparent: str | None) -> trace.SpanContext:
    """The span that the string names; not valid for None or garbage."""
    return trace.get_current_span(context_of(traceparent)).get_span_context()


def traceparent_of(span: trace.Span) -> str | None:
    """The span as a string; None when it has no identity because tracing is off."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context=trace.set_span_in_context(span, Context()))
    return carrier.get(_TRACEPARENT)
