"""Tools and the choice among them, checked before anything is stored."""

import asyncio
import re
from collections.abc import Sequence

from assistants.domain.errors import FeatureUnavailable, Violation
from assistants.domain.tool import BuiltinTool, Tool
from assistants.domain.validation import MAX_DESCRIPTION, MAX_SCHEMA, NAME_RULE, Violations, shown
from runtime.errors import SchemaRejected
from runtime.output.compile import compile_arguments
from runtime.types import FunctionTool, NamedToolChoice, ToolChoice, ToolChoiceMode

MAX_TOOLS = 128

_NAME = re.compile(NAME_RULE, re.ASCII)


async def check_tools(
    tools: Sequence[Tool], choice: ToolChoice, *, field: str = "tools", choice_field: str = "tool_choice"
) -> None:
    """Checks names, descriptions, argument schemas, and that the choice can be met.

    Schemas are compiled beside the event loop.

    Raises:
        InvalidArgument: naming each field, rule and value.
        FeatureUnavailable: a tool is one that the server would carry out.
    """
    functions: list[FunctionTool] = []
    for index, tool in enumerate(tools):
        if isinstance(tool, BuiltinTool):
            raise FeatureUnavailable(f"{field}[{index}].builtin", f"the built-in tool {shown(tool.name)}")
        functions.append(tool.function)
    violations = Violations()
    violations.count(field, tools, most=MAX_TOOLS)
    violations.check()  # what is too much is not looked at one by one
    first: dict[str, int] = {}
    for index, function in enumerate(functions):
        path = f"{field}[{index}].function"
        _check_function(violations, path, function)
        earlier = first.setdefault(function.name, index)
        if earlier != index:
            violations.add(
                f"{path}.name",
                f"must be unique in the list, got {shown(function.name)}, as {field}[{earlier}] has",
            )
    _check_choice(violations, choice, functions, field=field, choice_field=choice_field)
    violations.check()
    if functions:
        for violation in await asyncio.to_thread(_schema_violations, functions, field):
            violations.add(violation.field, violation.description)
        violations.check()


def _check_function(violations: Violations, path: str, function: FunctionTool) -> None:
    if _NAME.fullmatch(function.name) is None:
        violations.add(f"{path}.name", f"must match ^{NAME_RULE}$, got {shown(function.name)}")
    violations.length(f"{path}.description", function.description, most=MAX_DESCRIPTION)
    violations.length(f"{path}.parameters_json", function.parameters_json, most=MAX_SCHEMA)


def _check_choice(
    violations: Violations,
    choice: ToolChoice,
    functions: Sequence[FunctionTool],
    *,
    field: str,
    choice_field: str,
) -> None:
    match choice:
        case NamedToolChoice(name=name) if name not in {function.name for function in functions}:
            named = ", ".join(function.name for function in functions) or "there are none"
            violations.add(f"{choice_field}.tool", f"must name one of {field} ({named}), got {shown(name)}")
        case ToolChoiceMode.REQUIRED if not functions:
            violations.add(f"{choice_field}.mode", f"must not be required without {field}")
        case _:
            pass


def _schema_violations(functions: Sequence[FunctionTool], field: str) -> list[Violation]:
    found = []
    for index, function in enumerate(functions):
        subject = f"{field}[{index}].function.parameters_json"
        try:
            compile_arguments(function, subject=subject)
        except SchemaRejected as error:
            found.append(Violation(subject, schema_rule(error)))
    return found


def schema_rule(error: SchemaRejected) -> str:
    """Where in a schema which rule is broken; the field is named beside it."""
    return f"at {error.path or 'the root'} of the schema: {error.rule}"
