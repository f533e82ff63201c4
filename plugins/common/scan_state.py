"""How a scan's state is held between two tokens: as floats, as int8 codes on calibrated scales, or as int8
codes with a scale a row that is found whenever the row is written, to the nearest code or up by chance.

A row is the last axis, d_state: one head and channel of Mamba-2, one channel of Mamba-1.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor as T

from quamba_export.plugins.common.onnx_text import FLOAT, FLOAT16, INT8, quantize_lines
from quamba_export.plugins.common.quantization import INT8_MAX, dequantize, quantize

ROWS, CHANCE_ROWS = "rows", "chance rows"  # RowScaled and ByChance where the other states have a dtype
CARRIED = {  # ONNX type in a loop
    "float16": "float16",
    "float32": "float",
    "int8": "int8",
    ROWS: "float",
    CHANCE_ROWS: "float",
}
SMALLEST_PEAK = 2.0**-100  # of a row: nothing overflows or is subnormal above it
FINE_STEPS = 512  # a code's step in parts that decide nothing but chance: 127 has 8 bits below them in fp32


class RowScaled(NamedTuple):
    """codes int8 (..., N) and scale fp32 (...): entry n of a row stands for codes[n] * scale."""

    codes: T
    scale: T

    def unflatten(self, dim: int, sizes: tuple[int, int]) -> RowScaled:
        """torch's, on an axis before the last."""
        return type(self)(self.codes.unflatten(dim, sizes), self.scale.unflatten(dim, sizes))

    def flatten(self, first: int, last: int) -> RowScaled:
        return type(self)(self.codes.flatten(first, last), self.scale.flatten(first, last))


class ByChance(RowScaled):
    """One whose codes are rounded up as often as their fractions say (up_by_chance)."""


def row_scaled(codes: T, scale: T, stochastic: int) -> RowScaled:
    """What the inputs `state` and `row_scale` of an op stand for, by its attribute `stochastic`, 0 or 1."""
    return ByChance(codes, scale) if stochastic else RowScaled(codes, scale)


def rows_kind(stochastic: float | int) -> str:
    """The same in ONNX text."""
    return CHANCE_ROWS if stochastic else ROWS


def up_by_chance(steps: T) -> T:
    """Whole numbers, one beside each of `steps` (fp32, up to 127 in magnitude), the upper one as often as the
    fraction says.

    Chance is the number's own bits below a 512th, as a share of it: no counter and no seed, the same again in
    every run, and a number of codes on the scale they came from stays that code. The sum is exact from 1 on.
    Source: stochastic rounding (Gupta et al., arXiv 1502.02551, section 3); where chance comes from is this
    project's.
    """
    fine = steps * FINE_STEPS
    return torch.floor(steps + (fine - torch.floor(fine)))


State = TypeVar("State", T, RowScaled)


def loaded(state: T | RowScaled, scale: T | float) -> T:
    """The fp32 values of a state; `scale` is read for a tensor of int8 codes only."""
    if isinstance(state, RowScaled):
        return dequantize(state.codes, state.scale[..., None])
    return dequantize(state, scale) if state.dtype == torch.int8 else state.float()


def stored(h: T, like: State, scale: T | float) -> State:
    """fp32 values rounded to what `like` is: halves to even, an int8 code on `scale` clipped.

    A row's scale is its peak / 127, and a code is h * (127 / peak): one division a row, and none clips.
    """
    if isinstance(like, RowScaled):
        rounded = up_by_chance if isinstance(like, ByChance) else torch.round
        peak = h.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_PEAK)
        limit = torch.full_like(peak, INT8_MAX)
        return type(like)(rounded(h * (limit / peak)).to(torch.int8), (peak / limit).squeeze(-1))
    return quantize(h, scale) if like.dtype == torch.int8 else h.to(like.dtype)


def begin_lines(source: str, target: str, kind: str) -> str:
    """`target`, what a loop carries, of the op's input `source`, and of `row_scale` where it has one.

    kind: the state's dtype, or ROWS or CHANCE_ROWS, whose codes and scale are carried side by side, N + 1
    numbers a row.
    """
    if has_row_scales(kind):
        return f"""
            {source}_row_axis = Constant <value_ints = [-1]> ()
            {source}_wide = Cast <to = {FLOAT}> ({source})
            {source}_column = Unsqueeze (row_scale, {source}_row_axis)
            {target} = Concat <axis = -1> ({source}_wide, {source}_column)
        """
    return f"{target} = Identity ({source})"


def end_lines(source: str, target: str, kind: str, n_state: int) -> str:
    """The op's output `target`, and `row_scale_out` where it has one, of what a loop carried."""
    if has_row_scales(kind):
        return f"""
            {_split_lines(source, n_state)}
            {target} = Cast <to = {INT8}> ({source}_codes)
            {source}_row_axis = Constant <value_ints = [-1]> ()
            row_scale_out = Squeeze ({source}_scale, {source}_row_axis)
        """
    return f"{target} = Identity ({source})"


def loaded_lines(source: str, target: str, kind: str, scale: str, n_state: int) -> str:
    """`target` = the values, in fp32, of what a loop carries; codes of an int8 state stand on `scale`."""
    if has_row_scales(kind):
        return f"""
            {_split_lines(source, n_state)}
            {target} = Mul ({source}_codes, {source}_scale)
        """
    if kind == "int8":
        return f"""
            {source}_codes = Cast <to = {FLOAT}> ({source})
            {target} = Mul ({source}_codes, {scale})
        """
    return f"{target} = Cast <to = {FLOAT}> ({source})"


def stored_lines(source: str, target: str, kind: str, scale: str) -> str:
    """`target` = the fp32 `source` rounded to what a loop carries; an int8 state on `scale`."""
    if has_row_scales(kind):
        return f"""
            {target}_axis = Constant <value_ints = [-1]> ()
            {target}_smallest = Constant <value_float = {SMALLEST_PEAK!r}> ()
            {target}_limit = Constant <value_float = {float(INT8_MAX)}> ()
            {target}_abs = Abs ({source})
            {target}_largest = ReduceMax <keepdims = 1> ({target}_abs, {target}_axis)
            {target}_peak = Max ({target}_largest, {target}_smallest)
            {target}_inverse = Div ({target}_limit, {target}_peak)
            {target}_steps = Mul ({source}, {target}_inverse)
            {_rounded_lines(f"{target}_steps", f"{target}_codes", kind)}
            {target}_scale = Div ({target}_peak, {target}_limit)
            {target} = Concat <axis = -1> ({target}_codes, {target}_scale)
        """
    if kind == "int8":
        return quantize_lines(source, target, scale)
    return f"{target} = Cast <to = {FLOAT16 if kind == 'float16' else FLOAT}> ({source})"


def has_row_scales(kind: str) -> bool:
    return kind in (ROWS, CHANCE_ROWS)


def _rounded_lines(source: str, target: str, kind: str) -> str:
    if kind == ROWS:
        return f"{target} = Round ({source})"
    return f"""
        {target}_fine_steps = Constant <value_float = {float(FINE_STEPS)}> ()
        {target}_fine = Mul ({source}, {target}_fine_steps)
        {target}_whole = Floor ({target}_fine)
        {target}_chance = Sub ({target}_fine, {target}_whole)
        {target}_raised = Add ({source}, {target}_chance)
        {target} = Floor ({target}_raised)
    """


def _split_lines(source: str, n_state: int) -> str:
    return f"""
        {source}_parts = Constant <value_ints = [{n_state}, 1]> ()
        {source}_codes, {source}_scale = Split <axis = -1> ({source}, {source}_parts)
    """
