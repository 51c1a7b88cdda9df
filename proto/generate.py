"""Generates `assistants/v1` and `runtime/v1` from the protos, and checks them.

`python proto/generate.py` writes the code; `--check` fails when the committed
code differs, when buf finds a lint error, or when a proto breaks clients of the
last release (`proto/released.binpb`); `--release` renews that file.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
RELEASED = PROTO / "released.binpb"
PACKAGES = ("assistants/v1", "runtime/v1")
SITE_PACKAGES = sysconfig.get_path("purelib")
SCRIPTS = sysconfig.get_path("scripts")


def _protoc(*arguments: str) -> None:
    files = [str(f.relative_to(PROTO)) for p in PACKAGES for f in sorted((PROTO / p).glob("*.proto"))]
    # protoc finds the mypy plugins on PATH only.
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"}
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{SITE_PACKAGES}", *arguments, *files],
        check=True,
        env=environment,
    )


def _generate(into: Path) -> None:
    out = str(into)
    _protoc(
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
    )
    for package in PACKAGES:
        folder = into / package
        (folder / "__init__.py").write_text('"""Generated from proto/; never edited."""\n')
        for stub in folder.glob("*_pb2_grpc.py"):
            if "class " not in stub.read_text():
                stub.unlink()
                stub.with_suffix(".pyi").unlink(missing_ok=True)


def _image(path: Path, *options: str) -> None:
    _protoc("--include_imports", f"--descriptor_set_out={path}", *options)


def _buf(*arguments: str) -> bool:
    return subprocess.run([f"{SCRIPTS}/buf", *arguments, "--config", str(PROTO / "buf.yaml")]).returncode == 0


def _stale(fresh: Path) -> list[str]:
    stale = []
    for package in PACKAGES:
        committed = {f.name for f in (ROOT / package).iterdir() if f.is_file()}
        expected = {f.name for f in (fresh / package).iterdir()}
        same, _, _ = filecmp.cmpfiles(ROOT / package, fresh / package, committed & expected, shallow=False)
        stale += [f"{package}/{name}" for name in sorted((committed | expected) - set(same))]
    return stale


def check() -> int:
    """Returns the number of failed checks."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        fresh, image = Path(folder) / "fresh", Path(folder) / "image.binpb"
        fresh.mkdir()
        _generate(fresh)
        if stale := _stale(fresh):
            print("generated code is stale, run `make proto`:", *stale, sep="\n  ", file=sys.stderr)
            failures += 1
        _image(image, "--include_source_info")
        failures += not _buf("lint", str(image))
        failures += not _buf("breaking", str(image), "--against", str(RELEASED))
    return failures


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, lint and look for breaking changes")
    parser.add_argument("--release", action="store_true", help="renew proto/released.binpb")
    options = parser.parse_args()
    if options.check:
        return min(check(), 1)
    if options.release:
        _image(RELEASED)
        return 0
    for package in PACKAGES:
        shutil.rmtree(ROOT / package, ignore_errors=True)
    _generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
