"""The repositories of one server, and the values that the tests put into them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.content import Role, TextPart
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState
from assistants.domain.ports import Claim, RequestKey
from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_claim import first_claim
from assistants.domain.run_event import RunChanged, RunEvent
from assistants.domain.run_states import RunState
from assistants.domain.thread import Thread
from assistants.storage.assistants import SqlAssistants
from assistants.storage.database import Database
from assistants.storage.event_log import SqlEventLog
from assistants.storage.messages import SqlMessages
from assistants.storage.requests import SqlRequests
from assistants.storage.run_store import SqlRunStore
from assistants.storage.threads import SqlThreads

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """All repositories over one database, a thread, and what the event log told."""

    def __init__(self, database: Database, *, thread: Thread | None = None) -> None:
        self.database = database
        self.log = SqlEventLog(database)
        self.runs = SqlRunStore(database, self.log)
        self.assistants = SqlAssistants(database)
        self.threads = SqlThreads(database)
        self.messages = SqlMessages(database)
        self.requests = SqlRequests(database)
        self.thread = thread or new_thread()
        self.told: list[RunEvent] = []
        self.log.subscribe(lambda run_id, events: self.told.extend(events))

    def run(self) -> Run:
        """A queued run of the thread, not stored yet."""
        return Run(
            id=new_id("run"),
            project_id="p",
            thread_id=self.thread.id,
            assistant_id="asst_1",
            settings=RunSettings(model="m"),
            status=RunStatus(state=RunState.QUEUED, expire_time=NOW),
            create_time=NOW,
        )

    async def queued(self, messages: Sequence[Message] = ()) -> Run:
        """A stored run that nobody has taken."""
        return (await self.runs.create(self.run(), messages, None, claim=None)).run

    async def claimed(self) -> Claim:
        """A run that was taken when it was stored."""
        claim = first_claim(self.run())
        await self.runs.create(replace(claim.run, status=self.run().status), [], None, claim=claim)
        return claim

    def message(self, text: str = "hello", *, id: str | None = None) -> Message:
        """A user's message on the thread, not stored yet."""
        return Message(
            id=id or new_id("msg"),
            project_id="p",
            thread_id=self.thread.id,
            role=Role.USER,
            content=(TextPart(value=text),),
            state=MessageState.COMPLETED,
            create_time=NOW,
            end_time=NOW,
        )


def new_thread() -> Thread:
    return Thread(id=new_id("thread"), project_id="p", create_time=NOW, update_time=NOW)


def request_key(request_id: str = "r1", *, fingerprint: str = "f") -> RequestKey:
    return RequestKey(method="M", request_id=request_id, fingerprint=fingerprint)


def ended(claim: Claim, state: RunState = RunState.COMPLETED) -> RunChanged:
    """The event that ends a claimed run."""
    return RunChanged(replace(claim.run.status, state=state, end_time=NOW, expire_time=None))
