"""The scale of least squared error, searched on a histogram of magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.observers.observer import Observer, Rows, Statistic, absolute_maximum
from quamba_export.plugins.common.quantization import INT8_MAX

Floats = NDArray[np.float64]

_SHIFT = 18  # of a positive fp32's bits: leaves the exponent and 5 bits of mantissa, 32 bins an octave
_LOW, _HIGH = (127 - 16) << 5, (127 + 16) << 5  # bins of 2^-16 and 2^16; what lies outside is in the end bins
_BINS = _HIGH - _LOW
_EDGES = (np.arange(_LOW, _HIGH + 1, dtype=np.int32) << _SHIFT).view(np.float32).astype(np.float64)
_COARSE = 2.0 ** (-np.arange(12 * 16 + 1) / 16)  # of the largest magnitude: 12 octaves, 16 limits in each
_FINE = 65  # limits between the neighbours of the best coarse one


@dataclass(frozen=True)
class MeanSquaredError(Observer):
    """The limit whose int8 codes have the least squared error over all samples.

    Values are taken as evenly spread inside a bin (1/32 of an octave, none beyond the largest magnitude), the
    rounding and clipping error of which has a closed form; negative ones end at code -127.
    Source: the MMSE search of Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient
    Inference" (arXiv 1902.06822).
    """

    kind: ClassVar[str] = "mse"

    def measure(self, rows: Tensor) -> Statistic:
        return {"absmax": absolute_maximum(rows), "histogram": magnitude_histogram(rows)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {
            "absmax": np.maximum(total["absmax"], sample["absmax"]),
            "histogram": total["histogram"] + sample["histogram"],
        }

    def limit(self, total: Statistic) -> Rows:
        rows = zip(total["histogram"], total["absmax"].astype(np.float64), strict=True)
        return np.array([_best_limit(counts, float(absmax)) for counts, absmax in rows])


def magnitude_histogram(rows: Tensor) -> NDArray[np.int64]:
    """Counts of |x| of each row (K, n) -> (K, bins)."""
    bins = (rows.abs().contiguous().view(torch.int32) >> _SHIFT).sub_(_LOW).clamp_(0, _BINS - 1).long()
    bins += torch.arange(rows.shape[0], device=rows.device)[:, None] * _BINS
    return torch.bincount(bins.flatten(), minlength=rows.shape[0] * _BINS).view(-1, _BINS).cpu().numpy()


def _best_limit(counts: NDArray[np.int64], absmax: float) -> float:
    if absmax == 0:
        return 0.0
    used = np.flatnonzero(counts)
    lower = np.where(used == 0, 0.0, _EDGES[used])
    upper = np.where(used == _BINS - 1, absmax, np.minimum(_EDGES[used + 1], absmax))
    limits = absmax * _COARSE
    best = int(squared_error(counts[used], lower, upper, limits).argmin())
    neighbours = limits[min(best + 1, len(limits) - 1)], limits[max(best - 1, 0)]
    fine = np.append(np.linspace(*neighbours, _FINE), limits[best])
    return float(fine[squared_error(counts[used], lower, upper, fine).argmin()])


def squared_error(counts: NDArray[Any], lower: Floats, upper: Floats, limits: Floats) -> Floats:
    """Summed (x - s round(x / s))^2, s = limit / 127, of values spread evenly in bins (B,), by limit (T,)."""
    step = limits[:, None] / INT8_MAX
    low, high = lower / step, upper / step  # (T, B), in steps
    width = high - low
    narrow = width < 1e-6 * high  # the bin that ends at the largest magnitude; a difference would lose digits
    spread = (_integral(high) - _integral(low)) / np.where(narrow, 1.0, width)
    error = np.where(narrow, (high - np.minimum(np.rint(high), INT8_MAX)) ** 2, spread)
    summed: Floats = (error * counts).sum(axis=1) * step[:, 0] ** 2
    return summed


def _integral(u: Floats) -> Floats:
    """Integral from 0 to u of (t - code(t))^2: 1/12 for each whole code, a cube for the part of one."""
    code = np.minimum(np.rint(u), INT8_MAX)
    result: Floats = code / 12 + (u - code) ** 3 / 3
    return result
