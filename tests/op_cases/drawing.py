"""What a case is, and how its arrays are drawn from the op's contract.

Attributes are Python floats that fp32 cannot hold exactly: an implementation has to round them itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.plugins.common.contract import OpSpec, Tensor
from quamba_export.plugins.common.registry import get_op

Array = NDArray[Any]

# (k + 1/2) * STEP is exact in fp32, and half of these get the wrong code through a reciprocal;
# most scales, 45 / 1024 for one, hide that fault
STEP = 61 / 1024
FLOAT32_MAX = float(np.finfo(np.float32).max)
POISON = {"int8": 99, "int32": 2**30, "float16": np.nan, "float32": np.nan}
ATTRS: dict[str, float | int] = {
    "epsilon": 1e-5,
    "n_groups": 1,
    "conv_begin": 0,
    "norm_scale": 0.0261,
    "hadamard": 1,
    "dt_min": 0.0,
    "dt_max": FLOAT32_MAX,
    "x_scale": 0.0123,
    "z_scale": 0.0317,
    "dt_scale": 0.0213,
    "dt_bias_scale": 0.0179,
    "A_log_scale": 0.0117,
    "B_scale": 0.0153,
    "C_scale": 0.0191,
    "D_scale": 0.0113,
    "state_scale": 0.0371,
    "stochastic": 0,
    "out_scale": 0.0261,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an op: inputs by name in the contract's order, possibly views into poisoned buffers."""

    op: str
    name: str
    inputs: Mapping[str, Array]
    attrs: Mapping[str, float | int]

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    @property
    def spec(self) -> OpSpec:
        return get_op(self.op).spec

    def replace(self, **inputs: Array) -> Case:
        """The same call with other inputs."""
        return Case(self.op, self.name, {**self.inputs, **inputs}, self.attrs)


def draw(
    op: str,
    name: str,
    sizes: Mapping[str, int],
    *,
    state_dtype: str = "float32",
    saturated: bool = False,
    strided: bool = False,
    attrs: Mapping[str, float | int] | None = None,
    **given: Array | float,
) -> Case:
    """A case with random inputs of the contract's shapes; those in `given` are broadcast and taken as is.

    sizes: one a letter. state_dtype: dtype of an input that allows several.
    saturated: int8 inputs hold only -128 and 127. strided: every input is a slice of a larger, poisoned
    buffer. attrs: instead of those of ATTRS.
    """
    spec, rng = get_op(op).spec, np.random.default_rng(zlib.crc32(f"{op}/{name}".encode()))
    inputs = {}
    for tensor in spec.inputs:
        shape = [eval_size(letter, sizes) for letter in tensor.dims]
        dtype = tensor.allowed[0] if len(tensor.allowed) == 1 else state_dtype
        values = _random(tensor, dtype, shape, sizes, rng, saturated)
        if tensor.name in given:
            values = np.broadcast_to(np.asarray(given[tensor.name], dtype), shape).copy()
        inputs[tensor.name] = _strided(values) if strided else values
    return Case(op, name, inputs, {a.name: {**ATTRS, **(attrs or {})}[a.name] for a in spec.attrs})


def letters(**sizes: int) -> dict[str, int]:
    """Sizes of a contract's letters, as keywords."""
    return sizes


def eval_size(letter: str, sizes: Mapping[str, int]) -> int:
    """Size of a contract's dimension: `W-1` is sizes["W"] - 1, `K/2` half of sizes["K"], rounded up."""
    if letter[1:2] == "/":
        return -(-sizes[letter[0]] // int(letter[2:]))
    return sizes[letter[0]] + int(letter[1:] or 0)


def _random(
    tensor: Tensor,
    dtype: str,
    shape: list[int],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    saturated: bool,
) -> Array:
    if dtype == "int8":
        return (rng.choice([-128, 127], shape) if saturated else rng.integers(-128, 128, shape)).astype(dtype)
    if dtype == "int32":
        return rng.integers(0, sizes["S"], shape, dtype=dtype)
    if tensor.name.endswith("scale"):
        return np.exp(rng.uniform(np.log(0.01), np.log(0.04), shape)).astype(dtype)
    return rng.normal(0.0, 1.0, shape).astype(dtype)


def _strided(values: Array) -> Array:
    """The same values as a view into a buffer that is larger on every side and poisoned there."""
    buffer = np.full([size + 3 for size in values.shape], POISON[str(values.dtype)], values.dtype)
    view = buffer[tuple(slice(1, 1 + size) for size in values.shape)]
    view[...] = values
    return view
