"""Threads as lines of JSON, out of a server and in again."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from assistants.domain.errors import NotFound
from assistants.domain.names import thread_name
from assistants.domain.ports import RequestKey, ThreadTransfer
from assistants.domain.principal import Principal
from assistants.domain.thread import Thread
from assistants.domain.thread_content import ThreadContent
from assistants.domain.validation import check_request_id, shown
from assistants.operations.openai_thread import is_openai, load_openai, place_openai
from assistants.operations.thread_lines import Line, dump_lines, load_line, refused
from assistants.operations.thread_rules import Placed, assemble, with_new_ids

MAX_LINES = 100_000
MAX_BYTES = 64 << 20
_METHOD = "ImportThread"


class ThreadTransferOperations:
    """Exports and imports threads of the caller's project."""

    def __init__(self, transfer: ThreadTransfer) -> None:
        self._transfer = transfer

    async def export(self, principal: Principal, thread_id: str) -> Iterable[str]:
        """The lines of a thread, without line ends. Raises NotFound, RunActive."""
        content = await self._transfer.read(principal.project_id, thread_id)
        if content is None:
            raise NotFound("thread", thread_name(thread_id))
        return dump_lines(content)

    async def import_(
        self, principal: Principal, data: bytes, *, new_ids: bool = False, request_id: str = ""
    ) -> Thread:
        """Stores the thread that lines tell of, all or nothing.

        Args:
            principal: whose it becomes.
            data: lines in UTF-8, in our format or OpenAI's, at most `MAX_BYTES`.
            new_ids: whether all gets new ids; else they are kept.
            request_id: makes the call idempotent.

        Raises InvalidArgument and FeatureUnavailable, which name the line, the field
        and the rule, AlreadyExists, RequestIdReused.
        """
        key: RequestKey | None = None
        if request_id:
            check_request_id(request_id)
            digest = sha256(b"new ids" if new_ids else b"ids")
            digest.update(await asyncio.to_thread(lambda: sha256(data).digest()))
            key = RequestKey(method=_METHOD, request_id=request_id, fingerprint=digest.hexdigest())
        content = await asyncio.to_thread(_read, data, principal.project_id)
        return await self._transfer.store(with_new_ids(content) if new_ids else content, key)


def _read(data: bytes, project_id: str) -> ThreadContent:
    lines = list(_lines(data))
    return assemble(_placed(lines, project_id))


def _placed(lines: Sequence[Line], project_id: str) -> Sequence[Placed]:
    if lines and is_openai(lines[0]):
        for line in lines:
            if not is_openai(line):
                raise refused(line, "object", "is required, as the lines before it have it")
        entries = [entry for line in lines for entry in load_openai(line)]
        return place_openai(entries, project_id)
    return [Placed(line, load_line(line, project_id)) for line in lines]


def _lines(data: bytes) -> Iterator[Line]:
    """The objects of the lines that are not empty."""
    for number, text in enumerate(data.split(b"\n"), 1):
        if number > MAX_LINES:
            raise refused(Line(number, None), "", f"must not be: there may be {MAX_LINES} lines")
        if not text.strip():
            continue
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise refused(Line(number, None), "", f"must be JSON: {error}, got {_start(text)}") from error
        if not isinstance(value, dict):
            raise refused(Line(number, None), "", f"must be a JSON object, got {_start(text)}")
        yield Line(number, value)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _start(text: bytes) -> str:
    return shown(text[:200].decode(errors="replace"))
