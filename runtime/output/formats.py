"""The string formats that we promise: how a grammar writes them, and how a document is checked.

Each pattern admits a subset of what its check admits, and leaves room for what people mean: no
leap seconds, years from 1000 on, no e-mail address with quotes. Anything else in `format` is an
annotation, as JSON Schema has it, and constrains nothing.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from jsonschema import FormatChecker


@dataclass(frozen=True, slots=True)
class Format:
    """One format of strings."""

    pattern: str | None
    """Regular expression, anchored, for the grammar; None where none says it."""
    holds: Callable[[str], bool]
    """Whether a string is of this format."""


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: compiled.fullmatch(value) is not None


def _parsing(parse: Callable[[str], object], pattern: str) -> Callable[[str], bool]:
    """Of a shape, and accepted by a parser that raises `ValueError`."""
    shaped = _matching(pattern)

    def holds(value: str) -> bool:
        try:
            return shaped(value) and parse(value) is not None
        except ValueError:
            return False

    return holds


def _is_time(value: str) -> bool:
    """RFC 3339 full-time; a leap second only where it is 23:59:60 in UTC."""
    found = _TIME_PARTS.fullmatch(value)
    if found is None:
        return False
    hour, minute, second = (int(found[part]) for part in ("hour", "minute", "second"))
    sign, offset_hour, offset_minute = found["sign"], found["offset_hour"], found["offset_minute"]
    offset = 60 * int(offset_hour or 0) + int(offset_minute or 0)
    if hour > 23 or minute > 59 or second > 60 or int(offset_hour or 0) > 23 or int(offset_minute or 0) > 59:
        return False
    utc = (60 * hour + minute - (-offset if sign == "-" else offset)) % 1440
    return second < 60 or utc == 1439


def _is_date_time(value: str) -> bool:
    return len(value) > 11 and value[10] in "Tt" and _is_date(value[:10]) and _is_time(value[11:])


def _is_email(value: str) -> bool:
    local, at, domain = value.rpartition("@")
    if not at or len(local) > 64:
        return False
    if domain.startswith("[") and domain.endswith("]"):
        literal = domain[1:-1]
        is_domain = _is_ipv6(literal[5:]) if literal[:5].lower() == "ipv6:" else _is_ipv4(literal)
    else:
        is_domain = _is_hostname(domain)
    return is_domain and _LOCAL_PART.fullmatch(local) is not None


def _is_hostname(value: str) -> bool:
    """RFC 1123."""
    return len(value) <= 253 and _HOSTNAME_PARTS.fullmatch(value) is not None


def _is_regex(value: str) -> bool:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


_TIME_PARTS = re.compile(
    r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.\d+)?"
    r"(?:[zZ]|(?P<sign>[+-])(?P<offset_hour>\d\d):(?P<offset_minute>\d\d))",
    re.ASCII,
)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME_PARTS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*|\"(?:[ !#-\[\]-~]|\\[ -~])*\"", re.ASCII)

_is_date = _parsing(datetime.date.fromisoformat, r"\d{4}-\d{2}-\d{2}")
_is_ipv4 = _parsing(ipaddress.IPv4Address, r"[0-9.]+")
_is_ipv6 = _parsing(ipaddress.IPv6Address, r"[0-9A-Fa-f:.]+")
_is_uuid = _parsing(UUID, r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

# RFC 3339 appendix A.
_is_duration = _matching(
    r"P(?:\d+W|(?=.)(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)?"
    r"(?:T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))?)"
)

# RFC 3986 appendix A; RFC 3987 lets an IRI have more characters in the same places.
_IRI_EXTRA = "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U000efffd"


def _uri(extra: str) -> tuple[str, str]:
    """Patterns of an absolute reference and of any reference."""
    unreserved = rf"A-Za-z0-9._~{extra}\-"
    escape = "%[0-9A-Fa-f]{2}"
    char = rf"(?:[{unreserved}!$&'()*+,;=:@]|{escape})"
    no_colon = rf"(?:[{unreserved}!$&'()*+,;=@]|{escape})"
    user = rf"(?:(?:[{unreserved}!$&'()*+,;=:]|{escape})*@)?"
    host = rf"(?:\[[0-9A-Fa-f:.]+\]|(?:[{unreserved}!$&'()*+,;=]|{escape})*)"
    authority = rf"{user}{host}(?::[0-9]*)?"
    rest = rf"(?:\?(?:{char}|[/?])*)?(?:#(?:{char}|[/?])*)?"
    rooted = rf"//{authority}(?:/{char}*)*|/(?:{char}+(?:/{char}*)*)?"
    absolute = rf"[A-Za-z][A-Za-z0-9+.\-]*:(?:{rooted}|{char}+(?:/{char}*)*)?{rest}"
    relative = rf"(?:{rooted}|{no_colon}+(?:/{char}*)*)?{rest}"
    return absolute, f"(?:{absolute}|{relative})"


_URI, _URI_REFERENCE = _uri("")
_IRI, _IRI_REFERENCE = _uri(_IRI_EXTRA)
# RFC 6570.
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+(?:\.(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+)*(?::[1-9]\d{0,3}|\*)?"
_URI_TEMPLATE = (
    r"(?:[^\x00-\x20\x7f\"'%<>\\^`{|}]|%[0-9A-Fa-f]{2}|"
    rf"\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)

# Patterns of the grammar, in what both llguidance and `re` read.
_DATE_PATTERN = (
    r"(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|[1-9][0-9](?:0[48]|[2468][048]|[13579][26])-02-29|(?:[2468][048]|[13579][26])00-02-29)"
)
_TIME_PATTERN = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOSTNAME_PATTERN = rf"{_LABEL_PATTERN}(?:\.{_LABEL_PATTERN}){{0,6}}"
_ATOM_PATTERN = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
_EMAIL_PATTERN = rf"{_ATOM_PATTERN}(?:\.{_ATOM_PATTERN}){{0,2}}@{_HOSTNAME_PATTERN}"
_N = "[0-9]{1,9}"
_DURATION_TIME = f"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_DURATION_PATTERN = (
    f"P(?:{_N}W|(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)(?:{_DURATION_TIME})?|{_DURATION_TIME})"
)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_H16 = "[0-9A-Fa-f]{1,4}"
_IPV6_PATTERN = "(?:" + "|".join((
    f"(?:{_H16}:){{7}}{_H16}",
    *(f"(?:{_H16}:){{1,{left}}}(?::{_H16}){{1,{7 - left}}}" for left in range(1, 7)),
    f"(?:{_H16}:){{1,7}}:",
    f":(?::{_H16}){{1,7}}",
    "::",
)) + ")"  # fmt: skip
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_URI_TAIL_PATTERN = rf"(?:/{_SEGMENT}*)*(?:\?(?:{_SEGMENT}|[/?])*)?(?:#(?:{_SEGMENT}|[/?])*)?"
_URI_PATTERN = (
    rf"[A-Za-z][A-Za-z0-9+.-]{{0,31}}:(?://{_LABEL_PATTERN}(?:\.{_LABEL_PATTERN})*(?::[0-9]{{1,5}})?"
    rf"|///{_SEGMENT}+|{_SEGMENT}+){_URI_TAIL_PATTERN}"
)
_URI_REFERENCE_PATTERN = rf"(?:{_URI_PATTERN}|{_URI_TAIL_PATTERN})"
_TEMPLATE_PATTERN = (
    r"(?:[A-Za-z0-9._~:/?#@!$&()*+,;=\[\]-]|%[0-9A-Fa-f]{2}"
    r"|\{[+#./;?&]?[A-Za-z0-9_]+(?:,[A-Za-z0-9_]+)*\*?\})*"
)

FORMATS: dict[str, Format] = {
    "date-time": Format(f"^{_DATE_PATTERN}T{_TIME_PATTERN}$", _is_date_time),
    "date": Format(f"^{_DATE_PATTERN}$", _is_date),
    "time": Format(f"^{_TIME_PATTERN}$", _is_time),
    "duration": Format(f"^{_DURATION_PATTERN}$", _is_duration),
    "email": Format(f"^{_EMAIL_PATTERN}$", _is_email),
    "hostname": Format(f"^{_HOSTNAME_PATTERN}$", _is_hostname),
    "ipv4": Format(rf"^{_BYTE}(?:\.{_BYTE}){{3}}$", _is_ipv4),
    "ipv6": Format(f"^{_IPV6_PATTERN}$", _is_ipv6),
    "uuid": Format("^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", _is_uuid),
    "uri": Format(f"^{_URI_PATTERN}$", _matching(_URI)),
    "uri-reference": Format(f"^{_URI_REFERENCE_PATTERN}$", _matching(_URI_REFERENCE)),
    "iri": Format(f"^{_URI_PATTERN}$", _matching(_IRI)),
    "iri-reference": Format(f"^{_URI_REFERENCE_PATTERN}$", _matching(_IRI_REFERENCE)),
    "uri-template": Format(f"^{_TEMPLATE_PATTERN}$", _matching(_URI_TEMPLATE)),
    "json-pointer": Format(r"^(?:/(?:[^/~]|~[01])*)*$", _matching(r"(?:/(?:[^/~]|~[01])*)*")),
    "relative-json-pointer": Format(
        r"^(?:0|[1-9][0-9]{0,8})(?:#|(?:/(?:[^/~]|~[01])*)*)$",
        _matching(r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^/~]|~[01])*)*)"),
    ),
    "regex": Format(None, _is_regex),
}

FORMAT_CHECKER = FormatChecker(formats=())
"""Checks the formats above in documents, and no others."""


def _register(name: str, format_: Format) -> None:
    FORMAT_CHECKER.checks(name)(lambda value: not isinstance(value, str) or format_.holds(value))


for _name, _format in FORMATS.items():
    _register(_name, _format)
