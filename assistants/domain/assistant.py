"""Assistants: stored configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from assistants.domain.tool import Tool
from runtime.types import Effort, ResponseFormat, Sampling, TextFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantSettings:
    """What a client chooses about an assistant."""

    model: str
    """Name or alias of a model that the server has."""
    display_name: str = ""
    description: str = ""
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    response_format: ResponseFormat = field(default_factory=TextFormat)
    effort: Effort | None = None
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant:
    """A stored configuration."""

    id: str
    project_id: str
    settings: AssistantSettings
    revision: int
    """Counts changes, from 1; the etag."""
    create_time: datetime
    update_time: datetime
