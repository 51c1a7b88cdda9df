"""Documents are held against the schema that the client gave."""

import json
from collections.abc import Iterator
from decimal import MAX_EMAX, Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from jsonschema import TypeChecker
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from runtime.output.formats import FORMAT_CHECKER
from runtime.output.references import json_pointer
from runtime.output.schema import Draft

if TYPE_CHECKING:
    from runtime.output.compile import CompiledSchema

MAX_VIOLATIONS = 8
"""Most violations that are told."""


class _NotJson(ValueError):
    """The text is not the JSON that we accept."""


def violations(compiled: "CompiledSchema", document_json: str) -> tuple[str, ...]:
    """What a document misses of its schema; empty when it is valid.

    Each entry is short and begins with the JSON pointer of what it is about. A text that is not
    JSON, or holds NaN or an infinity, is one violation. Of a key that stands twice in an object the
    last counts, as in most parsers.
    """
    try:
        document = parse_document(document_json)
    except _NotJson as error:
        return (f"(root): {error}",)
    return _violations(compiled.validator, document)


def _violations(validator: Validator, document: Any) -> tuple[str, ...]:
    found = []
    for error in validator.iter_errors(document):
        found.append(_told(error))
        if len(found) == MAX_VIOLATIONS:
            break
    return tuple(found)


def parse_document(document_json: str) -> Any:
    """Parses JSON; fractions become `Decimal`, so that `multipleOf` is exact.

    Raises:
        ValueError: it is not JSON, or holds NaN or an infinity.
    """

    def refuse_constant(text: str) -> NoReturn:
        raise _NotJson(f"{text} is not JSON")

    try:
        return json.loads(document_json, parse_constant=refuse_constant, parse_float=_decimal)
    except json.JSONDecodeError as error:
        raise _NotJson(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _NotJson("nested too deep") from error


def make_validator(schema: dict[str, Any], draft: Draft) -> Validator:
    """A validator of a checked schema, with the formats that we promise and exact multiples."""
    validator: Validator = _CLASSES[draft](schema, registry=Registry(), format_checker=FORMAT_CHECKER)
    return validator


def document_validator(schema_json: str, draft: Draft) -> Validator:
    """A validator of a checked schema for documents of `parse_document`."""
    return make_validator(json.loads(schema_json, parse_float=Decimal), draft)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        # Its exponent has more than 18 digits.
        mantissa, _, exponent = text.lower().partition("e")
        nothing = exponent.startswith("-") or not mantissa.strip("-0.")
        return Decimal(0) if nothing else Decimal(f"{mantissa[0].strip('0123456789')}1e{MAX_EMAX}")


def _is_number(_: TypeChecker, value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_integer(_: TypeChecker, value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _multiple_of(
    _: Validator, divisor: float | Decimal, value: object, __: dict[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        return
    # An exponent beyond a double's would become an integer of as many digits.
    far = isinstance(value, Decimal) and abs(value.adjusted()) > _MOST_EXPONENT
    # As text, a double is the decimal that was meant.
    if far or Fraction(str(value)) % Fraction(str(divisor)) != 0:
        yield ValidationError(f"{value} is not a multiple of {divisor}")


def _exact(draft: Draft) -> type[Validator]:
    types = draft.validator.TYPE_CHECKER.redefine("number", _is_number)
    if draft is not Draft.DRAFT_4:
        types = types.redefine("integer", _is_integer)
    extended: type[Validator] = extend(  # type: ignore[no-untyped-call]  # its stub has no types
        draft.validator, validators={"multipleOf": _multiple_of}, type_checker=types
    )
    return extended


_MOST_EXPONENT = 400
_CLASSES = {draft: _exact(draft) for draft in Draft}


def _told(error: ValidationError) -> str:
    where = json_pointer(tuple(error.absolute_path)) or "(root)"
    message = error.message
    return f"{where}: {message if len(message) <= 200 else message[:200] + '…'}"
