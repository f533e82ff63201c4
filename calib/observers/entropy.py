"""Entropy: the limit whose 128 levels lose least information about the distribution of magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.observers.observer import Observer, Rows, Statistic, absolute_maximum

_BINS = 4096  # of a range that is a power of two: 2048 to 4096 of them up to the largest magnitude
_LEVELS = 128  # magnitudes that int8 codes tell apart
_STRIDE = 16  # bins between two limits that are tried

_LEAST = -149  # exponent of the smallest fp32: zeros fit into any range


@dataclass(frozen=True)
class Entropy(Observer):
    """The limit of least KL divergence between the clipped histogram of |x| and its 128 quantized levels.

    A histogram's range is a power of two, so that one of a larger range holds it exactly: the result does not
    depend on the order of the samples.
    Source: Migacz, "8-bit Inference with TensorRT" (GTC 2017), slides on calibration.
    """

    kind: ClassVar[str] = "entropy"

    @property
    def least_values(self) -> int:
        """A value for each level: the divergence of fewer says nothing about their distribution."""
        return _LEVELS

    def measure(self, rows: Tensor) -> Statistic:
        absmax = absolute_maximum(rows)
        exponent = np.where(absmax > 0, np.frexp(absmax.astype(np.float64))[1], _LEAST)  # absmax < 2^exponent
        width = torch.from_numpy(np.ldexp(1.0, exponent) / _BINS).to(rows.device)[:, None]
        bins = (rows.abs().double() / width).nan_to_num(0).clamp_(0, _BINS - 1).long()
        bins += torch.arange(rows.shape[0], device=rows.device)[:, None] * _BINS
        counts = torch.bincount(bins.flatten(), minlength=rows.shape[0] * _BINS)
        return {
            "absmax": absmax,
            "exponent": exponent.astype(np.int64),
            "histogram": counts.view(-1, _BINS).cpu().numpy(),
        }

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        exponent = np.maximum(total["exponent"], sample["exponent"])
        return {
            "absmax": np.maximum(total["absmax"], sample["absmax"]),
            "exponent": exponent,
            "histogram": _widened(total, exponent) + _widened(sample, exponent),
        }

    def limit(self, total: Statistic) -> Rows:
        width = np.ldexp(1.0, total["exponent"]) / _BINS
        bins = np.array([_best_bins(counts) for counts in total["histogram"]])
        return np.minimum(bins * width, total["absmax"])


def _widened(statistic: Statistic, exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Histograms (K, bins) over ranges of 2^exponent (K,), at least their own."""
    histogram = statistic["histogram"].copy()
    for row in np.flatnonzero(exponent > statistic["exponent"]):
        merged = 1 << min(int(exponent[row] - statistic["exponent"][row]), _BINS.bit_length() - 1)
        coarse = statistic["histogram"][row].reshape(-1, merged).sum(axis=1)
        histogram[row] = np.pad(coarse, (0, _BINS - len(coarse)))
    return histogram


def _best_bins(counts: NDArray[Any]) -> int:
    """How many of the first bins to keep; the fewest of equals."""
    candidates = range(_LEVELS, _BINS + 1, _STRIDE)
    return candidates[int(np.argmin([_divergence(counts, kept) for kept in candidates]))]


def _divergence(counts: NDArray[Any], kept: int) -> float:
    """KL(P || Q), nats: P the first `kept` bins with all outliers in the last, Q those bins in 128 levels.

    A level's count is spread evenly over its bins that are not empty. The bin that outliers are clipped to
    counts as one value in Q if it is empty: it has a code. Infinite where nothing lies in the first bins.
    """
    inside, outliers = counts[:kept].astype(np.float64), counts[kept:].sum()
    if not inside.any():
        return float("inf")
    clipped = inside.copy()
    clipped[-1] += outliers
    inside[-1] = max(inside[-1], min(outliers, 1))
    firsts = -(-np.arange(_LEVELS) * kept // _LEVELS)  # first bin of each level
    sizes = np.diff(np.append(firsts, kept))
    used = np.maximum(np.add.reduceat(inside > 0, firsts, dtype=np.int64), 1)
    quantized = np.repeat(np.add.reduceat(inside, firsts) / used, sizes) * (inside > 0)
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
