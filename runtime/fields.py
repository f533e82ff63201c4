"""A JSON object read field by field: each value's type and range is checked, and no key is left over."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from quamba_export.runtime.errors import QuambaError

MAX_TEXT = 4096
MAX_DEPTH = 8  # of objects and lists in one another; a manifest has 5
DIGEST = re.compile(r"[0-9a-f]{64}")


class Fields:
    """The keys and values of one JSON object in a file; a field that was asked for counts as known.

    Every method raises QuambaError (exit 3) with the file, the key, what was found and what is allowed.
    """

    def __init__(self, values: dict[str, Any], where: str, fix: str) -> None:
        self.values, self.where, self.fix = values, where, fix
        self._known: set[str] = set()

    @classmethod
    def from_json(cls, content: bytes, where: str, fix: str) -> Fields:
        """Parse strict UTF-8 JSON: no key twice in an object, no NaN or infinity, at most MAX_DEPTH deep."""
        try:
            value = json.loads(
                content.decode("utf-8"),
                object_pairs_hook=unique_keys,
                parse_constant=no_constant,
                parse_float=finite,
            )
            check_depth(value)
        except (ValueError, RecursionError) as error:
            raise QuambaError(
                f"{where} is not valid JSON", found=str(error), allowed="UTF-8 JSON", fix=fix
            ) from error
        if not isinstance(value, dict):
            raise QuambaError(
                f"{where} is no JSON object", found=type(value).__name__, allowed="an object", fix=fix
            )
        return cls(value, where, fix)

    def error(self, key: str, found: str, allowed: str) -> QuambaError:
        return QuambaError(
            f"{self.where}: '{key}' is not allowed", found=found[:200], allowed=allowed, fix=self.fix
        )

    def get(self, key: str, kind: type, allowed: str) -> Any:
        """The value of a key that must be there and of exactly this JSON type (true is no integer)."""
        self._known.add(key)
        if key not in self.values:
            raise self.error(key, "nothing", allowed)
        value = self.values[key]
        if type(value) is not kind:
            raise self.error(key, repr(value), allowed)
        return value

    def text(self, key: str) -> str:
        value: str = self.get(key, str, "text")
        if not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            raise self.error(key, repr(value), f"1 to {MAX_TEXT} printable characters")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        allowed = " or ".join(repr(choice) for choice in choices)
        value: str = self.get(key, str, allowed)
        if value not in choices:
            raise self.error(key, repr(value), allowed)
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        allowed = f"an integer from {low} to {high}"
        value: int = self.get(key, int, allowed)
        if not low <= value <= high:
            raise self.error(key, str(value), allowed)
        return value

    def boolean(self, key: str) -> bool:
        value: bool = self.get(key, bool, "true or false")
        return value

    def version(self, key: str, current: int) -> None:
        """This release's schema version and no other."""
        value = self.get(key, int, f"{current}, the version this release reads")
        if value != current:
            raise self.error(key, str(value), f"{current}, the version this release reads")

    def integers(self, key: str, low: int, high: int, max_items: int = 8) -> tuple[int, ...]:
        allowed = f"1 to {max_items} integers from {low} to {high}"
        value: list[Any] = self.get(key, list, allowed)
        if not 1 <= len(value) <= max_items or not all(type(v) is int and low <= v <= high for v in value):
            raise self.error(key, repr(value), allowed)
        return tuple(value)

    def digest(self, key: str) -> str:
        value: str = self.get(key, str, "a sha256, 64 hex digits")
        if not DIGEST.fullmatch(value):
            raise self.error(key, repr(value), "a sha256, 64 hex digits")
        return value

    def optional_digest(self, key: str) -> str | None:
        """A sha256, or null; the key must be there."""
        if key in self.values and self.values[key] is None:
            self._known.add(key)
            return None
        return self.digest(key)

    def object(self, key: str) -> Fields:
        return Fields(self.get(key, dict, "an object"), f"{self.where}: {key}", self.fix)

    def objects(self, key: str) -> list[Fields]:
        values = self.get(key, list, "a list of objects")
        if odd := [value for value in values if type(value) is not dict]:
            raise self.error(key, repr(odd[0]), "a list of objects")
        return [Fields(value, f"{self.where}: {key}[{i}]", self.fix) for i, value in enumerate(values)]

    def end(self) -> None:
        """Refuse keys that nobody asked for."""
        if unknown := sorted(set(self.values) - self._known):
            raise self.error(unknown[0], "a key this release does not know", ", ".join(sorted(self._known)))


def no_constant(name: str) -> None:
    """NaN and the infinities, which Python's parser takes and JSON does not have."""
    raise ValueError(f"{name} is no JSON number")


def finite(text: str) -> float:
    """A number with a fraction or exponent; 1e999 is none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError for more nesting than any file of ours has."""
    layer, depth = [value], 0
    while layer := [inner for outer in layer for inner in members(outer) if isinstance(inner, dict | list)]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


def members(value: Any) -> Iterable[Any]:
    """Of an object or a list."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key occurs twice among {sorted(key for key, _ in pairs)[:8]}")
    return values
