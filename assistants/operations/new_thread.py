"""What a client chooses about a thread."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from assistants.domain.errors import FeatureUnavailable, InvalidArgument
from assistants.domain.ids import new_id
from assistants.domain.message import NewMessage
from assistants.domain.principal import Principal
from assistants.domain.thread import Thread
from assistants.domain.validation import Violations
from assistants.operations.messages import check_message

MAX_FIRST_MESSAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NewThread:
    """What a client chooses about a thread."""

    messages: tuple[NewMessage, ...] = ()
    """The first ones, oldest first."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def check_new_thread(new: NewThread) -> None:
    """Raises InvalidArgument, FeatureUnavailable, with fields named `thread.…` and `messages[…]`."""
    try:
        check_metadata(new.metadata)
    except InvalidArgument as error:
        raise error.within("thread") from error
    violations = Violations()
    violations.count("messages", new.messages, most=MAX_FIRST_MESSAGES)
    violations.check()
    for index, message in enumerate(new.messages):
        try:
            check_message(message)
        except (InvalidArgument, FeatureUnavailable) as error:
            raise error.within(f"messages[{index}]") from error


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises InvalidArgument."""
    violations = Violations()
    violations.metadata(metadata)
    violations.check()


def make_thread(principal: Principal, new: NewThread) -> Thread:
    """A thread, ready to be stored; its messages are not in it yet."""
    now = datetime.now(UTC)
    return Thread(
        id=new_id("thread"),
        project_id=principal.project_id,
        metadata=new.metadata,
        create_time=now,
        update_time=now,
    )
