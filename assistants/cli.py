"""The command line: serve, migrate, demo, threads, models."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import click

from assistants.config import DEFAULT_GRPC_ADDRESS, EngineKind, ServerConfig, default_data_dir
from assistants.domain.errors import AssistantsError, DatabaseError
from runtime.errors import ModelError
from runtime.models.catalog import ALIASES, DEFAULT_MODEL, MODELS, find, source_text
from runtime.models.pull import ProgressCallback, pull
from runtime.models.store import ModelStore, default_models_dir

_MIB = 1 << 20
_PATIENCE_S = 5.0
"""How long a command waits for a server that is away."""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}

models_dir_option = click.option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_models_dir,
    show_default="$ASSISTANTS_MODELS_DIR, or ~/.local/share/assistants/models",
    help="Where models are installed.",
)
database_url_option = click.option(
    "--database-url",
    metavar="URL",
    envvar="ASSISTANTS_DATABASE_URL",
    callback=lambda _context, _parameter, url: _checked_database_url(url),
    help="A PostgreSQL database, such as postgresql://user@host/name, in place of the data directory;"
    " $ASSISTANTS_DATABASE_URL keeps a password out of the list of processes.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="assistants-runtime")
def main() -> None:
    """A self-hosted, stateful assistants server over gRPC."""


@main.command()
@click.option(
    "--grpc-address", default=DEFAULT_GRPC_ADDRESS, help="host:port, or unix:PATH; port 0 is a free one."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_data_dir,
    show_default="$ASSISTANTS_DATA_DIR, or ~/.local/share/assistants/data",
    help="Where threads and runs are kept.",
)
@database_url_option
@click.option(
    "--nats-url",
    metavar="URL",
    envvar="ASSISTANTS_NATS_URL",
    callback=lambda _context, _parameter, url: _checked_nats_url(url),
    help="NATS with JetStream, such as nats://host:4222, by which servers of one --database-url share their"
    " work; $ASSISTANTS_NATS_URL keeps a password out of the list of processes.",
)
@models_dir_option
@click.option("--model", default=DEFAULT_MODEL, help="An installed model.")
@click.option(
    "--engine",
    type=click.Choice(["embedded", "scripted"]),
    default="embedded",
    help="scripted echoes the user without a model: for tests and benchmarks.",
)
@click.option(
    "--worker",
    "workers",
    multiple=True,
    metavar="HOST:PORT",
    help="A worker process to use in place of an embedded engine; may be repeated.",
)
@click.option(
    "--engine-url",
    metavar="URL",
    help="A server of OpenAI's API to use in place of an embedded engine, such as http://127.0.0.1:8000/v1;"
    " its key is $ASSISTANTS_ENGINE_API_KEY.",
)
@click.option("--engine-model", metavar="ID", help="The model there.", show_default="the only one")
@click.option(
    "--engine-flavour",
    type=click.Choice(["auto", "openai", "vllm", "sglang", "llama_server", "ollama", "tgi"]),
    default="auto",
    help="What kind of server it is.",
)
@click.option("--slots", type=click.IntRange(1, 256), show_default="4", help="Generations at the same time.")
@click.option(
    "--context-tokens", type=click.IntRange(256), show_default="8192", help="Context of one generation."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    show_default="1 for a small model, else one a CPU",
    help="Threads of the engine.",
)
@click.option(
    "--event-retention",
    "event_retention_s",
    metavar="DURATION",
    default="7d",
    callback=lambda _context, _parameter, text: _seconds(text),
    help="How long the events of a run are kept after its end, such as 90s, 30m, 12h or 7d.",
)
def serve(
    grpc_address: str,
    data_dir: Path,
    database_url: str | None,
    nats_url: str | None,
    models_dir: Path,
    model: str,
    engine: str,
    workers: tuple[str, ...],
    engine_url: str | None,
    engine_model: str | None,
    engine_flavour: str,
    slots: int | None,
    context_tokens: int | None,
    threads: int | None,
    event_retention_s: float,
) -> None:
    """Serve until SIGTERM; prints one `ready` line."""
    kind = _engine_kind(engine, workers, engine_url)
    if nats_url is not None and database_url is None:
        raise click.UsageError("--nats-url needs --database-url: servers that share work share a database.")
    # The server takes a second to import; `models` and `--help` need none of it.
    from assistants.server.process import serve as run

    config = ServerConfig(
        grpc_address=grpc_address,
        data_dir=data_dir,
        database_url=database_url,
        nats_url=nats_url,
        models_dir=models_dir,
        model=model,
        engine=kind,
        workers=workers,
        engine_url=engine_url or "",
        engine_model=engine_model,
        engine_flavour=None if engine_flavour == "auto" else engine_flavour,
        engine_api_key=os.environ.get("ASSISTANTS_ENGINE_API_KEY"),
        slots=slots,
        context_tokens=context_tokens,
        threads=threads,
        event_retention_s=event_retention_s,
    )
    sys.exit(run(config))


@main.command()
@database_url_option
def migrate(database_url: str | None) -> None:
    """Bring a PostgreSQL database to the form of this version; servers may run meanwhile."""
    if database_url is None:
        raise click.UsageError("Missing option '--database-url'.")
    from assistants.storage.opening import migrate_postgres

    with _one_line_errors():
        click.echo(f"the database is of version {migrate_postgres(database_url)}")


@main.command()
@models_dir_option
@click.option("--model", default=DEFAULT_MODEL, help="Pulled first if need be.")
@click.option("--question", default="What do bees make?", help="What the assistant is asked.")
def demo(models_dir: Path, model: str, question: str) -> None:
    """Start a server, ask an assistant, and show the answer, the steps and the trace."""
    from assistants.demo import run_demo

    with _one_line_errors():
        installed = _pull(ModelStore(models_dir), model)
    sys.exit(run_demo(models_dir=models_dir, model=installed, question=question))


target_option = click.option("--target", default=DEFAULT_GRPC_ADDRESS, help="Where the server is.")


@main.group()
def threads() -> None:
    """Export and import threads as lines of JSON."""


@threads.command("export")
@click.argument("name")
@target_option
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="-",
    show_default="stdout",
    help="Where the lines go.",
)
def export_thread(name: str, target: str, output: TextIO) -> None:
    """Write the thread NAME, such as threads/thread_01..., with its messages, runs and steps."""
    from assistants.client import Client

    async def export() -> None:
        async with Client(target, patience_s=_PATIENCE_S) as client:
            async for line in client.export_thread(name):
                output.write(line + "\n")

    with _one_line_errors():
        asyncio.run(export())


@threads.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@target_option
@click.option("--new-ids", is_flag=True, help="Give everything new ids, in place of keeping them.")
def import_thread(file: TextIO, target: str, new_ids: bool) -> None:
    """Store a thread from the lines of FILE: an export, or OpenAI's objects, one a line. Prints its name."""
    from assistants.client import Client

    async def store() -> str:
        async with Client(target, patience_s=_PATIENCE_S) as client:
            return (await client.import_thread(file.read().split("\n"), new_ids=new_ids)).name

    with _one_line_errors():
        click.echo(asyncio.run(store()))


