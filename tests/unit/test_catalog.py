"""Names of models, and where they lead."""

from pathlib import Path

import pytest

from runtime.errors import UnknownModel
from runtime.models.catalog import (
    ALIASES,
    DEFAULT_MODEL,
    MODELS,
    CatalogModel,
    FileSource,
    HfSource,
    PypiSource,
    find,
    source_text,
)
from runtime.types import Effort


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_an_entry_is_whole(model: CatalogModel) -> None:
    assert find(model.name) is model
    assert model.name == model.name.lower()
    assert model.size_bytes > 0
    assert model.context_tokens > 0
    assert model.license in {"Apache-2.0", "MIT"}
    assert model.name not in ALIASES


def test_the_default_model_needs_a_package_index_only() -> None:
    model = find(DEFAULT_MODEL)
    assert isinstance(model.source, PypiSource)
    assert model.sha256 is not None


def test_an_alias_stands_for_an_effort() -> None:
    assert {alias.name: alias.effort for alias in ALIASES.values()} == {
        "o3-mini": Effort.MEDIUM,
        "o3-mini-low": Effort.LOW,
        "o3-mini-high": Effort.HIGH,
    }
    assert not any(alias.capabilities.sampling_parameters for alias in ALIASES.values())


def test_a_file_is_named_by_its_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = find("file:My Model.Q4_1.gguf")
    assert model.name == "my-model.q4_1"
    assert model.source == FileSource(path=tmp_path / "My Model.Q4_1.gguf")


@pytest.mark.parametrize(
    ("reference", "revision"),
    [("hf:org/repo-GGUF/sub/m.gguf", "main"), ("hf:org/repo-GGUF/sub/m.gguf@refs/pr/1", "refs/pr/1")],
)
def test_a_file_on_hugging_face_is_named_by_its_stem(reference: str, revision: str) -> None:
    model = find(reference)
    assert model.name == "m"
    assert model.source == HfSource(repo="org/repo-GGUF", filename="sub/m.gguf", revision=revision)
    assert source_text(model.source) == f"hf:org/repo-GGUF/sub/m.gguf@{revision}"


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(UnknownModel, match="Did you mean smollm2-135m"):
        find("smollm2-135")


@pytest.mark.parametrize("reference", ["zzz", "", "hf:no-file", "../etc/passwd"])
def test_nonsense_is_unknown(reference: str) -> None:
    with pytest.raises(UnknownModel, match="There are smollm2-135m"):
        find(reference)
