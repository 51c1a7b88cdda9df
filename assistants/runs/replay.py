"""What a journal says about messages, when nobody remembers them."""

from collections.abc import Iterable
from dataclasses import replace

from assistants.domain.content import ContentPart, ReasoningPart, TextPart
from assistants.domain.message import Message
from assistants.domain.ports import EventLog
from assistants.domain.run_event import MessageChanged, RunEvent, TextDelta

_PAGE = 512


def add_delta(message: Message, delta: TextDelta) -> Message:
    """The message with a piece appended to the part that it belongs to."""
    parts: list[ContentPart] = list(message.content)
    if delta.index == len(parts):
        parts.append(ReasoningPart(text=delta.text) if delta.reasoning else TextPart(value=delta.text))
    else:
        match parts[delta.index]:
            case TextPart() as part:
                parts[delta.index] = replace(part, value=part.value + delta.text)
            case ReasoningPart() as part:
                parts[delta.index] = replace(part, text=part.text + delta.text)
            case part:
                raise AssertionError(f"a {part.kind} part takes no text")
    return replace(message, content=tuple(parts))


def fold_messages(events: Iterable[RunEvent], messages: dict[str, Message]) -> None:
    """Brings messages, by id, up to date with events: the newest `changed` and the deltas after it."""
    for event in events:
        match event.body:
            case MessageChanged(message=message):
                messages[message.id] = message
            case TextDelta() as delta:
                messages[delta.message_id] = add_delta(messages[delta.message_id], delta)
            case _:
                pass


async def replay_messages(event_log: EventLog, run_id: str) -> list[Message]:
    """The messages of a run as its journal has them."""
    messages: dict[str, Message] = {}
    after = 0
    while events := await event_log.read(run_id, after=after, limit=_PAGE):
        fold_messages(events, messages)
        after = events[-1].sequence
    return list(messages.values())