@main.group()
def models() -> None:
    """List, pull and remove models."""


@models.command("list")
@models_dir_option
def list_models(models_dir: Path) -> None:
    """List the models of the catalogue and those that are installed."""
    with _one_line_errors():
        installed = {model.name: model for model in ModelStore(models_dir).installed()}
    rows = [("NAME", "INSTALLED", "SIZE", "CONTEXT", "LICENSE", "REASONING", "SOURCE")]
    for model in MODELS.values():
        rows.append(
            (
                model.name,
                "yes" if model.name in installed else "",
                f"{model.size_bytes / _MIB:,.0f} MiB",
                f"{model.context_tokens}",
                model.license,
                "native" if model.capabilities.native_reasoning else "",
                source_text(model.source),
            )
        )
    for other in installed.values():
        if other.name not in MODELS:
            size = f"{other.size_bytes / _MIB:,.0f} MiB"
            rows.append((other.name, "yes", size, f"{other.context_tokens}", other.license, "", other.source))
    _print_table(rows)
    click.echo()
    _print_table(
        [
            ("ALIAS", "EFFORT", "MEANS"),
            *((alias.name, alias.effort.value, "the served model") for alias in ALIASES.values()),
        ]
    )


@models.command("pull")
@click.argument("name")
@models_dir_option
def pull_model(name: str, models_dir: Path) -> None:
    """Install a model: NAME of the catalogue, file:PATH, or hf:OWNER/REPO/FILE.gguf."""
    with _one_line_errors():
        click.echo(_pull(ModelStore(models_dir), name))


