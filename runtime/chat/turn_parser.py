"""From the text of a turn to its events, while it streams.

However the text is cut into pieces, the events are the same but for where
their deltas are cut.
"""

from enum import Enum, auto

from runtime.chat.call_layout import BARE, FENCED, NECK, TAGGED, CallLayout
from runtime.chat.transcript import CALL_OPEN
from runtime.chat.turn_form import Calls, TurnForm
from runtime.errors import EngineFault
from runtime.events import TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from runtime.output.validate import violations
from runtime.types import ToolCall

ParsedEvent = TextDelta | ToolCallStart | ToolCallDelta | ToolCallEnd


_TAG = CALL_OPEN.strip()
_BEHIND_TEXT = (TAGGED, FENCED)
"""Layouts that cannot be taken for text."""


class _State(Enum):
    BEGIN = auto()
    """It is not clear yet what comes."""
    TEXT = auto()
    NECK = auto()
    """In a call, at the tool's name."""
    ARGUMENTS = auto()
    END = auto()
    """In a call, behind its arguments."""
    AFTER = auto()
    """Behind a call."""


class TurnParser:
    """Reads one turn of a form. A turn that is not of the form is a fault of the engine."""

    def __init__(self, form: TurnForm) -> None:
        """Begins a turn."""
        self._form = form
        self._tools = {tool.name: tool.arguments for tool in form.tools}
        self._state = _State.BEGIN if form.calls is not Calls.NEVER else _State.TEXT
        self._buffer = ""
        self._layouts = (TAGGED, BARE, FENCED) if form.untagged else (TAGGED,)
        self._layout = TAGGED
        self._arguments = _ObjectEnd()
        self._name = ""
        self._pieces: list[str] = []
        self._twins: list[str] = []
        self._withheld: list[ParsedEvent] = []
        self._events: list[ParsedEvent] = []
        self.calls: list[ToolCall] = []
        """The whole calls so far. Their ids are unique in the turn only."""
        self.missed: list[str] = []
        """Rules that arguments miss which no grammar could express."""
        self.repeated = False
        """Whether the model has made the same call again: it would go on for ever, so the turn ends."""

    @property
    def text_so_far(self) -> bool:
        """Whether what comes now is text of the answer, rather than a call."""
        return self._state is _State.TEXT

    def feed(self, text: str) -> list[ParsedEvent]:
        """Takes a piece of the turn and gives what is certain now.

        Raises:
            EngineFault: the turn is not of the form.
        """
        self._buffer += text
        while not self.repeated and self._step():
            pass
        return self._taken()

    def finish(self, *, cut: bool) -> list[ParsedEvent]:
        """Ends the turn and gives what was held back.

        Args:
            cut: whether a limit ended it, at any place.

        Raises:
            EngineFault: it ends where no turn may end.
        """
        if self.repeated:
            return []
        if self._state in (_State.TEXT, _State.BEGIN):
            # What was held back might have become a call; only a turn that is whole says that it did not.
            if not cut and self._form.calls is not Calls.ALWAYS:
                self._emit_text(self._buffer)
            self._buffer = ""
        done = self._state in (_State.TEXT, _State.BEGIN, _State.AFTER) and not self._buffer
        if not cut and (not done or (self._form.calls is Calls.ALWAYS and not self.calls)):
            raise EngineFault("The engine ended a turn in the middle of a tool call.")
        return self._taken()

    def _taken(self) -> list[ParsedEvent]:
        events, self._events = self._events, []
        return events

    def _step(self) -> bool:
        """Reads on; returns whether to try again at once."""
        match self._state:
            case _State.BEGIN:
                return self._begin()
            case _State.TEXT:
                return self._text()
            case _State.NECK:
                return self._neck()
            case _State.ARGUMENTS:
                return self._read_arguments()
            case _State.END:
                return self._end()
            case _State.AFTER:
                return self._after()

    def _begin(self) -> bool:
        for layout in self._layouts:
            if head := layout.head.match(self._buffer):
                self._open(layout, head.end())
                return True
        if any(layout.may_begin(self._buffer) for layout in self._layouts):
            return False
        if self._form.calls is Calls.ALWAYS:
            raise EngineFault("The engine gave text where a tool call was required.")
        self._state = _State.TEXT
        return True

    def _text(self) -> bool:
        if not self._form.mixed:
            self._emit_text(self._buffer)
            self._buffer = ""
            return False
        heads = [(head, layout) for layout in _BEHIND_TEXT if (head := layout.head.search(self._buffer))]
        if heads:
            head, layout = min(heads, key=lambda found: found[0].start())
            self._emit_text(self._buffer[: head.start()].rstrip())
            self._open(layout, head.end())
            return True
        certain = _certain(self._buffer)
        self._emit_text(self._buffer[:certain])
        self._buffer = self._buffer[certain:]
        return False

    def _open(self, layout: CallLayout, end: int) -> None:
        self._layout, self._state = layout, _State.NECK
        self._buffer = self._buffer[end:]

    def _neck(self) -> bool:
        neck = NECK.match(self._buffer)
        if neck is None:
            return False
        name = neck[1]
        if name not in self._tools:
            raise EngineFault(f"The engine called {name!r}, which is none of the tools.")
        self._name, self._pieces, self._arguments = name, [], _ObjectEnd()
        self._buffer = self._buffer[neck.end() :]
        self._state = _State.ARGUMENTS
        self._twins = [call.arguments_json for call in self.calls if call.name == name]
        self._tell(ToolCallStart(f"call_{len(self.calls)}", name))
        return True

    def _read_arguments(self) -> bool:
        end = self._arguments.find(self._buffer)
        piece = self._buffer if end is None else self._buffer[:end]
        if piece:
            self._pieces.append(piece)
            so_far = "".join(self._pieces) if self._twins else ""
            self._twins = [twin for twin in self._twins if twin.startswith(so_far)]
            self._tell(ToolCallDelta(piece))
        self._buffer = self._buffer[len(piece) :]
        if end is None:
            return False
        self._state = _State.END
        return True

    def _end(self) -> bool:
        end = self._layout.end.match(self._buffer)
        if end is None:
            if self._layout.may_end(self._buffer):
                return False
            raise EngineFault("The engine did not close a tool call.")
        self._buffer = self._buffer[end.end() :]
        self._state = _State.AFTER
        if self._twins:
            self.repeated = True
            return False
        arguments_json = "".join(self._pieces)
        schema = self._tools[self._name]
        missed = violations(schema, arguments_json)
        if missed and schema.exact:
            raise EngineFault(f"The engine broke the grammar of {self._name}: {missed[0]}")
        self.missed += [f"arguments of {self._name}: {text}" for text in missed]
        self.calls.append(
            ToolCall(id=f"call_{len(self.calls)}", name=self._name, arguments_json=arguments_json)
        )
        self._tell(ToolCallEnd())
        return True

    def _after(self) -> bool:
        if self._buffer in ("", "\n"):
            return False
        if self._buffer[0] == "\n":
            following = self._buffer[1:]
            if head := self._layout.head.match(following):
                self._open(self._layout, 1 + head.end())
                return True
            if self._layout.may_begin(following):
                return False
        raise EngineFault("The engine went on behind a tool call.")

    def _tell(self, event: ParsedEvent) -> None:
        """Gives an event of a call, once the call differs from all before it."""
        self._withheld.append(event)
        if not self._twins:
            self._events += self._withheld
            self._withheld = []

    def _emit_text(self, text: str) -> None:
        if not text:
            return
        if self._tools and _TAG in text:
            raise EngineFault("The engine gave a tool call that cannot be read.")
        self._events.append(TextDelta(text))


class _ObjectEnd:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, piece: str) -> int | None:
        """Index behind the object's last brace in the piece; None while the object goes on."""
        for index, character in enumerate(piece):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None


def _certain(text: str) -> int:
    """How much of a text is text for certain: not what may belong to a call, nor white space before it."""
    for index, character in enumerate(text):
        if character in "<`" and any(layout.may_begin(text[index:]) for layout in _BEHIND_TEXT):
            return len(text[:index].rstrip())
    return len(text.rstrip())
