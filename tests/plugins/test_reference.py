"""Every reference against the formula in plain numpy, and a call in pieces against one call.

Measured over all cases (x86-64, 80-bit longdouble): all outputs equal bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import ALL, Case, case_named
from op_cases.drawing import Array
from op_definitions import run_definition
from op_implementations import assert_same, run_reference

SEQUENCES = ("x", "dt", "B", "C", "z")  # inputs with a length, where an op carries a state
STATEFUL = [
    case_named("QuantizedCausalConv1d", "L_65"),
    case_named("QuantizedCausalConv1d", "W_2"),
    case_named("QuantizedSelectiveScan", "L_65_float32"),
    case_named("QuantizedSelectiveScan", "L_65_float16"),
    case_named("QuantizedSelectiveScan", "L_65_int8"),
    case_named("DynamicStateSSDScan", "L_65"),
    case_named("DynamicStateSelectiveScan", "L_65"),
    case_named("DynamicStateSSDScan", "chance_L_65"),
    case_named("DynamicStateSelectiveScan", "chance_L_65"),
    case_named("HalfCausalConv1d", "L_65"),
    case_named("HalfSelectiveScan", "L_65_float16"),
    case_named("HalfSSDScan", "L_65_float16"),
    case_named("QuantizedSSDScan", "L_63_float16"),
    case_named("QuantizedSSDScan", "L_63_float32"),
    case_named("QuantizedSSDScan", "L_63_int8"),
    case_named("FloatInputSSDScan", "L_63_int8"),
    case_named("FloatInputSelectiveScan", "L_65_float16"),
]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_reference_is_the_formula(case: Case) -> None:
    assert_same(case, run_definition(case), run_reference(case))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_reference_leaves_its_inputs_alone(case: Case) -> None:
    before = {name: array.copy() for name, array in case.inputs.items()}
    run_reference(case)
    for name, array in case.inputs.items():
        assert np.array_equal(array, before[name]), name


def length_of(case: Case) -> int:
    return int(next(case.inputs[name] for name in SEQUENCES if name in case.inputs).shape[1])


def in_pieces(case: Case, cuts: list[int]) -> list[Array]:
    """y of the calls between the cuts, joined, and the last state."""
    parts: list[Array] = []
    carried = {t.aliases: case.inputs[t.aliases] for t in case.spec.outputs if t.aliases}
    for start, end in zip([0, *cuts], [*cuts, length_of(case)], strict=True):
        pieces = {name: case.inputs[name][:, start:end] for name in SEQUENCES if name in case.inputs}
        y, *state = run_reference(case.replace(**pieces, **carried))
        parts.append(y)
        carried = dict(zip(carried, state, strict=True))
    return [np.concatenate(parts, axis=1), *carried.values()]


@pytest.mark.parametrize("cuts", [[1], [3, 4, 5], "every"], ids=str)
@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_pieces_are_the_whole(case: Case, cuts: list[int] | str) -> None:
    """However the length is cut, the same bits: the state is rounded after every token anyway."""
    places = list(range(1, length_of(case))) if isinstance(cuts, str) else cuts
    for piecewise, whole in zip(in_pieces(case, places), run_reference(case), strict=True):
        assert np.array_equal(piecewise, whole)


@pytest.mark.parametrize(
    ("name", "cuts"),
    [("L_130", [64]), ("L_130", [64, 128, 129]), ("L_200_odd", [128, 193]), ("odd_sizes", [1, 2, 5])],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_pieces_of_whole_chunks_are_the_whole(name: str, cuts: list[int], dtype: str) -> None:
    """QuantizedSSDScan rounds the state behind every 64 tokens, and behind every token after the last 64."""
    case = case_named("QuantizedSSDScan", f"{name}_{dtype}")
    for piecewise, whole in zip(in_pieces(case, cuts), run_reference(case), strict=True):
        assert np.array_equal(piecewise, whole)
