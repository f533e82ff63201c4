"""The arithmetic contract of every op: the formula as real numbers, rounded to fp32 once.

int8 codes decide everything downstream, and one code that differs sends a network's later roundings on
another path: two implementations with different fp32 summation orders agree at first and give different
text fifty tokens later. So sums and transcendental functions are computed to at least 2^-40 of their value
(fp64 here and in the ONNX bodies; a kernel may use fp64 or pairs of fp32) and rounded to fp32 at the places
the references name. What remains are plain fp32 multiplications, additions and divisions in a fixed order,
which are the same bits everywhere as long as nothing contracts them into an FMA.
"""

from __future__ import annotations

import torch
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)), fp32 -> fp32, rounded once."""
    wide = x.double()
    return (wide / (1.0 + torch.exp(-wide))).float()


def exp(x: Tensor) -> Tensor:
    """exp(x), fp32 -> fp32, rounded once."""
    return torch.exp(x.double()).float()


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), fp32 -> fp32, rounded once; without overflow, and log1p keeps the digits of a small
    result.
    """
    wide = x.double()
    return (wide.clamp(min=0.0) + torch.log1p(torch.exp(-wide.abs()))).float()


def root_mean_square(x: Tensor, epsilon: float) -> Tensor:
    """sqrt(mean(x^2) + epsilon) over the last axis (kept), fp32 -> fp32, rounded once."""
    return torch.sqrt(x.double().square().mean(-1, keepdim=True) + float(torch.tensor(epsilon))).float()
