"""The ways in which a call may be written: as it is told to the model, and as models like to write code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.chat.transcript import CALL_CLOSE, CALL_OPEN

# Regular expressions that llguidance and Python read alike. Repetitions of white space are bounded: a weak
# model would go on for ever.
FENCE = r"```(json)?\s{0,2}\n"
LOOSE_HEAD = r'\{\s{0,8}"name"\s{0,2}:\s{0,2}"'
LOOSE_NECK = r'"\s{0,2},\s{0,8}"arguments"\s{0,2}:\s{0,2}'
LOOSE_END = r"\s{0,8}\}"
FENCE_END = "\n```"

NECK = re.compile(rf"([A-Za-z0-9_-]{{1,64}}){LOOSE_NECK}(?=\{{)")
"""Between the head of a call and its arguments; the group is the tool's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLayout:
    """One way of writing `{"name": NAME, "arguments": ARGUMENTS}`."""

    head: re.Pattern[str]
    """Up to the tool's name."""
    end: re.Pattern[str]
    """Behind the arguments."""
    beginnings: Sequence[str]
    """The head without its white space."""
    endings: Sequence[str]
    """The end without its white space."""

    def may_begin(self, text: str) -> bool:
        """Whether a text could grow into a head."""
        return _begins(text, self.beginnings)

    def may_end(self, text: str) -> bool:
        """Whether a text could grow into an end."""
        return _begins(text, self.endings)


TAGGED = CallLayout(
    head=re.compile(re.escape(CALL_OPEN) + LOOSE_HEAD),
    end=re.compile(re.escape("}" + CALL_CLOSE)),
    beginnings=(CALL_OPEN.strip() + '{"name":"',),
    endings=("}" + CALL_CLOSE.strip(),),
)
"""As the model is told to."""

BARE = CallLayout(
    head=re.compile(LOOSE_HEAD), end=re.compile(LOOSE_END), beginnings=('{"name":"',), endings=("}",)
)

FENCED = CallLayout(
    head=re.compile(FENCE + LOOSE_HEAD),
    end=re.compile(LOOSE_END + FENCE_END),
    beginnings=('```json{"name":"', '```{"name":"'),
    endings=("}```",),
)
"""As code in Markdown."""


def _begins(text: str, wholes: Sequence[str]) -> bool:
    compact = "".join(text.split())
    return any(whole.startswith(compact) for whole in wholes)
