"""Static symmetric int8, the two functions everything else is made of.

q = clamp(round_half_even(x / s), -128, 127), x and s fp32, a true division: `x * (1 / s)` gives other codes
on half-step inputs. Source: Quamba (arXiv 2410.13229), section 3; rounding order is this project's
contract.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MIN, INT8_MAX = -128, 127
SMALLEST_SCALE = 2.0**-67  # that is made: no quotient by it is subnormal, and less than 127 of it is zero
_EXACT_COLUMNS = 1024  # 1024 * 128 * 128 = 2^24: sums of int8 products up to here are exact in fp32


def as_scale(scale: float | Tensor, like: Tensor) -> Tensor:
    """fp32 tensor on the device of `like`; a Python float would be divided by through its reciprocal on
    CUDA.
    """
    return torch.as_tensor(scale, dtype=torch.float32, device=like.device)


def quantize(x: Tensor, scale: float | Tensor) -> Tensor:
    """fp32 x -> int8 codes; `scale` broadcasts against x."""
    return torch.clamp(torch.round(x / as_scale(scale, x)), INT8_MIN, INT8_MAX).to(torch.int8)


def dequantize(codes: Tensor, scale: float | Tensor) -> Tensor:
    """int8 codes -> fp32; `scale` broadcasts against codes."""
    return codes.to(torch.float32) * as_scale(scale, codes)


def int8_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Exact integer product x @ weight.T of int8 codes, returned in fp32 rounded once from the int32 sum.

    x (..., K) int8, weight (M, K) int8 -> (..., M) fp32. Sums of up to 1,024 products are exact in fp32;
    longer ones are added in fp64, exact up to 2^53.
    """
    columns = x.shape[-1]
    if columns <= _EXACT_COLUMNS:
        return x.float() @ weight.float().T
    parts = range(0, columns, _EXACT_COLUMNS)
    total = sum(
        (x[..., k : k + _EXACT_COLUMNS].float() @ weight[:, k : k + _EXACT_COLUMNS].float().T).double()
        for k in parts
    )
    return torch.as_tensor(total).float()
