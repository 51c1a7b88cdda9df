"""What the operator chooses."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EngineKind = Literal["embedded", "workers", "server", "scripted"]

DEFAULT_GRPC_ADDRESS = "127.0.0.1:50051"
DRAIN_GRACE_S = 10.0
"""How long runs and streams may go on after SIGTERM."""

DEFAULT_EVENT_RETENTION_S = 7 * 24 * 3600.0


def default_data_dir() -> Path:
    """`$ASSISTANTS_DATA_DIR`, else the user's data directory."""
    if configured := os.environ.get("ASSISTANTS_DATA_DIR"):
        return Path(configured)
    return Path.home() / ".local" / "share" / "assistants" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server."""

    data_dir: Path
    model: str
    """Name of an installed model, for the embedded engine."""
    models_dir: Path
    database_url: str | None = field(default=None, repr=False)
    """`postgresql://…`; None is SQLite in the data directory."""
    nats_url: str | None = field(default=None, repr=False)
    """`nats://…`, several separated by commas: servers of one database share work; None is one alone."""
    grpc_address: str = DEFAULT_GRPC_ADDRESS
    """host:port; port 0 takes a free one. unix:PATH for a socket."""
    engine: EngineKind = "embedded"
    workers: tuple[str, ...] = ()
    """host:port or unix:PATH of each worker process, at least one; for the engine "workers"."""
    engine_url: str = ""
    """Where OpenAI's API is, such as `http://host:8000/v1`; for the engine "server", as those below."""
    engine_model: str | None = None
    """Id of the model there; None is the only one."""
    engine_flavour: str | None = None
    """A value of `runtime.engines.openai_flavour.Flavour`; None looks for it."""
    engine_api_key: str | None = field(default=None, repr=False)
    slots: int | None = None
    """Generations at the same time; None is the engine's own choice."""
    context_tokens: int | None = None
    """Context of one slot; None is the engine's own choice."""
    event_retention_s: float = DEFAULT_EVENT_RETENTION_S
    """How long the events of a run are kept after its end; at least 0."""
    threads: int | None = None
    """Threads of the embedded engine; None is its own choice."""
