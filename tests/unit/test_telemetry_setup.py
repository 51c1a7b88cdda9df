"""Configuration by OTEL_* variables, each in a process of its own."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from assistants.telemetry.receiver import OtlpReceiver
from assistants.telemetry.setup import Shutdown

ROOT = Path(__file__).parents[2]

ONE_SPAN = """
from opentelemetry import trace
from assistants.telemetry.setup import configure

shutdown = configure()
trace.get_tracer("test").start_span("work").end()
assert shutdown(30.0)
assert shutdown(0.0), "the second call does nothing"
"""

SDK_STAYS_OUT = """
import sys
from assistants.telemetry import grpc, observer, receiver, tracing, tree
from assistants.telemetry.setup import configure

assert configure()(0.0)
assert tracing.tracer("") is None
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""

WITHOUT_THE_EXTRA = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.exporter", "opentelemetry.proto")):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""

LISTEN = """
import asyncio
from assistants.telemetry.receiver import OtlpReceiver

asyncio.run(OtlpReceiver().__aenter__())
"""


async def python(code: str, **variables: str) -> tuple[int | None, str, str]:
    """Exit status and both outputs of a process with no telemetry variables but these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code),
        cwd=ROOT,
        env=environment | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def complaint(code: str, **variables: str) -> str:
    """The last line of what a process dies of."""
    status, output, errors = await python(code, **variables)
    assert status == 1
    assert output == ""
    return errors.splitlines()[-1].removeprefix("assistants.telemetry.setup.TelemetryMisconfigured: ")


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
async def test_an_endpoint_alone_exports_over_otlp(variable: str) -> None:
    async with OtlpReceiver() as receiver:
        status, _, errors = await python(ONE_SPAN, **{variable: receiver.endpoint})
        assert (status, errors) == (0, "")
        (span,) = await receiver.wait_for(lambda spans: bool(spans), timeout_s=10)
    assert span.name == "work"
    assert span.kind == "internal"
    assert span.status == "unset"


async def test_the_exporter_alone_uses_the_endpoint_of_the_standard() -> None:
    code = """
from assistants.telemetry.setup import configure
from opentelemetry import trace
configure()
print(type(trace.get_tracer_provider()).__module__)
"""
    status, output, _ = await python(code, OTEL_TRACES_EXPORTER="otlp")
    assert (status, output) == (0, "opentelemetry.sdk.trace\n")


async def test_the_console_is_standard_error() -> None:
    status, output, errors = await python(ONE_SPAN, OTEL_TRACES_EXPORTER="console")
    assert (status, output) == (0, "")
    assert '"name": "work"' in errors
    assert '"service.name": "assistants"' in errors


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,deployment.environment.name=test"},
    ],
)
async def test_the_service_name_is_the_users(variables: dict[str, str]) -> None:
    status, _, errors = await python(ONE_SPAN, OTEL_TRACES_EXPORTER="console", **variables)
    assert status == 0
    assert '"service.name": "mine"' in errors


async def test_the_sampler_is_the_sdks() -> None:
    status, _, errors = await python(
        ONE_SPAN, OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="always_off"
    )
    assert (status, errors) == (0, "")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
    ],
)
async def test_off_means_that_the_sdk_is_not_imported(variables: dict[str, str]) -> None:
    assert await python(SDK_STAYS_OUT, **variables) == (0, "", "")


async def test_everything_is_imported_without_the_extra() -> None:
    assert await python(WITHOUT_THE_EXTRA + SDK_STAYS_OUT) == (0, "", "")


async def test_the_console_needs_no_extra() -> None:
    status, _, _ = await python(WITHOUT_THE_EXTRA + ONE_SPAN, OTEL_TRACES_EXPORTER="console")
    assert status == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER='zipkin': the exporter is one of otlp, console, none.",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='http/json': the protocol is one of grpc, http/protobuf.",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "udp"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='udp': the protocol is one of grpc, http/protobuf.",
        ),
    ],
)
async def test_what_is_unknown_is_refused(variables: dict[str, str], message: str) -> None:
    assert await complaint(ONE_SPAN, **variables) == message


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "OTEL_EXPORTER_OTLP_ENDPOINT='http://x'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "OTEL_TRACES_EXPORTER='otlp'",
        ),
    ],
)
async def test_exporters_that_are_missing_are_named(variables: dict[str, str], cause: str) -> None:
    message = f"{cause} needs the OTLP exporters: pip install 'assistants-runtime[otel]'."
    assert await complaint(WITHOUT_THE_EXTRA + ONE_SPAN, **variables) == message


async def test_a_receiver_without_the_extra_names_it() -> None:
    assert (await complaint(WITHOUT_THE_EXTRA + LISTEN)).endswith("pip install 'assistants-runtime[otel]'.")


def test_shutdown_waits_no_longer_than_it_is_told() -> None:
    released = threading.Event()
    shutdown = Shutdown(released.wait)
    assert not shutdown(0.01)
    released.set()


def test_shutdown_stops_everything_once() -> None:
    stopped: list[str] = []
    shutdown = Shutdown(lambda: stopped.append("traces"), lambda: stopped.append("metrics"))
    assert shutdown(10.0)
    assert shutdown(10.0)
    assert sorted(stopped) == ["metrics", "traces"]
