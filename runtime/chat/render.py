"""From messages to a prompt, by the model's own chat template.

The template never sees what somebody wrote. It is given a marker in the place
of each content, and its output is split at the markers: what lies between them
is the template's, in which special tokens count; what replaces them is content,
in which nothing counts. So no text can end a turn, or open one.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.chat.transcript import THOUGHT_CLOSE, THOUGHT_OPEN
from runtime.errors import PromptRejected
from runtime.types import ChatMessage, ChatRole

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For models that bring no template."""

# What expressions of a template raise, besides the template engine itself.
_TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, LookupError)

_PARAGRAPH = "\n\n"

# The guards count as white space: a template that trims contents takes them
# away, which says that the content has to be trimmed. The rest is from the
# private use area; no template holds it.
_GUARD = "\x1f"
# A thought's tags were tokenised apart when it was generated; so they are found in the cache again.
_THOUGHT_TAG = re.compile(f"({re.escape(THOUGHT_OPEN)}|{re.escape(THOUGHT_CLOSE)})")
_MARKER = re.compile(f"({_GUARD}?)\ue000([0-9]+)\ue001({_GUARD}?)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt that is tokenised on its own."""

    text: str
    special: bool
    """Whether special tokens in it count: True for the template's own text only."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A message as the template sees it; its contents are numbers of the texts."""

    role: ChatRole
    contents: tuple[int, ...]


class ChatTemplate:
    """Renders conversations; the same messages always give the same bytes.

    With a template that writes one message after the other, the rendering of a
    conversation is a prefix of that of a longer one, so its tokens stay cached.
    """

    def __init__(self, source: str | None, *, bos_token: str = "", eos_token: str = "") -> None:
        """Compiles a template.

        Args:
            source: Jinja text from the model's file; None or empty is ChatML.
            bos_token: text of the token that begins a sequence, for templates that write it.
            eos_token: text of the token that ends one.

        Raises:
            PromptRejected: the text is no template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source or CHATML)
        except TemplateError as error:
            raise PromptRejected(f"The model's chat template is broken: {error}") from error

    def render(
        self, messages: Sequence[ChatMessage], *, generation_prompt: bool = True, think: bool = False
    ) -> tuple[Piece, ...]:
        """Renders a conversation.

        System and developer messages become one system message at its beginning.
        Where the template knows no system role, or insists on alternating roles,
        the messages are joined until it agrees.

        Args:
            messages: oldest first, not empty; transcribed: text of system, user and assistant.
            generation_prompt: whether the model's turn is opened at the end.
            think: told to templates that ask for it.

        Raises:
            PromptRejected: the template refuses the messages in every form.
        """
        turns, texts = _normalise(messages)
        refusal = "it leaves messages out"
        for form in _forms(turns):
            try:
                rendered = self._fill(form, texts, generation_prompt, think)
            except _TEMPLATE_FAULTS as error:
                refusal = str(error)
                continue
            # A template that knows no system role may drop the text silently.
            present = {int(match[2]) for match in _MARKER.finditer(rendered)}
            if all(index in present or not text for index, text in enumerate(texts)):
                return tuple(_split(rendered, texts))
        raise PromptRejected(f"The model's chat template refuses these messages: {refusal}")

    def _fill(
        self, turns: Sequence[_Turn], texts: Sequence[str], generation_prompt: bool, think: bool
    ) -> str:
        views = [
            {
                "role": turn.role.value,
                "content": _PARAGRAPH.join(_marker(index) for index in turn.contents if texts[index]),
            }
            for turn in turns
        ]
        return self._template.render(
            messages=views,
            add_generation_prompt=generation_prompt,
            enable_thinking=think,
            tools=None,
            **self._tokens,
        )


def _normalise(messages: Sequence[ChatMessage]) -> tuple[list[_Turn], list[str]]:
    """Returns the turns, system first, and the texts that they refer to."""
    texts = [message.content for message in messages]
    system: list[int] = []
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        if message.role is ChatRole.TOOL or message.tool_calls:
            raise ValueError("only transcribed messages can be rendered")
        if message.role in (ChatRole.SYSTEM, ChatRole.DEVELOPER):
            system.append(index)
        else:
            turns.append(_Turn(message.role, (index,)))
    if system:
        turns.insert(0, _Turn(ChatRole.SYSTEM, tuple(system)))
    return turns, texts


def _forms(turns: list[_Turn]) -> Iterator[list[_Turn]]:
    """Gives the same conversation in forms that ever more templates accept."""
    yield turns
    joined = _join_neighbours(turns)
    if joined != turns:
        yield joined
    if turns[0].role is ChatRole.SYSTEM:
        folded = _fold_system(turns)
        yield folded
        yield _join_neighbours(folded)


def _join_neighbours(turns: Sequence[_Turn]) -> list[_Turn]:
    joined: list[_Turn] = []
    for turn in turns:
        if joined and joined[-1].role is turn.role:
            joined[-1] = _Turn(turn.role, joined[-1].contents + turn.contents)
        else:
            joined.append(turn)
    return joined


def _fold_system(turns: Sequence[_Turn]) -> list[_Turn]:
    """Puts the system text in front of what the user says first."""
    system, rest = turns[0], list(turns[1:])
    if rest and rest[0].role is ChatRole.USER:
        rest[0] = _Turn(ChatRole.USER, system.contents + rest[0].contents)
        return rest
    return [_Turn(ChatRole.USER, system.contents), *rest]


def _marker(index: int) -> str:
    return f"{_GUARD}\ue000{index}\ue001{_GUARD}"


def _split(rendered: str, texts: Sequence[str]) -> Iterator[Piece]:
    """Puts the contents back, each as a piece of its own."""
    end = 0
    for match in _MARKER.finditer(rendered):
        if literal := rendered[end : match.start()]:
            yield Piece(literal, special=True)
        guard_before, index, guard_after = match.groups()
        text = texts[int(index)]
        if not guard_before:
            text = text.lstrip()
        if not guard_after:
            text = text.rstrip()
        for part in _THOUGHT_TAG.split(text):
            if part:
                yield Piece(part, special=False)
        end = match.end()
    if literal := rendered[end:]:
        yield Piece(literal, special=True)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(_: str) -> str:
    # A date would change the first bytes of every prompt at midnight, and with
    # them everything that is cached; a false one would be worse than none.
    return "unknown"
