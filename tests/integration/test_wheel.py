"""The wheel has all that a server needs, and works away from the source tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def test_it_holds_code_protos_migrations_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "assistants/v1/run_pb2.py",
        "runtime/v1/reasoning_engine_pb2_grpc.py",
        "assistants/storage/migrations/env.py",
        "assistants/storage/migrations/versions/0001_initial.py",
        "assistants/proto/assistants/v1/run_service.proto",
        "assistants/proto/runtime/v1/reasoning_engine.proto",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]


def test_the_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); "
        "import assistants.cli, assistants.server.process; print(assistants.__file__)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert output.stdout.decode().startswith(str(unpacked))
