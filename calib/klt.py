"""A rotation from the data: the Karhunen-Loeve transform, eigenvectors of the second moments of activations.

Behind it a Hadamard transform gives every channel the same mean square, which neither does alone: K leaves
channel k the k-th eigenvalue, and H mixes channels that go together as if they did not
(MambaQuant, arXiv 2501.13484, KLT-enhanced rotation). Second moments are about zero, as codes are.

It costs nothing where both ends of an activation are weights: the residual stream, one K for all layers, from
what their norms give, and the low-rank part of Mamba-1's dt between x_proj and dt_proj.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.observers.observer import Measure, Statistic, absolute_maximum
from quamba_export.calib.workers import one_thread
from quamba_export.plugins.common.hadamard import hadamard_factors

RESIDUAL = "residual"


def rotated_sites(config: MambaConfig) -> dict[str, int]:
    """Name of every rotation -> its width: `residual`, and `layers.{i}.dt_low` of a Mamba-1."""
    low = {f"layers.{i}.dt_low": config.dt_rank for i in range(config.n_layer)}
    return {RESIDUAL: config.d_model} | (low if config.kind == "mamba1" else {})


class SecondMoments(Measure):
    """Sum over all values x (K,) of x x^T, in fp64."""

    def measure(self, rows: Tensor) -> Statistic:
        values = rows.double()  # (K, n)
        return {
            "absmax": absolute_maximum(rows).max(keepdims=True),
            "moments": (values @ values.T).cpu().numpy(),
        }

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        absmax = np.maximum(total["absmax"], sample["absmax"])
        return {"absmax": absmax, "moments": total["moments"] + sample["moments"]}


def eigenbasis(moments: NDArray[np.float64]) -> Tensor:
    """(K, K) -> (K, K) fp64 with orthonormal columns, the same from run to run.

    Columns by falling eigenvalue, dealt out to the blocks of the Hadamard transform behind them, where it is
    not one, so that all blocks get the same share; signs so that the largest entry of each is positive.
    """
    with one_thread():
        _, vectors = torch.linalg.eigh(torch.from_numpy(moments))
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))  # (1, K)
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    blocks = hadamard_factors(len(vectors)).blocks
    order = torch.arange(len(vectors)).reshape(-1, blocks).T.flatten()
    basis: Tensor = vectors[:, order].contiguous()
    return basis


def fold_klt(weight: Tensor, basis: Tensor) -> Tensor:
    """weight @ K in fp64, for weight (out, K) of a linear layer whose input was x and is K^T x."""
    with one_thread():  # so that a calibration gives the same model on any number of threads
        folded: Tensor = weight.double() @ basis.to(weight.device)
    return folded
