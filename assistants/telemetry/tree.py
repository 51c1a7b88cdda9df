"""A trace as a tree, for a terminal."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from assistants.telemetry import semconv
from assistants.telemetry.receiver import ReceivedSpan

WIDTH = 100
"""Columns of the terminal that a tree fits in."""

_HEADER = ("SPAN", "KIND", "MS", "IN", "OUT", "TTFT", "NOTE")
"""IN and OUT are tokens, TTFT is milliseconds to the first piece of output."""
_RIGHT_ALIGNED = frozenset({"MS", "IN", "OUT", "TTFT"})
_GAP = "  "
_LONGEST_NOTE = 20
_SHORTEST_NAME = 16
_NS_PER_MS = 1_000_000
_MS_PER_S = 1_000

_Row = tuple[str, ...]


def render_tree(spans: Sequence[ReceivedSpan]) -> str:
    """The spans of one trace, each under its parent and in the order they began.

    A span whose parent is not among them is shown as a root. Columns in which
    no span has a value are left out; long names are cut to fit `WIDTH`.

    Raises:
        ValueError: there are no spans, or spans of several traces.
    """
    trace_ids = {span.trace_id for span in spans}
    if len(trace_ids) != 1:
        raise ValueError(f"a tree shows one trace, not {len(trace_ids)}")
    duration_ns = max(span.end_ns for span in spans) - min(span.start_ns for span in spans)
    noun = "span" if len(spans) == 1 else "spans"
    title = f"trace {trace_ids.pop()}  {len(spans)} {noun}  {_ms(duration_ns)} ms"
    rows = [(branch + span.name, *_cells(span)) for branch, span in _walk(spans)]
    return "\n".join((title, "", *_table(rows)))


def _walk(spans: Sequence[ReceivedSpan]) -> Iterator[tuple[str, ReceivedSpan]]:
    """Each span after its parent, with the lines to draw in front of its name."""
    known = {span.span_id for span in spans}
    children: defaultdict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns, span.span_id)):
        children[span.parent_span_id if span.parent_span_id in known else ""].append(span)

    def below(parent_id: str, indent: str) -> Iterator[tuple[str, ReceivedSpan]]:
        for span in children[parent_id]:
            last = span is children[parent_id][-1]
            yield indent + ("└─ " if last else "├─ "), span
            yield from below(span.span_id, indent + ("   " if last else "│  "))

    for root in children[""]:
        yield "", root
        yield from below(root.span_id, "")


def _cells(span: ReceivedSpan) -> _Row:
    attributes = span.attributes
    first_chunk_s = attributes.get(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)
    return (
        span.kind,
        _ms(span.end_ns - span.start_ns),
        _count(attributes.get(semconv.GEN_AI_USAGE_INPUT_TOKENS)),
        _count(attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS)),
        f"{first_chunk_s * _MS_PER_S:,.1f}" if isinstance(first_chunk_s, float) else "",
        _note(span),
    )


def _note(span: ReceivedSpan) -> str:
    attributes = span.attributes
    notes = []
    if (state := attributes.get(semconv.RUN_STATE)) is not None:
        notes.append(str(state))
    attempt = attributes.get(semconv.RUN_ATTEMPT)
    if isinstance(attempt, int) and attempt > 1:
        notes.append(f"attempt {attempt}")
    code = attributes.get(semconv.RPC_STATUS_CODE)
    if span.status == "error":
        notes.append(str(attributes.get(semconv.ERROR_TYPE, "error")))
    elif code is not None and code != "OK":
        notes.append(str(code))
    return ", ".join(notes)


def _table(rows: Sequence[_Row]) -> Iterator[str]:
    filled = [index for index in range(len(_HEADER)) if any(row[index] for row in rows)]
    header = [_HEADER[index] for index in filled]
    kept = [[row[index] for index in filled] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *kept, strict=True)]
    if header[-1] == "NOTE":
        widths[-1] = min(widths[-1], _LONGEST_NOTE)
    room = WIDTH - sum(widths[1:]) - len(_GAP) * len(widths[1:])
    widths[0] = min(widths[0], max(room, _SHORTEST_NAME))
    for row in (header, *kept):
        cells = (
            _cut(cell, width).rjust(width) if title in _RIGHT_ALIGNED else _cut(cell, width).ljust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        )
        yield _GAP.join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / _NS_PER_MS:,.1f}"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""
