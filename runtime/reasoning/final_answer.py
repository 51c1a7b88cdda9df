r"""Which answer a text gives, in a form in which answers of several samples can be compared.

Found as public evaluation harnesses find it (lm-evaluation-harness for GSM8K and MATH): `\boxed{x}`,
`#### x`, "the answer is x", else the last number of a text that calculates, else the whole text.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

# A model that repeats itself gives long texts: each expression takes a time linear in them.
_BRACES = re.compile(r"\\boxed\s*\{|[{}]")
_HASHES = re.compile(r"####[ \t]*(?=\S)")
_ANSWER = re.compile(r"\banswer\b[\s*_]*(?:(?:is|are|was|would be|=|:)[\s*_]*)+(?=\S)", re.IGNORECASE)
# A full stop behind a long word ends a sentence; "St." and "Dr." do not.
_SENTENCE_END = re.compile(r"(?<=[^\W_]{4})[.!?](?=\s)")
_REASON = re.compile(r"\b(?:because|since)\b.*", re.IGNORECASE)
_CHOICE = re.compile(r"\(([A-Za-z])\)(?:\s.*)?|([A-Za-z])(?:[.):](?:\s.*)?)?")
_CALCULATION = re.compile(r"=\s{0,3}[$€£¥]?\s?[+-]?\.?[0-9]")
_LIST_MARKER = re.compile(r"^\s*(?:[0-9]+[.)]|[-*•])\s+")
_SHORT_WORDS = 12

_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_QUANTITY = re.compile(
    # Neither part of a word, nor of a date, a time, a range, a power or a fraction.
    r"(?<![\w.,:/^])(?<![0-9][-\u2013])(?P<sign>[+-]?[$€£¥]?\s?[+-]?)"
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
    rf"(?:\s*(?P<percent>%|percent\b|per cent\b)|\s*(?P<scale>{'|'.join(_SCALES)})\b)?"
    r"(?!(?:st|nd|rd|th)\b)(?![0-9^]|[-\u2013,.:/][0-9])",
    re.IGNORECASE,
)
# "$", "km", "apples in all": the question fixes the unit, and samples differ in whether they repeat it.
_UNIT = re.compile(r"(?:[^\W\d_]|[°$€£¥²³'\u2019\s])*")
_JOINS = re.compile(r"\s*(?:and|or|to|plus|minus|times|over|x|by|out of)\b", re.IGNORECASE)

_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_LATEX_NOISE = re.compile(
    r"\\[()\[\],;!]|\^\s*\{?\\circ\}?|\\left\b|\\right\b|\$\$"
    # One dollar is money, unless there is another that closes it.
    r"|(?<!\w)\$(?=[^$\s])(?=[^$]*\$)|\$(?=[\s.!,]{0,3}\Z)"
)
_LATEX_ESCAPE = re.compile(r"\\([$%#&_])")

_PLAIN_ZEROS = 32
"""Zeros that a number is written out with; a document may say 1e999999999."""


def final_answer(text: str) -> str | None:
    """Finds the answer that a text gives and writes it in its canonical form.

    Numbers lose separators, currency and unit (`$1,000.00` is `1000`, `72 clips` is `72`) and keep percent
    and scale (`50 percent` is `50%`, `2 million` is `2000000`). Other answers lose case, and white space and
    punctuation around words. A canonical form is its own canonical form.

    Returns:
        None when the text gives no answer: it is empty, or nothing but punctuation.
    """
    # A step may bring to light what the next can shorten; each shortens, so this ends.
    while (answer := _canonical(_extracted(text))) != text:
        text = answer
    return answer or None


def canonical_number(number: Decimal) -> str:
    """Writes a number so that equal numbers are equal texts: 1.0 and 1 are `1`, -0 is `0`."""
    if not number:
        return "0"
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int), "neither infinite nor NaN"
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    exponent += len(text) - len(significant)
    plain = -_PLAIN_ZEROS < exponent <= _PLAIN_ZEROS
    shifted = Decimal((sign, tuple(map(int, significant)), exponent))
    return f"{shifted:f}" if plain else f"{'-' if sign else ''}{significant}e{exponent}"


def _extracted(text: str) -> str:
    """The part of a text that is its answer."""
    if boxed := _last_boxed(text):
        return boxed
    if hashes := list(_HASHES.finditer(text)):
        return _line_from(text, hashes[-1].end())
    if answers := list(_ANSWER.finditer(text)):
        return _first_sentence(_line_from(text, answers[-1].end()))
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (quantity := _last_quantity(text, lines[-1])):
        return quantity
    return text


def _last_boxed(text: str) -> str | None:
    """What the last box holds that is closed; of boxes inside each other the innermost."""
    opened: list[re.Match[str]] = []
    start, end = 0, 0
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (opening := opened.pop())[0] != "{" and opening.end() > start:
            start, end = opening.end(), brace.start()
    return text[start:end] or None


def _line_from(text: str, start: int) -> str:
    return text[start:].splitlines()[0]


def _first_sentence(line: str) -> str:
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return _REASON.sub("", sentence)


def _last_quantity(text: str, last_line: str) -> str | None:
    """The last number of the last line, if the text looks like the answer to a calculation."""
    quantities = list(_quantities(_plain(_LIST_MARKER.sub("", last_line))))
    short = len(last_line.split()) <= _SHORT_WORDS and len(text.strip()) == len(last_line.strip())
    if quantities and (_CALCULATION.search(text) or (short and len(quantities) == 1)):
        return quantities[-1]
    return None


def _canonical(answer: str) -> str:
    plain = _plain(answer).strip()
    if "=" in plain and _CALCULATION.search(plain):
        plain = plain.rsplit("=", 1)[1].strip()
    if quantity := _whole_quantity(plain):
        return quantity
    if choice := _CHOICE.fullmatch(plain):
        return (choice[1] or choice[2]).lower()
    return _folded(plain)


def _plain(text: str) -> str:
    """Takes away what only sets type: Markdown's emphasis and LaTeX."""
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("**", "").replace("`", "")
    text = _LATEX_TEXT.sub(r"\1", text)
    text = _LATEX_FRACTION.sub(r"\1/\2", text)
    text = _LATEX_ESCAPE.sub(r"\1", text)
    return _LATEX_NOISE.sub(" ", text)


