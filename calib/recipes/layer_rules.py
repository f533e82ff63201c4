"""Observers and widths for some layers only: a model's first layers need not be as its last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quamba_export.calib.model.qformat import block_named
from quamba_export.calib.observers.kinds import observers_from_tables
from quamba_export.calib.observers.observer import Observer, refuse_unknown
from quamba_export.runtime.errors import QuambaError

PLACES = ("first", "last", "early", "middle", "late")
NUMBERS = r"\d{1,4}(-\d{1,4})?(, ?\d{1,4}(-\d{1,4})?)*"
_ALLOWED = f'{", ".join(PLACES)}, or layers from 0 on as in "0-3, 7"'


@dataclass(frozen=True)
class LayerRule:
    """What holds for the layers at a place, before what the recipe says.

    at:        early, middle, late: a third of the layers each; first, last; or numbers, "0-3, 7".
    observers: site (short name) or "default" -> observer.
    qformat:   widths of these blocks in a w4ax export: one of calib/model/qformat.py's MIXABLE, or None.
    """

    at: str
    observers: Mapping[str, Observer]
    qformat: str | None = None

    def __post_init__(self) -> None:
        if self.qformat is not None:
            block_named(self.qformat, "qformat of a layer rule")
        if self.at not in PLACES and not re.fullmatch(NUMBERS, self.at):
            raise QuambaError("a layer rule is for no layers", found=repr(self.at), allowed=_ALLOWED)
        for first, last in self._numbers():
            if first > last:
                found = f"{first}-{last}"
                raise QuambaError("a layer rule is for no layers", found=found, allowed=f"{last}-{first}")

    def matches(self, layer: int, n_layer: int) -> bool:
        third = 3 * layer // n_layer
        places = {
            "first": layer == 0,
            "last": layer == n_layer - 1,
            "early": third == 0,
            "middle": third == 1,
            "late": third == 2,
        }
        return places.get(self.at, any(first <= layer <= last for first, last in self._numbers()))

    def observer(self, site: str) -> Observer | None:
        return self.observers.get(site) or self.observers.get("default")

    def check_fits(self, n_layer: int) -> None:
        """Raise QuambaError for a layer that a model of n_layer layers does not have."""
        for _, last in self._numbers():
            if last >= n_layer:
                found = f"layer {last} in at = {self.at!r}"
                raise QuambaError("a layer rule fits no layer", found=found, allowed=f"0 to {n_layer - 1}")

    def as_table(self) -> dict[str, Any]:
        """The rule as it stands in a recipe."""
        observers = {site: self.observers[site].as_table() for site in sorted(self.observers)}
        table: dict[str, Any] = {"at": self.at}
        table |= {"observers": observers} if observers else {}
        return table | ({"qformat": self.qformat} if self.qformat else {})

    def _numbers(self) -> list[tuple[int, int]]:
        """First and last layer of each run; none for a place that has a name."""
        if self.at in PLACES:
            return []
        ends = (run.strip().split("-") for run in self.at.split(","))
        return [(int(run[0]), int(run[-1])) for run in ends]


def rule_from_table(table: Any, where: str) -> LayerRule:
    """The rule of an entry of `layers`. Raises QuambaError, naming `where`, for what it may not hold."""
    if not isinstance(table, Mapping):
        found, allowed = repr(table), '{ at = "first", observers.x = { kind = "absmax" } }'
        raise QuambaError(f"{where} is no table", found=found, allowed=allowed)
    refuse_unknown(table, ["at", "observers", "qformat"], f"field of {where}")
    at = table.get("at")
    if not isinstance(at, str):
        raise QuambaError(f"{where} does not say which layers", found=f"at = {at!r}", allowed=_ALLOWED)
    observers, qformat = table.get("observers", {}), table.get("qformat")
    if not isinstance(observers, Mapping) or not (observers or qformat):
        allowed = "a table of observers by site, or qformat"
        raise QuambaError(f"{where} has no observers", found=repr(table.get("observers")), allowed=allowed)
    if qformat is not None:
        block_named(qformat, f"{where}.qformat")
    return LayerRule(at, observers_from_tables(observers, f"{where}.observers"), qformat)