@models.command("remove")
@click.argument("name")
@models_dir_option
def remove_model(name: str, models_dir: Path) -> None:
    """Remove an installed model."""
    with _one_line_errors():
        ModelStore(models_dir).remove(name)
    click.echo(f"removed {name}")


def _seconds(text: str) -> float:
    """A duration. Raises `click.BadParameter`."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"must be a number and one of s, m, h, d, got {text!r}")
    return float(int(match[1]) * _UNITS_S[match[2]])


def _checked_nats_url(url: str | None) -> str | None:
    for one in (url or "nats://").split(","):
        if not one.startswith(("nats://", "tls://")):
            raise click.BadParameter(f"must be nats://HOST:PORT or tls://…, got {one.partition(':')[0]!r}")
    return url


def _checked_database_url(url: str | None) -> str | None:
    if url is not None and not url.startswith(("postgresql://", "postgres://")):
        raise click.BadParameter(f"must be postgresql://…, got {url.partition(':')[0]!r}")
    return url


# What says nothing to which engine: it has its own.
_OTHERS_OPTIONS: Mapping[EngineKind, Sequence[str]] = {
    "embedded": ("--engine-model", "--engine-flavour"),
    "scripted": ("--engine-model", "--engine-flavour"),
    "workers": (
        "--engine",
        "--model",
        "--slots",
        "--context-tokens",
        "--threads",
        "--engine-model",
        "--engine-flavour",
    ),
    "server": ("--engine", "--model", "--threads"),
}


def _engine_kind(engine: str, workers: Sequence[str], engine_url: str | None) -> EngineKind:
    """Which engine the options mean. Raises `click.UsageError` when they contradict each other."""
    kind: EngineKind = "scripted" if engine == "scripted" else "embedded"
    if workers and engine_url:
        raise click.UsageError("--worker and --engine-url are two engines: give one of them.")
    if workers:
        kind = "workers"
        if twice := {worker for worker in workers if workers.count(worker) > 1}:
            raise click.UsageError(f"--worker was given twice: {', '.join(sorted(twice))}.")
    elif engine_url:
        kind = "server"
        url = urlsplit(engine_url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
            raise click.BadParameter(
                f"must be http://HOST:PORT/v1 or https://…, got {engine_url!r}", param_hint="--engine-url"
            )
    context = click.get_current_context()
    for option in _OTHERS_OPTIONS[kind]:
        given = context.get_parameter_source(option.removeprefix("--").replace("-", "_"))
        if given is not None and given.name != "DEFAULT":
            because = {"workers": "--worker", "server": "--engine-url"}.get(kind)
            reason = f"says nothing together with {because}" if because else "needs --engine-url"
            raise click.UsageError(f"{option} {reason}.")
    return kind


def _pull(store: ModelStore, name: str) -> str:
    """Installs a model under a progress bar, if it is not there yet; gives its name."""
    known = find(name).name
    if any(installed.name == known for installed in store.installed()):
        return pull(store, name).name  # checks it, and fetches it only if it is broken
    with click.progressbar(
        length=1, label=f"pulling {name}", file=sys.stderr, show_pos=False, width=40
    ) as bar:

        def report(done: int, total: int) -> None:
            bar.length = max(total, done, 1)
            bar.update(max(0, done - bar.pos))

        progress: ProgressCallback = report
        return pull(store, name, progress=progress).name


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (ModelError, DatabaseError, AssistantsError) as error:
        click.echo(f"assistants: {error}", err=True)
        sys.exit(1)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
