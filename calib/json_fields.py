"""A JSON object from a file, read key by key; what is missing or absurd becomes an error naming it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quamba_export.runtime.errors import QuambaError


@dataclass(frozen=True)
class JsonFields:
    """One JSON object. `prefix` stands before its keys in messages ('ssm_cfg.').

    A reader called without `default` requires its key. Ranges include both ends.
    """

    file: Path
    values: dict[str, Any]
    prefix: str = ""

    @classmethod
    def from_file(cls, file: Path) -> JsonFields:
        """Raises QuambaError where the file is missing, no JSON, or no JSON object."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise QuambaError(f"{file} is missing", allowed="a JSON file") from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without end
            raise QuambaError(
                f"{file} is not readable as JSON",
                found=str(error),
                fix="fetch the file again: it may be cut off",
            ) from error
        if not isinstance(values, dict):
            raise QuambaError(f"{file} holds no JSON object", found=_shown(values), allowed="{...}")
        return cls(file, values)

    def section(self, key: str) -> JsonFields:
        """The object under `key`; empty where the key is absent."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.refusal(key, "an object {...}")
        return JsonFields(self.file, value, f"{self.prefix}{key}.")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._value(key, f"an integer from {low} to {high}", default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refusal(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(key, f"a number from {low} to {high}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.refusal(key, f"a number from {low} to {high}")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        text = " or ".join(repr(name) for name in allowed)
        value = self._value(key, text, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.refusal(key, text)
        return value

    def interval(self, key: str, default: tuple[float, float]) -> tuple[float, float]:
        """[low, high] with 0 <= low < high; high may be Infinity, also in transformers' spelling of it."""
        value = self.values.get(key, list(default))
        ends = [_float(end) for end in value] if isinstance(value, list | tuple) else []
        if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
            raise self.refusal(key, "[low, high] with 0 <= low < high")
        return ends[0], ends[1]

    @property
    def keys(self) -> str:
        """The keys there are, for messages."""
        return "keys " + ", ".join(sorted(self.values)) if self.values else "no keys"

    def refusal(self, key: str, allowed: str) -> QuambaError:
        """The error for a key whose value is not allowed, to be raised by the caller."""
        found = _shown(self.values[key]) if key in self.values else "no such key"
        return QuambaError(
            f"{self.file}: key '{self.prefix}{key}' is not usable", found=found, allowed=allowed
        )

    def _value(self, key: str, allowed: str, default: object) -> Any:
        if key not in self.values and default is None:
            raise QuambaError(
                f"{self.file}: key '{self.prefix}{key}' is missing",
                found=self.keys,
                allowed=allowed,
            )
        return self.values.get(key, default)


def _float(value: object) -> float:
    if isinstance(value, dict) and value == {"__float__": "Infinity"}:
        return math.inf
    """NaN, which no range holds, for what is no number or an integer that no float holds."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    return value if isinstance(value, float) else math.nan


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
