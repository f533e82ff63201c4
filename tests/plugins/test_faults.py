"""The cases are worth something: each planted fault changes at least one result of the op it is planted in.

A fault is another function in the place of one that the reference calls, or another call: the reference gets
its inputs as a faulty implementation would read them. The gate is the comparison with the op's formula.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch
from op_cases import Case, cases_of
from op_cases.drawing import FLOAT32_MAX
from op_definitions import run_definition
from op_implementations import assert_same, run_reference
from torch import Tensor, exp, log

from quamba_export.plugins.common import recurrence, scan_state
from quamba_export.plugins.common.quantization import as_scale, dequantize, quantize
from quamba_export.plugins.QuantizedSSDScan import chunk
from quamba_export.plugins.QuantizedSSDScan.chunk import fixed_point, products

GATED, HADAMARD, NORM = "GatedRMSNormHadamardQuantize", "HadamardQuantize", "RMSNormQuantize"
CONV, LINEAR, REQUANTIZED = "QuantizedCausalConv1d", "QuantizedLinear", "RequantizedLinear"
SELECTIVE, SSD = "QuantizedSelectiveScan", "QuantizedSSDScan"
QUANTIZING = (GATED, HADAMARD, NORM, CONV, REQUANTIZED, SELECTIVE, SSD)


def module_of(op: str) -> ModuleType:
    return importlib.import_module(f"quamba_export.plugins.{op}.op")


definition_of = cache(run_definition)


def caught(op: str, alter: Callable[[Case], Case] = lambda case: case) -> bool:
    """Whether the gate is red on any case of the op."""
    for case in cases_of(op):
        try:
            assert_same(case, definition_of(case), run_reference(alter(case)))
        except AssertionError:
            return True
    return False


# Another function


def through_reciprocal(x: Tensor, scale: float | Tensor) -> Tensor:
    return torch.clamp(torch.round(x * (1.0 / as_scale(scale, x))), -128, 127).to(torch.int8)


def half_away_from_zero(x: Tensor, scale: float | Tensor) -> Tensor:
    steps = x / as_scale(scale, x)
    return torch.clamp(torch.trunc(steps + torch.sign(steps) * 0.5), -128, 127).to(torch.int8)


def symmetric_range(x: Tensor, scale: float | Tensor) -> Tensor:
    return torch.clamp(torch.round(x / as_scale(scale, x)), -127, 127).to(torch.int8)


def wrapping(x: Tensor, scale: float | Tensor) -> Tensor:
    return torch.round(x / as_scale(scale, x)).clamp(-(2.0**31), 2.0**31).to(torch.int64).to(torch.int8)


def scan_with_plain_sums(state: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "tree_sum", lambda x: x.sum(-1))
        return recurrence.scan(state, *rest)


def scan_rounded_at_the_end(state: Tensor, scale: Tensor | float, *rest: object) -> tuple[Tensor, Tensor]:
    quantized = state.dtype == torch.int8
    y, h = recurrence.scan(dequantize(state, scale) if quantized else state.float(), scale, *rest)
    return y, quantize(h, scale) if quantized else h.to(state.dtype)


def scan_of_unrounded_states(*call: object) -> tuple[Tensor, Tensor]:
    *inputs, state = call
    y, behind = chunk.scan_chunks(*inputs, state.float())
    return y, behind.to(state.dtype)


def fixed_point_of_13_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    codes, unit = fixed_point(x)
    return torch.round(codes / 2), unit * 2


def fixed_point_towards_zero(x: Tensor) -> tuple[Tensor, Tensor]:
    _, unit = fixed_point(x)
    return torch.trunc(x / unit), unit


def products_from_the_right(factors: Tensor) -> Tensor:
    return products(factors.flip(-1)).mT.flip(-1, -2)


CHUNKS = [
    ("fixed_point", fixed_point_of_13_bits),
    ("fixed_point", fixed_point_towards_zero),
    ("products", products_from_the_right),
    ("exact_product", lambda left, right: (left.half() @ right.half()).float()),
    ("SMALLEST", 2.0**-140),
]

FUNCTIONS = [
    *((op, "quantize", f) for op in QUANTIZING for f in (through_reciprocal, half_away_from_zero)),
    *((op, "quantize", f) for op in QUANTIZING for f in (symmetric_range, wrapping)),
    (SELECTIVE, "silu", torch.nn.functional.silu),
    *((op, "softplus", torch.nn.functional.softplus) for op in (SELECTIVE, SSD)),
    *((op, "softplus", lambda x: x.clamp(min=0.0) + log(1.0 + exp(-x.abs()))) for op in (SELECTIVE, SSD)),
    *((op, "exp", torch.exp) for op in (SELECTIVE, SSD)),
    *((op, "scan", scan_with_plain_sums) for op in (SELECTIVE, SSD)),
    *((op, "scan", scan_rounded_at_the_end) for op in (SELECTIVE, SSD)),
    (NORM, "root_mean_square", lambda x, epsilon: x.square().mean(-1, keepdim=True).sqrt()),
    (GATED, "root_mean_square", lambda x, epsilon: (x.square().mean(-1, keepdim=True) + epsilon).sqrt()),
    (GATED, "apply_hadamard", lambda x: x),
    (HADAMARD, "apply_hadamard", lambda x: x.flip(-1)),
    (LINEAR, "int8_matmul", lambda x, weight: (x.half() @ weight.half().T).float()),
    (REQUANTIZED, "int8_matmul", lambda x, weight: (x.int() @ weight.int().T).clamp(-32768, 32767).float()),
]


@pytest.mark.parametrize(
    ("op", "name", "fault"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_wrong_function_is_caught(
    monkeypatch: pytest.MonkeyPatch, op: str, name: str, fault: Callable[..., object]
) -> None:
    assert not caught(op)
    called_in = [module for module in (module_of(op), recurrence, scan_state) if hasattr(module, name)]
    monkeypatch.setattr(called_in[0], name, fault)
    assert caught(op)


@pytest.mark.parametrize(("name", "fault"), CHUNKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_chunk_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, fault: object) -> None:
    monkeypatch.setattr(chunk, name, fault)
    assert caught(SSD)


def test_a_state_that_is_rounded_at_the_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of(SSD), "scan_chunks", scan_of_unrounded_states)
    assert caught(SSD)


# Another reading of the inputs


@dataclass(frozen=True)
class Misread:
    """An input of an op, as a faulty implementation sees it."""

    op: str
    input: str
    what: str
    read: Callable[[np.ndarray], np.ndarray]


MISREAD = [
    Misread(CONV, "weight", "taps off by one", lambda w: np.roll(w, 1, axis=1)),
    Misread(CONV, "weight", "taps in reverse", lambda w: w[:, ::-1].copy()),
    Misread(CONV, "state", "state ignored", np.zeros_like),
    Misread(CONV, "state", "state in reverse", lambda s: s[..., ::-1].copy()),
    Misread(CONV, "out_scale", "one output scale", lambda s: np.full_like(s, s[0])),
    Misread(CONV, "x_scale", "one input scale", lambda s: np.full_like(s, s[0])),
    Misread(CONV, "bias", "bias missing", np.zeros_like),
    Misread(LINEAR, "bias", "bias missing", np.zeros_like),
    Misread(LINEAR, "weight_scale", "one weight scale", lambda s: np.full_like(s, s[0])),
    Misread(REQUANTIZED, "out_scale", "scales of the next row", lambda s: np.roll(s, 1) * 1.5),
    Misread(GATED, "norm_weight", "weight missing", np.ones_like),
    Misread(GATED, "z", "gate missing", np.ones_like),
    Misread("WeightedRMSNormQuantize", "norm_weight", "weight missing", np.ones_like),
    *(
        Misread(op, name, f"{name} ignored", np.zeros_like)
        for op in (SELECTIVE, SSD)
        for name in ("D", "dt_bias", "state", "A_log")
    ),
    *(
        Misread(op, name, f"{name} of the next n", lambda b: np.roll(b, 1, axis=-1))
        for op in (SELECTIVE, SSD)
        for name in ("B", "C")
    ),
    *(
        Misread(SSD, name, f"{name} of the next group", lambda b: np.roll(b, 1, axis=2))
        for name in ("B", "C")
    ),
    Misread(SSD, "scale_index", "one scale", np.zeros_like),
    Misread(SSD, "scale_index", "scales of the next channel", lambda i: np.roll(i, 1, axis=1)),
    Misread(SSD, "state_scale", "one state scale", lambda s: np.full_like(s, s[0, 0])),
    Misread(SELECTIVE, "z", "gate of the next channel", lambda z: np.roll(z, 1, axis=-1)),
]


@pytest.mark.parametrize("fault", MISREAD, ids=lambda fault: f"{fault.op}-{fault.what}")
def test_a_misread_input_is_caught(fault: Misread) -> None:
    assert caught(fault.op, lambda case: case.replace(**{fault.input: fault.read(case.inputs[fault.input])}))


ATTRS = [
    (GATED, "n_groups", 1),
    (GATED, "hadamard", 0),
    (GATED, "epsilon", 1e-6),
    (NORM, "epsilon", 1e-6),
    (SSD, "dt_min", 0.0),
    (SSD, "dt_max", FLOAT32_MAX),
    (SELECTIVE, "state_scale", 1.0),
    ("DynamicStateSSDScan", "stochastic", 0),
    ("DynamicStateSelectiveScan", "stochastic", 0),
]


@pytest.mark.parametrize(("op", "name", "value"), ATTRS)
def test_an_ignored_attribute_is_caught(op: str, name: str, value: float) -> None:
    assert caught(op, lambda case: Case(op, case.name, case.inputs, {**case.attrs, name: value}))
