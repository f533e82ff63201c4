"""What a scale does to the values of its site: clipped share, squared error, SNR, largest magnitude after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.observers.observer import Measure, Statistic, absolute_maximum
from quamba_export.plugins.common.quantization import INT8_MAX, INT8_MIN


@dataclass(frozen=True, eq=False)
class ScaleError(Measure):
    """Sums over a site's values x and what int8 codes make of them, by row; scales: (K,) fp32."""

    scales: NDArray[np.float32]

    def measure(self, rows: Tensor) -> Statistic:
        return self.measure_blocks([rows])

    def measure_blocks(self, blocks: Sequence[Tensor]) -> Statistic:
        sizes = np.cumsum([len(block) for block in blocks])
        parts = zip(blocks, np.split(self.scales, sizes[:-1]), strict=True)
        sums = [_sums(block, torch.from_numpy(scales).to(block.device)[:, None]) for block, scales in parts]
        return {key: np.concatenate([part[key] for part in sums]) for key in sums[0]}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        largest = ("absmax", "largest_after")
        return {
            key: np.maximum(value, sample[key]) if key in largest else value + sample[key]
            for key, value in total.items()
        }


def _sums(rows: Tensor, scale: Tensor) -> Statistic:
    """rows (K, n), scale (K, 1)."""
    codes = torch.round(rows / scale)  # half to even, as quantize() does
    kept = codes.clamp(INT8_MIN, INT8_MAX)
    after = kept * scale
    return {
        "absmax": absolute_maximum(rows),
        "largest_after": absolute_maximum(after),
        "clipped": (codes != kept).sum(dim=1).cpu().numpy(),
        "count": np.full(len(rows), rows.shape[1]),
        "power": rows.double().square().sum(dim=1).cpu().numpy(),
        "error": (rows.double() - after.double()).square().sum(dim=1).cpu().numpy(),
    }


def error_report(total: Statistic) -> dict[str, Any]:
    """A site's figures over all rows.

    clipped_share: of its values, those whose code would lie outside -128 to 127.
    mse:           mean squared error, in units of the value squared.
    snr_db:        10 log10(mean x^2 / mse); None where either is 0.
    max_before, max_after: largest magnitude of the values, and of what their codes stand for.
    """
    count, power, error = (float(total[key].sum()) for key in ("count", "power", "error"))
    return {
        "clipped_share": float(total["clipped"].sum()) / count,
        "mse": error / count,
        "snr_db": 10 * math.log10(power / error) if power and error else None,
        "max_before": float(total["absmax"].max()),
        "max_after": float(total["largest_after"].max()),
    }
