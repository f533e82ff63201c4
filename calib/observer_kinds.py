"""The observers that a recipe can name, and the table of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from quamba_export.calib.observer_aciq import AnalyticalClipping
from quamba_export.calib.observer_entropy import Entropy
from quamba_export.calib.observer_mse import MeanSquaredError
from quamba_export.calib.observer_outlier_aware import OutlierAware
from quamba_export.calib.observers import AbsoluteMaximum, Observer, Percentile, refuse_unknown

OBSERVERS: dict[str, type[Observer]] = {
    observer.kind: observer
    for observer in (
        AbsoluteMaximum,
        Percentile,
        MeanSquaredError,
        AnalyticalClipping,
        Entropy,
        OutlierAware,
    )
}


def observer_from_table(table: Mapping[str, Any], where: str) -> Observer:
    """The observer of a recipe's table; raises QuambaError, naming `where`, for an unknown kind or option."""
    kind = str(table.get("kind"))
    refuse_unknown([kind], OBSERVERS, f"observer kind in {where}")
    observer = OBSERVERS[kind]
    options = {name: value for name, value in table.items() if name != "kind"}
    refuse_unknown(options, [field.name for field in fields(observer)], f"option of {kind} in {where}")  # type: ignore[arg-type]
    return observer(**options)
