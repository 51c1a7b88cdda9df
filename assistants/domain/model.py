"""Models that the server has."""

from dataclasses import dataclass
from enum import StrEnum

from runtime.types import Effort


class ModelState(StrEnum):
    """Where a model stands."""

    LOADING = "loading"
    LOADED = "loaded"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAlias:
    """Another name of a model."""

    name: str
    effort: Effort | None
    """Effort of runs that name the alias and set none."""
    sampling_parameters: bool
    """Whether requests that name it may set sampling parameters, seed aside, and ask for logprobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The weights that an engine uses."""

    name: str
    display_name: str
    state: ModelState
    provider: str
    context_tokens: int
    slots: int
    license: str = ""
    size_bytes: int = 0
    native_reasoning: bool = False
    embeddings: bool = False
    logprobs: bool = False
    aliases: tuple[ModelAlias, ...] = ()
