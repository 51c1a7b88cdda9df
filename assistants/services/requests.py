"""What every request has in common: required fields, request ids, update masks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from assistants.domain.errors import FeatureUnavailable, InvalidArgument, Violation
from assistants.domain.ports import RequestKey
from assistants.domain.validation import check_request_id

_OF_THE_REQUEST = ("request_id", "additional_instructions", "additional_messages", "thread.", "messages")
"""Fields beside the resource that operations check together with it."""


def check_required(message: Message) -> None:
    """Raises InvalidArgument naming every REQUIRED field that is empty, at any depth."""
    missing = list(_missing(message, ""))
    if missing:
        raise InvalidArgument(*(Violation(path, "is required") for path in missing))


def request_key(method: str, request: Message, request_id: str) -> RequestKey | None:
    """The key that makes the call idempotent; None without a request id. Raises InvalidArgument."""
    if not request_id:
        return None
    check_request_id(request_id)
    body = request.SerializeToString(deterministic=True)
    return RequestKey(method=method, request_id=request_id, fingerprint=sha256(body).hexdigest())


@contextmanager
def within(prefix: str) -> Iterator[None]:
    """Names the fields of an error from the request's root; those of the request itself are named so."""
    try:
        yield
    except InvalidArgument as error:
        raise type(error)(
            *(
                v if v.field.startswith(_OF_THE_REQUEST) else Violation(f"{prefix}.{v.field}", v.description)
                for v in error.violations
            )
        ) from error
    except FeatureUnavailable as error:
        if error.field.startswith(_OF_THE_REQUEST):
            raise
        raise error.within(prefix) from error


def masked_fields(
    mask: FieldMask, resource: Message, changeable: Sequence[str], ignored: Sequence[str]
) -> set[str]:
    """The fields that an update changes: the mask's, or all changeable ones with a value.

    Raises:
        InvalidArgument: a path is neither changeable nor output only.
    """
    if not mask.paths:
        present = {field.name for field, _ in resource.ListFields()}
        return present & set(changeable)
    paths = set(changeable) if "*" in mask.paths else set(mask.paths)
    unknown = paths - set(changeable) - set(ignored)
    if unknown:
        rule = f"must name fields that can be changed ({', '.join(changeable)}), got"
        raise InvalidArgument(*(Violation("update_mask", f"{rule} {path!r}") for path in sorted(unknown)))
    return paths & set(changeable)


def _missing(message: Message, prefix: str) -> Iterator[str]:
    for field, required in _fields(message.DESCRIPTOR):
        path = f"{prefix}{field.name}"
        if field.is_repeated:
            items = getattr(message, field.name)
            if required and not items:
                yield path
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                for index, item in enumerate(items):
                    yield from _missing(item, f"{path}[{index}].")
        elif field.message_type is not None:
            if message.HasField(field.name):
                yield from _missing(getattr(message, field.name), f"{path}.")
            elif required:
                yield path
        elif required and not getattr(message, field.name):
            yield path


@cache
def _fields(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, bool], ...]:
    """Fields worth a look, and whether each is REQUIRED."""
    looked_at = []
    for field in descriptor.fields:
        required = (
            field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        )
        ours = field.message_type is not None and field.message_type.file.package.startswith("assistants.")
        if required or ours:
            looked_at.append((field, required))
    return tuple(looked_at)
