"""Imports go down only, and each library stays where it belongs."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Lowest first; a layer imports itself and what is below it.
LAYERS = (
    ("domain",),
    ("telemetry", "storage", "cluster"),
    ("runs",),
    ("operations",),
    ("services",),
    ("server", "config"),
    ("client_errors",),
    ("client_calls",),
    ("client_chat", "client_runs"),
    ("client",),
    ("demo",),
    ("cli", "__main__"),
)
CLIENT = ("client", "client_calls", "client_chat", "client_errors", "client_runs")
CLIENT_MAY_IMPORT = (
    "assistants.v1",
    "assistants.client_",
    "assistants.domain.errors",
    "assistants.domain.names",
)
GRPC_LIVES_IN = (
    "assistants/services",
    "assistants/server",
    "assistants/client.py",
    "assistants/client_calls.py",
    "assistants/client_chat.py",
    "assistants/client_errors.py",
    "assistants/client_runs.py",
    "assistants/telemetry/grpc.py",
    "assistants/telemetry/receiver.py",
    "runtime/worker",
    "runtime/engines/remote.py",
    "runtime/engines/embedded.py",
    "runtime/engines/wire.py",
)
SDK_LIVES_IN = ("assistants/telemetry",)
SQL_LIVES_IN = ("assistants/storage",)
NATS_LIVES_IN = ("assistants/cluster",)


def _modules() -> Iterator[tuple[str, set[str]]]:
    for package in ("assistants", "runtime"):
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            if not relative.startswith(("assistants/v1/", "runtime/v1/")):
                yield relative, _imports(path)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _level(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name in names)


def _misplaced(libraries: tuple[str, ...], homes: tuple[str, ...]) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, imports in _modules()
        for name in imports
        if name.startswith(libraries) and not module.startswith(homes)
    ]


def test_runtime_imports_nothing_of_assistants() -> None:
    assert [
        m
        for m, names in _modules()
        if m.startswith("runtime/") and any(n.startswith("assistants") for n in names)
    ] == []


def test_layers_import_downwards_only() -> None:
    upwards = []
    for module, imports in _modules():
        if not module.startswith("assistants/") or module == "assistants/__init__.py":
            continue
        layer = Path(module).parts[1].removesuffix(".py")
        for name in imports:
            target = name.split(".")
            ours = target[0] == "assistants" and len(target) > 1 and target[1] not in ("v1", "client")
            if ours and _level(target[1]) > _level(layer):
                upwards.append(f"{module} imports {name}")
    assert upwards == []


def test_the_client_stands_alone() -> None:
    imports = set().union(*(_imports(ROOT / f"assistants/{module}.py") for module in CLIENT))
    ours = {name for name in imports if name.startswith(("assistants.", "runtime"))}
    assert {name for name in ours if not name.startswith(CLIENT_MAY_IMPORT)} == set()


def test_grpc_and_protobuf_stay_at_the_edges() -> None:
    assert (
        _misplaced(
            ("grpc", "google.protobuf", "assistants.v1", "runtime.v1"), (*GRPC_LIVES_IN, "assistants/demo.py")
        )
        == []
    )


def test_the_sdk_of_opentelemetry_stays_in_telemetry() -> None:
    assert _misplaced(("opentelemetry.sdk", "opentelemetry.exporter"), SDK_LIVES_IN) == []
    assert [
        m
        for m, names in _modules()
        if m.startswith("runtime/") and any(n.startswith("opentelemetry") for n in names)
    ] == []


def test_sql_stays_in_storage() -> None:
    assert _misplaced(("sqlalchemy", "sqlmodel", "alembic", "sqlite3", "psycopg"), SQL_LIVES_IN) == []


def test_nats_stays_in_cluster() -> None:
    assert _misplaced(("nats",), NATS_LIVES_IN) == []
