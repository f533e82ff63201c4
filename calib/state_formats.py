"""Ways to hold a scan state in fewer bits, as the fp32 values that come back: the material of state_study.py.

A format is called after every token with the new state of a layer and gives what the next token will read.
Rows are the last axis, d_state: one head and channel of Mamba-2 (B, H, P, N), one channel of Mamba-1 (B, E, N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quamba_export.calib.quantized_model import QuantizedModel
from quamba_export.plugins.common.quantization import SMALLEST_SCALE, dequantize, quantize

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
    power: float = 1.0  # of the table: 0 would be no proportions at all
    largest: int = 127
    stochastic: bool = False

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        shape = torch.ones(1) if self.table is None else self.table(layer) ** self.power
        flat = h / shape
        blocks = flat if self.block is None else flat.unflatten(-1, (-1, self.block))
        scale = row_scale(blocks, self.largest)
        codes = blocks / scale
        codes = up_by_chance(codes) if self.stochastic else torch.round(codes)
        return (codes.clamp(-self.largest - 1, self.largest) * scale).reshape(h.shape) * shape


def up_by_chance(x: Tensor) -> Tensor:
    """Codes rounded up as often as their fraction says; chance is the 8 bits of x from 2^-10 on: no counter."""
    finer = x * 512
    return torch.floor(x + (finer - torch.floor(finer)))


@dataclass(frozen=True)
class Companded:
    """int8 on a row's largest value, codes evenly spaced in |h|^(1 / power)."""

    power: float = 2.0
    table: Table | None = None

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        shape = torch.ones(1) if self.table is None else self.table(layer)
        flat = h / shape
        largest = row_scale(flat, 1.0)
        codes = torch.round((flat.abs() / largest) ** (1 / self.power) * 127)
        return torch.copysign((codes / 127) ** self.power * largest, flat) * shape


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
        return hadamard(self.inner(hadamard(h), layer, position))


def hadamard(x: Tensor) -> Tensor:
    """Orthogonal Walsh-Hadamard transform of the last axis, a power of two."""
    size, shape = x.shape[-1], x.shape
    x = x.reshape(-1, size)
    half = 1
    while half < size:
        pairs = x.unflatten(-1, (-1, 2, half))
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).flatten(1)
        half *= 2
    return x.reshape(shape) / size**0.5


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
    """What a write loses is kept in `bits` more and added to the next one's value."""

    bits: int
    memory: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, h: Tensor, layer: int, position: int) -> Tensor:
        wanted = h + self.memory[layer] if position else h
        scale = row_scale(wanted)
        held = torch.round(wanted / scale) * scale
        step = scale / 2**self.bits
        self.memory[layer] = torch.round((wanted - held) / step) * step
        return held


def formats_of(model: QuantizedModel) -> dict[str, Held]:
    tables = [model.site_scale(f"layers.{i}.ssm_state") for i in range(model.config.n_layer)]
    groups = max(1, model.config.n_groups)
    if tables[0].dim() == 3:
        tables = [t.unflatten(0, (groups, -1)) for t in tables]
    table = tables.__getitem__
    formats: dict[str, Held] = {
        "fp32": lambda h, layer, position: h,
        "fp16": fp16,
        "static": Static(table),
        "row": Dynamic(),
        "blocks16": Dynamic(block=16),
        "row*table": Dynamic(table=table),
        "row*table^.5": Dynamic(table=table, power=0.5),
        "row stoch": Dynamic(stochastic=True),
        "blocks16 stoch": Dynamic(block=16, stochastic=True),
        "row*table stoch": Dynamic(table=table, stochastic=True),
        "sqrt": Companded(),
        "pow1.5": Companded(1.5),
        "pow1.5*table": Companded(1.5, table=table),
        "e2m5": Float8(2),
        "e3m4": Float8(3),
        "e4m3": Float8(4),
        "feedback4": ErrorFeedback(4),
        "row/4": EveryKth(4, Dynamic()),
        "row/8": EveryKth(8, Dynamic()),
        "row/16": EveryKth(16, Dynamic()),
        "row*table/4": EveryKth(4, Dynamic(table=table)),
        "row*table/8": EveryKth(8, Dynamic(table=table)),
        "static/8": EveryKth(8, Static(table)),
        "static/64": EveryKth(64, Static(table)),
    }
    if model.config.kind == "mamba2":
        formats |= {
            "hadamard row": Rotated(Dynamic()),
            "hadamard stoch": Rotated(Dynamic(stochastic=True)),
            "hadamard blocks32": Rotated(Dynamic(block=32)),
            "hadamard blocks32 stoch": Rotated(Dynamic(block=32, stochastic=True)),
            "hadamard blocks16": Rotated(Dynamic(block=16)),
            "hadamard row/4": EveryKth(4, Rotated(Dynamic())),
        }
    return formats
