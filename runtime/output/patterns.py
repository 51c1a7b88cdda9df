"""Regular expressions as both `re` and llguidance read them."""

import re

_FULL_CLASS = re.compile(r"\[\\[sS]\\[sS]\]|\[\\[dD]\\[dD]\]|\[\\[wW]\\[wW]\]")
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[]+|.", re.DOTALL)
_NARROW_SPACES = r"\x1c-\x1f"
"""What `re` counts as space and llguidance does not."""


def narrowed(pattern: str) -> tuple[str, bool]:
    """A pattern that admits no more in llguidance than in `re`, and whether it could be made so.

    Digits and word characters are ASCII to llguidance, and any in Unicode to `re`: what is not one
    is wider in llguidance.
    """
    parts, same = [], True
    for part in _PARTS.findall(pattern):
        if part == r"\S":
            part = rf"[^\s{_NARROW_SPACES}]"
        elif part in (r"\D", r"\W"):
            same = False
        elif part.startswith("[^"):
            same = same and not re.search(r"\\[dwDWS]", part)
            if r"\s" in part:
                part = f"{part[:-1]}{_NARROW_SPACES}]"
        elif part.startswith("[") and len(part) > 1 and not _FULL_CLASS.fullmatch(part):
            same = same and not re.search(r"\\[DWS]", part)
        parts.append(part)
    return "".join(parts), same


def pattern_of_other_words(words: list[str]) -> str:
    """Pattern of all strings but some: they leave the tree of words, or end inside it."""
    return f"^{_other_than(words)}$"


def _other_than(words: list[str]) -> str:
    first = sorted({word[0] for word in words if word})
    options = [] if "" in words else [""]
    if first:
        options.append(f"[^{''.join(map(_in_class, first))}][\\s\\S]*")
        options += [
            _literal(letter) + _other_than([word[1:] for word in words if word[:1] == letter])
            for letter in first
        ]
    else:
        options.append("[\\s\\S]+")
    return f"(?:{'|'.join(options)})"


def _in_class(letter: str) -> str:
    return f"\\{letter}" if letter in "\\]^-[&~" else letter


def _literal(letter: str) -> str:
    return f"\\{letter}" if letter in ".^$*+?{}[]\\|()" else letter
