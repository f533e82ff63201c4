"""Ways to hold a scan state in fewer bits, as the fp32 values that come back: for state_study.py.

A format is called after every token with the new state of a layer and gives what the next token will read.
Rows are the last axis, d_state: a head and channel of Mamba-2 (B, H, P, N), a channel of Mamba-1 (B, E, N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.plugins.common.quantization import SMALLEST_SCALE, dequantize, quantize
from quamba_export.plugins.common.rotation import rotated, rotation_size
from quamba_export.plugins.common.scan_state import up_by_chance

# (h fp32, the layer, tokens before it) -> what is read of it at the next token, fp32
Held = Callable[[Tensor, int, int], Tensor]
Table = Callable[[int], Tensor]  # layer -> the calibrated scales of its state, broadcasting against it


def fp16(h: Tensor, layer: int, position: int) -> Tensor:
    """The default."""
    return h.half().float()


def row_scale(h: Tensor, largest: float = 127.0) -> Tensor:
    """max |h| / largest over the last axis (kept); 1 where the row counts as zeros."""
    scale = h.abs().amax(-1, keepdim=True) / largest
    return torch.where(scale >= SMALLEST_SCALE, scale, torch.ones_like(scale))


@dataclass(frozen=True)
class Static:
    """int8 on the calibrated scales, clipped."""

    table: Table

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        scale = self.table(layer)
        return dequantize(quantize(h, scale), scale)


@dataclass(frozen=True)
class Dynamic:
    """Codes up to `largest` on a scale found when the row is written: one a row, or one a `block` of it.

    table: if given, the calibrated scales; the dynamic one multiplies them, so that a row's entries keep the
        calibrated proportions.
    stochastic: round up with the probability of the fraction, instead of to the nearest.
    """

    block: int | None = None
    table: Table | None = None
    stochastic: bool = False

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        shape = torch.ones(1, device=h.device) if self.table is None else self.table(layer)
        flat = h / shape
        blocks = flat if self.block is None else flat.unflatten(-1, (-1, self.block))
        scale = row_scale(blocks)
        codes = up_by_chance(blocks / scale) if self.stochastic else torch.round(blocks / scale)
        return (codes.clamp(-127, 127) * scale).reshape(h.shape) * shape


@dataclass(frozen=True)
class Companded:
    """int8 on a row's largest value, codes evenly spaced in |h|^(1 / power)."""

    power: float

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        largest = row_scale(h, 1.0)
        codes = torch.round((h.abs() / largest) ** (1 / self.power) * 127)
        return torch.copysign((codes / 127) ** self.power * largest, h)


@dataclass(frozen=True)
class Float8:
    """An 8-bit float behind a row scale that puts the largest value at the top of its range."""

    exponent_bits: int

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        mantissa = 7 - self.exponent_bits
        scale = row_scale(h, 1.0)
        x = h / scale  # up to 1
        lowest = 2 - 2**self.exponent_bits  # exponent of the smallest normal number
        exponent = torch.floor(torch.log2(x.abs().clamp(min=2.0**-60))).clamp(min=lowest)
        step = torch.exp2(exponent - mantissa)
        return torch.round(x / step) * step * scale


@dataclass(frozen=True)
class Rotated:
    """Another format behind a Hadamard transform of each row."""

    inner: Held

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        return rotated(self.inner(rotated(h), layer, position)) / rotation_size(h.shape[-1])


@dataclass(frozen=True)
class EveryKth:
    """Another format, written after every k-th token only; between two writes nothing is lost.

    On a device the inputs of the last k - 1 tokens are kept, and replayed on what was written.
    """

    k: int
    inner: Held

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        return self.inner(h, layer, position) if position % self.k == self.k - 1 else h


@dataclass(frozen=True)
class ErrorFeedback:
    """What a write loses is kept in `bits` more and added to the next one's value: 8 + bits a number."""

    bits: int
    memory: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        wanted = h + self.memory[layer] if position else h
        scale = row_scale(wanted)
        held = torch.round(wanted / scale) * scale
        step = scale / 2**self.bits
        self.memory[layer] = torch.round((wanted - held) / step) * step
        return held


def study_formats(model: QuantizedModel) -> dict[str, Held]:
    """What is compared, by name; `model` has a static int8 state, whose scales some formats use."""
    tables = [model.site_scale(f"layers.{i}.ssm_state") for i in range(model.config.n_layer)]
    if model.config.kind == "mamba2":  # by group, as the scan has its heads; one scale a tensor has no axes
        groups = (model.config.n_groups, -1)
        tables = [table.unflatten(0, groups) if table.dim() else table for table in tables]
    table = tables.__getitem__
    row, proportioned = Dynamic(), Dynamic(table=table)
    formats: dict[str, Held] = {
        "fp32": lambda h, layer, position: h,
        "fp16": fp16,
        "static": Static(table),
        "row": row,
        "row, calibrated proportions": proportioned,
        "blocks of 16": Dynamic(block=16),
        "row, stochastic": Dynamic(stochastic=True),
        "row, power 1.5": Companded(1.5),
        "row, power 2": Companded(2.0),
        "row, e3m4": Float8(3),
        "row, e4m3": Float8(4),
        "row, error in 4 bits more": ErrorFeedback(4),
        "row, every 2nd token": EveryKth(2, row),
        "row, every 4th token": EveryKth(4, row),
        "row, every 8th token": EveryKth(8, row),
        "static, every 8th token": EveryKth(8, Static(table)),
    }
    if model.config.kind == "mamba2":
        formats |= {
            "rotated row": Rotated(row),
            "rotated row, stochastic": Rotated(Dynamic(stochastic=True)),
            "rotated blocks of 32": Rotated(Dynamic(block=32)),
            "rotated row, every 4th token": EveryKth(4, Rotated(row)),
        }
    return formats
