"""Domain values to and from the JSON text that the tables hold."""

from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from assistants.domain.assistant import AssistantSettings
from assistants.domain.content import ContentPart
from assistants.domain.message import Message
from assistants.domain.run import RunSettings, RunStatus
from assistants.domain.run_event import EventBody
from assistants.domain.run_step import RunStep

T = TypeVar("T")


class JsonCodec(Generic[T]):
    """JSON text of one type."""

    def __init__(self, type_: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(type_)

    def dump(self, value: T) -> str:
        """The text."""
        return self._adapter.dump_json(value).decode()

    def load(self, text: str) -> T:
        """The value. Raises pydantic.ValidationError when the text is not one of ours."""
        return self._adapter.validate_json(text)


ASSISTANT_SETTINGS = JsonCodec[AssistantSettings](AssistantSettings)
CONTENT = JsonCodec[tuple[ContentPart, ...]](tuple[ContentPart, ...])
MESSAGES = JsonCodec[tuple[Message, ...]](tuple[Message, ...])
EVENT_BODY = JsonCodec[EventBody](EventBody)
STRING_MAP = JsonCodec[dict[str, str]](dict[str, str])
RUN_SETTINGS = JsonCodec[RunSettings](RunSettings)
RUN_STATUS = JsonCodec[RunStatus](RunStatus)
RUN_STEP = JsonCodec[RunStep](RunStep)
