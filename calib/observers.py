"""How a scale is chosen: an observer turns the values of a site into the magnitude that gets code 127.

An observer measures one sample at a time and folds the samples together in their order, in constant memory.
It works on rows (K, n), one row for each scale of the site (calib/sites.py). To add one, write a class here
and register it: its dataclass fields are its options in a recipe.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.plugins.common.quantization import INT8_MAX
from quamba_export.runtime.errors import QuambaError

Statistic = dict[str, NDArray[Any]]  # each (K, ...)
Rows = NDArray[np.float64]  # (K,)

OBSERVERS: dict[str, type[Observer]] = {}


class Observer(ABC):
    """Options of one way to choose a scale; it holds no state, the statistic does."""

    kind: ClassVar[str]

    @abstractmethod
    def measure(self, rows: Tensor) -> Statistic:
        """Statistic of one sample, rows (K, n) fp32; "absmax" (K,) is always in it."""

    @abstractmethod
    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        """`total`, of the samples so far, with the next sample's added."""

    @abstractmethod
    def limit(self, total: Statistic) -> Rows:
        """(K,): the magnitude that gets code 127."""

    @abstractmethod
    def clipped_share(self, total: Statistic) -> float:
        """Share of all observed values whose magnitude is beyond their limit."""

    def as_table(self) -> dict[str, Any]:
        """The observer as it stands in a recipe."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


def register(observer: type[Observer]) -> type[Observer]:
    OBSERVERS[observer.kind] = observer
    return observer


def observer_from_table(table: Mapping[str, Any], where: str) -> Observer:
    """The observer of a recipe's table; raises QuambaError, naming `where`, for an unknown kind or option."""
    kind = str(table.get("kind"))
    refuse_unknown([kind], OBSERVERS, f"observer kind in {where}")
    observer = OBSERVERS[kind]
    options = {name: value for name, value in table.items() if name != "kind"}
    refuse_unknown(options, [field.name for field in fields(observer)], f"option of {kind} in {where}")  # type: ignore[arg-type]
    return observer(**options)


def refuse_unknown(names: Collection[str], known: Collection[str], what: str) -> None:
    """Raise QuambaError for the first of `names` that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise QuambaError(
                f"unknown {what}: {name}",
                allowed=", ".join(sorted(known)) or "none",
                fix=f"did you mean {near[0]}?" if near else "",
            )


@register
@dataclass(frozen=True)
class AbsoluteMaximum(Observer):
    """The largest magnitude seen: nothing is clipped."""

    kind: ClassVar[str] = "absmax"

    def measure(self, rows: Tensor) -> Statistic:
        return {"absmax": absolute_maximum(rows)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {"absmax": np.maximum(total["absmax"], sample["absmax"])}

    def limit(self, total: Statistic) -> Rows:
        return total["absmax"].astype(np.float64)

    def clipped_share(self, total: Statistic) -> float:
        return 0.0


@register
@dataclass(frozen=True)
class Percentile(Observer):
    """alpha-percentile of |x| of each sample, smoothed over samples by limit += sigma * (sample's - limit).

    Source: Quamba (arXiv 2410.13229), section 4.2; the smoothing is its published code's. The clipped share
    comes from a histogram of magnitudes, 32 bins an octave: exact but for the one bin the limit falls into.
    """

    kind: ClassVar[str] = "percentile"
    alpha: float = 0.9995
    sigma: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise QuambaError(
                    f"option {name} of percentile is out of range",
                    found=repr(value),
                    allowed="a number in (0, 1]",
                )

    def measure(self, rows: Tensor) -> Statistic:
        limits, histograms = zip(*(_tail(row.abs(), self.alpha) for row in rows), strict=True)
        return {
            "absmax": absolute_maximum(rows),
            "smoothed": np.array(limits),
            "histogram": np.stack(histograms),
        }

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        smoothed = total["smoothed"] + self.sigma * (sample["smoothed"] - total["smoothed"])
        return {
            "absmax": np.maximum(total["absmax"], sample["absmax"]),
            "smoothed": smoothed,
            "histogram": total["histogram"] + sample["histogram"],
        }

    def limit(self, total: Statistic) -> Rows:
        return total["smoothed"].astype(np.float64)

    def clipped_share(self, total: Statistic) -> float:
        limit, absmax = self.limit(total), total["absmax"]
        histogram = np.where((absmax > limit)[:, None], total["histogram"], 0)  # (K, bins)
        inside = np.clip(
            (limit[:, None] - _EDGES[:-1]) / np.diff(_EDGES), 0, 1
        )  # part of a bin below the limit
        return float((histogram * (1 - inside)).sum() / total["histogram"].sum())


class SumOfMaxima(Observer):
    """Sum over samples of each row's largest magnitude: what channels are sorted by, never a scale."""

    kind: ClassVar[str] = "sum_of_maxima"

    def measure(self, rows: Tensor) -> Statistic:
        return {"absmax": absolute_maximum(rows).astype(np.float64)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {"absmax": total["absmax"] + sample["absmax"]}

    def limit(self, total: Statistic) -> Rows:
        return total["absmax"]

    def clipped_share(self, total: Statistic) -> float:
        return 0.0


def scales_from_limits(limits: Rows) -> tuple[NDArray[np.float32], int]:
    """(K,) limits -> (K,) fp32 scales, finite and > 0, and how many rows were dead.

    A dead row saw nothing but (nearly) zeros, so any scale is right for it: it gets the site's largest limit.
    """
    dead = limits < _SMALLEST_LIMIT
    largest = limits.max() if not dead.all() else 1.0
    return (np.where(dead, largest, limits) / INT8_MAX).astype(np.float32), int(dead.sum())


def absolute_maximum(rows: Tensor) -> NDArray[np.float32]:
    """Largest magnitude of each row (K, n) -> (K,)."""
    if rows.shape[0] == 1:  # no copy, and an order of magnitude faster than over a dimension
        low, high = rows.aminmax()
        return torch.maximum(high, -low).reshape(1).numpy()
    return rows.abs().amax(dim=1).numpy()


_SMALLEST_LIMIT = 2.0**-60
_SHIFT = 18  # of a positive fp32's bits: leaves the exponent and 5 bits of mantissa, 32 bins an octave
_LOW, _HIGH = (
    (127 - 16) << 5,
    (127 + 16) << 5,
)  # bins of 2^-16 and 2^16; what lies outside is counted at the ends
_EDGES = (np.arange(_LOW, _HIGH + 1, dtype=np.int32) << _SHIFT).view(np.float32).astype(np.float64)


def _tail(magnitude: Tensor, alpha: float) -> tuple[float, NDArray[np.int64]]:
    """alpha-percentile (linear between neighbours) of magnitude (n,), and its histogram (bins,)."""
    bins = magnitude.contiguous().view(torch.int32) >> _SHIFT
    counts = torch.bincount(bins, minlength=1 << (31 - _SHIFT))
    position = alpha * (magnitude.numel() - 1)
    low = int(position)
    above = magnitude.numel() - low  # values from the low-th smallest on
    reached = counts.flip(0).cumsum(0) >= above
    first_bin = len(counts) - 1 - int(reached.int().argmax())
    largest = magnitude[bins >= first_bin].topk(above).values.double()  # descending
    lower, upper = float(largest[-1]), float(largest[max(above - 2, 0)])
    kept = counts[_LOW:_HIGH].clone()
    kept[0] += counts[:_LOW].sum()
    kept[-1] += counts[_HIGH:].sum()
    return lower + (position - low) * (upper - lower), kept.numpy()
