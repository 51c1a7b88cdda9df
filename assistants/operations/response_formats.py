"""The form of an answer, checked before anything is stored."""

import asyncio
import re

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.validation import MAX_DESCRIPTION, MAX_SCHEMA, NAME_RULE, Violations, shown
from assistants.operations.tools import schema_rule
from runtime.errors import SchemaRejected
from runtime.output.compile import compile_schema
from runtime.types import JsonSchemaFormat, ResponseFormat

_NAME = re.compile(NAME_RULE, re.ASCII)


async def check_response_format(format: ResponseFormat, *, field: str = "response_format") -> None:
    """Checks the name and the schema of a `json_schema`; the other forms are always right.

    The schema is compiled beside the event loop.

    Raises:
        InvalidArgument: naming each field, rule and value.
    """
    if not isinstance(format, JsonSchemaFormat):
        return
    path = f"{field}.json_schema"
    violations = Violations()
    if _NAME.fullmatch(format.name) is None:
        violations.add(f"{path}.name", f"must match ^{NAME_RULE}$, got {shown(format.name)}")
    violations.length(f"{path}.description", format.description, most=MAX_DESCRIPTION)
    violations.length(f"{path}.schema_json", format.schema_json, most=MAX_SCHEMA, least=1)
    violations.check()
    subject = f"{path}.schema_json"
    try:
        await asyncio.to_thread(compile_schema, format.schema_json, strict=format.strict, subject=subject)
    except SchemaRejected as error:
        raise InvalidArgument(Violation(subject, schema_rule(error))) from error
