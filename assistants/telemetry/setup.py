"""Configuration of OpenTelemetry's SDK by its standard variables, and nothing else.

| Variable | Meaning |
|---|---|
| OTEL_SDK_DISABLED | true: nothing is set up |
| OTEL_TRACES_EXPORTER | otlp, console or none, or several with commas between |
| OTEL_EXPORTER_OTLP_(TRACES_)ENDPOINT | where to; alone, it means otlp |
| OTEL_EXPORTER_OTLP_(TRACES_)PROTOCOL | grpc (default) or http/protobuf |
| OTEL_SERVICE_NAME | "assistants" if not given, here or in OTEL_RESOURCE_ATTRIBUTES |

The SDK and its exporters read the rest themselves: headers, timeouts,
samplers, batch sizes. With neither exporter nor endpoint nothing is set up,
and the SDK is not even imported.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from opentelemetry import trace

from assistants.telemetry import semconv
from assistants.telemetry.tracing import own_version

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor

_DEFAULT_SERVICE_NAME = "assistants"
EXTRA = "assistants-runtime[otel]"

_DISABLED = "OTEL_SDK_DISABLED"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_OTLP_MODULES = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}


class TelemetryMisconfigured(Exception):
    """A telemetry variable cannot be obeyed; the message is one line for people."""


class Shutdown:
    """Flushes and stops what `configure` set up."""

    def __init__(self, *stops: Callable[[], object]) -> None:
        self._stops = stops

    def __call__(self, timeout_s: float = 5.0) -> bool:
        """Exports what is buffered and stops; a second call does nothing. Blocks.

        Args:
            timeout_s: how long to wait, in seconds, for a backend that does not answer.

        Returns:
            False if the time ran out, and what was still buffered is lost.
        """
        stops, self._stops = self._stops, ()
        # The SDK waits up to 30 s for each exporter and takes no other limit,
        # hence daemon threads, which can be left behind.
        threads = [Thread(target=stop, name="telemetry-shutdown", daemon=True) for stop in stops]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def configure() -> Shutdown:
    """Sets up the process's tracer provider as the environment says. Called once, at start.

    Raises:
        TelemetryMisconfigured: an exporter or protocol is unknown, or not installed.
    """
    if _variable(_DISABLED).lower() == "true":
        return Shutdown()
    exporters = _trace_exporters()
    if not exporters:
        return Shutdown()

    from opentelemetry.sdk.trace import TracerProvider

    processors = [_PROCESSORS[exporter]() for exporter in exporters]
    # The SDK's own exit hook waits longer than anybody does; Shutdown replaces it.
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return Shutdown(provider.shutdown)


def _trace_exporters() -> list[str]:
    chosen = _variable(_EXPORTER)
    if not chosen:
        return ["otlp"] if _first(_ENDPOINTS) is not None else []
    names = list(dict.fromkeys(name.strip() for name in chosen.split(",")))
    for name in names:
        if name not in _PROCESSORS and name != "none":
            raise TelemetryMisconfigured(
                f"{_EXPORTER}={chosen!r}: the exporter is one of {', '.join(_PROCESSORS)}, none."
            )
    return [name for name in names if name != "none"]


def _otlp_processor() -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    variable, protocol = _first(_PROTOCOLS) or (_PROTOCOLS[-1], "grpc")
    if protocol not in _OTLP_MODULES:
        raise TelemetryMisconfigured(
            f"{variable}={protocol!r}: the protocol is one of {', '.join(_OTLP_MODULES)}."
        )
    try:
        module = import_module(_OTLP_MODULES[protocol])
    except ModuleNotFoundError as error:
        cause, value = _otlp_cause()
        raise TelemetryMisconfigured(
            f"{cause}={value!r} needs the OTLP exporters: pip install '{EXTRA}'."
        ) from error
    return BatchSpanProcessor(module.OTLPSpanExporter())


def _console_processor() -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    # Standard output belongs to the server's ready line.
    return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr))


_PROCESSORS = {"otlp": _otlp_processor, "console": _console_processor}


def _resource() -> "Resource":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = Resource({semconv.SERVICE_NAME: _DEFAULT_SERVICE_NAME, semconv.SERVICE_VERSION: own_version()})
    # Attributes given to `create` beat the environment, so the environment is merged in first.
    return Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)


def _otlp_cause() -> tuple[str, str]:
    """The variable, and its value, that asks for OTLP."""
    if chosen := _variable(_EXPORTER):
        return _EXPORTER, chosen
    return _first(_ENDPOINTS) or (_EXPORTER, "otlp")


def _first(names: tuple[str, ...]) -> tuple[str, str] | None:
    """The first of the variables that is set, and its value."""
    return next(((name, value) for name in names if (value := _variable(name))), None)


def _variable(name: str) -> str:
    """Its value without surrounding space; empty means not set, as OpenTelemetry has it."""
    return os.environ.get(name, "").strip()