def _whole_quantity(text: str) -> str | None:
    """The quantity that a text is, whatever unit it names; None when it says more."""
    text = text.rstrip(" .!,;")
    match = _QUANTITY.match(text)
    if match is None:
        return None
    rest = text[match.end() :]
    return _quantity(match) if _UNIT.fullmatch(rest) and not _JOINS.match(rest) else None


def _quantities(line: str) -> Iterator[str]:
    return (_quantity(match) for match in _QUANTITY.finditer(line))


def _quantity(match: re.Match[str]) -> str:
    number = Decimal(("-" if "-" in match["sign"] else "") + match["number"].replace(",", ""))
    if match["scale"]:
        number = number.scaleb(_SCALES[match["scale"].lower()])
    return canonical_number(number) + ("%" if match["percent"] else "")


def _folded(text: str) -> str:
    """Takes away case, and white space and punctuation around words.

    What stands between two letters or digits stays, as in `3/4`, `don't` and `12:30`, and so do symbols,
    as in `a + b`: they may be what the answer is about.
    """
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    kept = "".join(
        " " if _is_idle_punctuation(text, index) else character for index, character in enumerate(text)
    )
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _is_idle_punctuation(text: str, index: int) -> bool:
    if not unicodedata.category(text[index]).startswith("P") or text[index] == "%":
        return False
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if text[index] == "-":
        return not after.isalnum()
    return not (before.isalnum() and after.isalnum())
