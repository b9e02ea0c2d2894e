"""Settings: frozen dataclasses that pydantic checks, from Python, YAML or JSON, and one sentence for what is wrong."""

import dataclasses
import json
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from loda.errors import LodaError

T = TypeVar("T")
Names = Annotated[tuple[str, ...], Field(strict=False)]
"""A tuple of strings that may be given as a list."""

UNLESS_DEFAULT = {"written": "unless default"}
"""The metadata of a field that plain data leaves out at its default, so that older data and its digests stay valid."""

LONGEST = 200
"""Values in messages are cut after this many characters."""
_CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose values are checked against its types.

    The description of a field becomes the remedy in the message: `r: int = Field(4, ge=1, description="the paper uses
    4")` refuses 0 with "r=0: input should be greater than or equal to 1 (the paper uses 4)". Rules over several fields
    go into `__post_init__`, which raises LodaError.
    """
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_CONFIG)(cls)
    check = made.__init__

    @wraps(check)
    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807
        try:
            check(self, *args, **values)
        except ValidationError as error:
            raise LodaError(_sentence(made, error)) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


def load(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Read a `cls` from plain data, as YAML and JSON give it; `where` stands before the names in messages.

    Raises:
        LodaError: a setting that is missing, unknown, of a wrong type or out of its range.
    """
    try:
        # JSON has no tuples and no dataclasses, so pydantic's strict mode for JSON reads lists and objects as such.
        return TypeAdapter(cls).validate_json(json.dumps(data))
    except ValidationError as error:
        raise LodaError(_sentence(cls, error, where)) from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; LodaError if it cannot be read or is not JSON."""
    return parse_json(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file; LodaError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LodaError(f"{path} cannot be read ({error.strerror}); restore it from a copy") from error


def parse_json(data: bytes, path: Path) -> Any:
    """Return what the bytes of the JSON file `path` say; LodaError if they are not JSON."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise LodaError(f"{path} is not JSON ({error}); restore it from a copy") from error


def _sentence(cls: type, error: ValidationError, where: str = "") -> str:
    """Say the first thing that is wrong: name, value, rule, remedy."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # a LodaError, whose message is complete
        return str(first["ctx"]["error"])
    if first["type"] == "unexpected_positional_argument":
        return f"{cls.__name__} takes {len(_fields(cls, []))} settings; give them by name"
    path = [str(part) for part in first["loc"]]
    if first["loc"] and isinstance(first["loc"][0], int):  # the value was given by position
        path[0] = list(_fields(cls, []))[first["loc"][0]]
    name = ".".join([where, *path] if where else path)
    fields = _fields(cls, path[:-1])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name} is not a setting; there are {', '.join(fields) or 'none'}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} has no value; give it as {name}=VALUE"
    field = fields.get(path[-1]) if path else None
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}={_short(first['input'])}: {rule}" + (
        f" ({field.description})" if field and field.description else ""
    )


def _short(value: Any) -> str:
    """Write a value so that it does not drown the sentence."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _fields(cls: Any, path: list[str]) -> dict[str, FieldInfo]:
    """Return the fields of the settings class that `path` leads to from `cls`."""
    fields: dict[str, FieldInfo] = getattr(cls, "__pydantic_fields__", {})
    if not path:
        return fields
    return _fields(fields[path[0]].annotation if path[0] in fields else None, path[1:])
