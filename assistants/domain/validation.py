"""Rules of fields, collected so that a client learns of all breaches at once."""

import re
from collections.abc import Mapping, Sequence

from assistants.domain.content import (
    ContentPart,
    FilePart,
    ImageFilePart,
    ImageUrlPart,
    InputAudioPart,
    Role,
    TextPart,
)
from assistants.domain.errors import FeatureUnavailable, InvalidArgument, Violation
from runtime.types import Sampling

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MAX_INSTRUCTIONS = 256_000
MAX_TEXT = 256_000
MAX_PARTS = 64
MAX_SEED = 2**32 - 2
MAX_DESCRIPTION = 4_096
MAX_SCHEMA = 256_000
MAX_TOOL_OUTPUT = 256_000
NAME_RULE = "[A-Za-z0-9_-]{1,64}"
"""What a function or a schema is called."""

TEXT_ONLY = {
    "image_file": "images are not accepted: the model is text only",
    "image_url": "images are not accepted: the model is text only",
    "input_audio": "audio is not accepted: the model is text only",
}
"""Why a part of that kind is refused."""

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_SHOWN = 80


def shown(text: str) -> str:
    """A value as errors quote it: not longer than one can read."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


class Violations:
    """Collects breaches; `check` raises them together."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Records a breach."""
        self._found.append(Violation(field, description))

    def check(self) -> None:
        """Raises InvalidArgument when there is a breach."""
        if self._found:
            raise InvalidArgument(*self._found)

    def length(self, field: str, value: str, *, most: int, least: int = 0) -> None:
        """Characters of a text."""
        if len(value) < least:
            self.add(field, f"must have at least {least} characters, got {shown(value)}")
        if len(value) > most:
            self.add(field, f"must have at most {most} characters, got {len(value)}")

    def between(self, field: str, value: float | None, least: float, most: float) -> None:
        """A number, both ends included. None is not checked."""
        if value is not None and not least <= value <= most:
            self.add(field, f"must be between {least} and {most}, got {value}")

    def count(self, field: str, items: Sequence[object], *, most: int, least: int = 0) -> None:
        """Items of a list."""
        if not least <= len(items) <= most:
            self.add(field, f"must have {least} to {most} items, got {len(items)}")

    def metadata(self, metadata: Mapping[str, str]) -> None:
        """The limits of metadata."""
        if len(metadata) > MAX_METADATA_PAIRS:
            self.add("metadata", f"must have at most {MAX_METADATA_PAIRS} pairs, got {len(metadata)}")
        for key, value in metadata.items():
            if not 1 <= len(key) <= MAX_METADATA_KEY:
                self.add("metadata", f"keys must have 1 to {MAX_METADATA_KEY} characters, got {shown(key)}")
            self.length(f"metadata[{shown(key)}]", value, most=MAX_METADATA_VALUE)

    def sampling(self, sampling: Sampling) -> None:
        """The ranges of sampling parameters."""
        self.between("generation_params.temperature", sampling.temperature, 0, 2)
        if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
            self.add("generation_params.top_p", f"must be above 0 and at most 1, got {sampling.top_p}")
        self.between("generation_params.seed", sampling.seed, 0, MAX_SEED)
        self.between("generation_params.presence_penalty", sampling.presence_penalty, -2, 2)
        self.between("generation_params.frequency_penalty", sampling.frequency_penalty, -2, 2)

    def content(self, role: Role, content: Sequence[ContentPart]) -> None:
        """What a client may put into a message."""
        self.count("content", content, least=1, most=MAX_PARTS)
        for index, part in enumerate(content):
            field = f"content[{index}]"
            match part:
                case TextPart(value=value):
                    self.length(f"{field}.text.value", value, least=1, most=MAX_TEXT)
                case ImageFilePart() | ImageUrlPart() | InputAudioPart():
                    self.add(f"{field}.{part.kind}", TEXT_ONLY[part.kind])
                case FilePart():
                    raise FeatureUnavailable(f"{field}.file", "a file in a message")
                case _:
                    self.add(
                        f"{field}.{part.kind}", f"is written by the server only, got it in a {role} message"
                    )


def check_request_id(request_id: str) -> None:
    """Raises InvalidArgument when it is no UUID."""
    if _UUID.fullmatch(request_id) is None:
        raise InvalidArgument(Violation("request_id", f"must be a UUID, got {shown(request_id)}"))
