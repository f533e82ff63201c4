"""Options of a recipe's tables: dataclass fields that know their range, for the check and for the schema."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from quamba_export.runtime.errors import QuambaError

_TYPES = {"number": (int, float), "integer": (int,), "string": (str,)}


def number(default: float, *, above: float, most: float) -> Any:
    """A field for a number in (above, most]."""
    schema = {"type": "number", "exclusiveMinimum": above, "maximum": most}
    return _option(default, schema, f"a number in ({above}, {most}]")


def integer(default: int, *, least: int, most: int) -> Any:
    """A field for an integer from least to most."""
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return _option(default, schema, f"an integer from {least} to {most}")


def choice(default: str, among: tuple[str, ...]) -> Any:
    """A field for one of several words."""
    return _option(default, {"type": "string", "enum": list(among)}, " or ".join(among))


def check_options(options: Any, kind: str) -> None:
    """Raise QuambaError for a field of a dataclass that is not in its range; `kind` names the table."""
    for option in fields(options):
        value, schema = getattr(options, option.name), option.metadata["schema"]
        right_type = isinstance(value, _TYPES[schema["type"]]) and not isinstance(value, bool)
        if not right_type or not _within(value, schema):
            raise QuambaError(
                f"option {option.name} of {kind} is out of range",
                found=repr(value),
                allowed=option.metadata["allowed"],
            )


def option_schema(options: type[Any]) -> dict[str, Any]:
    """JSON schema of a dataclass's fields, by name."""
    return {
        option.name: {**option.metadata["schema"], "default": option.default} for option in fields(options)
    }


def _option(default: Any, schema: dict[str, Any], allowed: str) -> Any:
    return field(default=default, metadata={"schema": schema, "allowed": allowed})


def _within(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if "exclusiveMinimum" in schema:
        return bool(schema["exclusiveMinimum"] < value <= schema["maximum"])  # false for NaN
    return bool(schema["minimum"] <= value <= schema["maximum"])
