"""What messages are made of."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlCitation:
    """A web page as a source."""

    url: str
    title: str
    kind: Literal["url_citation"] = "url_citation"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCitation:
    """A file as a source."""

    file_id: str
    kind: Literal["file_citation"] = "file_citation"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePath:
    """A file that a tool wrote."""

    file_id: str
    kind: Literal["file_path"] = "file_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A mark on a stretch of text; indexes count its characters, the end is exclusive."""

    text: str
    start_index: int
    end_index: int
    target: UrlCitation | FileCitation | FilePath


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """Text with its annotations."""

    value: str
    annotations: tuple[Annotation, ...] = ()
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningPart:
    """What the model thought."""

    text: str
    kind: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalPart:
    """The model's refusal to answer."""

    text: str
    kind: Literal["refusal"] = "refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFilePart:
    """An image made by a tool."""

    file_id: str
    kind: Literal["image_file"] = "image_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUrlPart:
    """An image elsewhere; refused, models are text only."""

    url: str
    kind: Literal["image_url"] = "image_url"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioPart:
    """Sound; refused, models are text only."""

    format: str
    kind: Literal["input_audio"] = "input_audio"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A file."""

    file_id: str
    kind: Literal["file"] = "file"


ContentPart = (
    TextPart | ReasoningPart | RefusalPart | ImageFilePart | ImageUrlPart | InputAudioPart | FilePart
)
