"""The bound of RMSNormLinear: sums in other orders are within it, other arithmetic is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from op_cases import Case, cases_of
from op_cases.drawing import Array
from op_formulas import rms_norm
from op_implementations import assert_within_bound, run_reference

from quamba_export.plugins.common.registry import get_op, op_names

HEADS = ["RMSNormInt4Linear", "RMSNormInt8Linear", "RMSNormLinear"]
CASES = [case for case in cases_of("RMSNormLinear") if case.inputs["x"].shape[2] > 1]


def operands(case: Case) -> tuple[Array, Array]:
    """The normed tokens (B, L, D) and the weight (V, D), fp32."""
    return rms_norm(case.inputs["x"], case.attrs["epsilon"]), case.inputs["weight"].astype(np.float32)


def first_to_last(case: Case) -> Array:
    """One fp32 sum a logit, in the order of the columns."""
    x, weight = operands(case)
    return np.add.accumulate(x[:, :, None, :] * weight, axis=-1)[..., -1]


def from_pieces(case: Case) -> Array:
    """32 sums side by side, as the lanes of a warp have them."""
    x, weight = operands(case)
    lanes = [x[..., lane::32] @ weight[:, lane::32].T for lane in range(32)]
    return np.sum(lanes, axis=0, dtype=np.float32)


def tf32(case: Case) -> Array:
    """x with the ten bits of a mantissa that a tensor core keeps."""
    x, weight = operands(case)
    kept = (np.ascontiguousarray(x).view(np.uint32) + 0x1000) & 0xFFFFE000
    return kept.view(np.float32) @ weight.T


def half_sums(case: Case) -> Array:
    x, weight = operands(case)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add.accumulate((x[:, :, None, :] * weight).astype(np.float16), axis=-1)[..., -1].astype(
            "f4"
        )


def without_a_column(case: Case) -> Array:
    x, weight = operands(case)
    kept = np.arange(x.shape[-1]) != x.shape[-1] // 2
    return x[..., kept] @ weight[:, kept].T


@pytest.mark.parametrize("order", [first_to_last, from_pieces], ids=lambda order: order.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_another_order_is_within_the_bound(case: Case, order: Callable[[Case], Array]) -> None:
    assert assert_within_bound(case, run_reference(case), [order(case)]) < 1


@pytest.mark.parametrize("fault", [tf32, half_sums, without_a_column], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_other_arithmetic_is_not(case: Case, fault: Callable[[Case], Array]) -> None:
    with pytest.raises(AssertionError, match="bounds apart"):
        assert_within_bound(case, run_reference(case), [fault(case)])


def test_only_heads_have_a_bound() -> None:
    assert [name for name in op_names() if get_op(name).spec.bound] == HEADS
