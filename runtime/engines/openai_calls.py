"""Tool calls of a Chat Completions stream, put together from their pieces."""

import json
import secrets
from dataclasses import dataclass, field

from runtime.engines.openai_chunk import ToolCallPart
from runtime.types import ToolCall


@dataclass(slots=True)
class _OpenCall:
    index: int | None
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class CallAssembler:
    """Takes pieces in the order in which they come, and knows the calls at the end."""

    def __init__(self) -> None:
        self._calls: list[_OpenCall] = []

    @property
    def any(self) -> bool:
        """Whether there is a call, whole or not."""
        return bool(self._calls)

    def add(self, part: ToolCallPart) -> str:
        """Takes a piece; returns the text in it."""
        call = self._call_of(part)
        call.id = call.id or part.id or ""
        call.name = call.name or part.function.name or ""
        arguments = part.function.arguments
        text = json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments or ""
        call.arguments.append(text)
        return text

    def whole(self) -> tuple[ToolCall, ...]:
        """The calls. A call without arguments has none, and one without an id of its own gets one."""
        calls: list[ToolCall] = []
        for call in self._calls:
            taken = not call.id or any(call.id == earlier.id for earlier in calls)
            calls.append(
                ToolCall(
                    id=f"call_{secrets.token_hex(12)}" if taken else call.id,
                    name=call.name,
                    arguments_json="".join(call.arguments).strip() or "{}",
                )
            )
        return tuple(calls)

    def _call_of(self, part: ToolCallPart) -> _OpenCall:
        """The call that a piece continues, or a new one.

        By its index; but some servers give no index, and some give each call the same: there an id
        that is another says that a call begins.
        """
        if part.index is None:
            call = self._calls[-1] if self._calls else None
        else:
            call = next((c for c in reversed(self._calls) if c.index == part.index), None)
        if call is None or (part.id and call.id and part.id != call.id):
            call = _OpenCall(part.index)
            self._calls.append(call)
        return call
