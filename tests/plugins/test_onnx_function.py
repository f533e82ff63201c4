"""Every op's ONNX function on every case: valid ONNX, and the reference's bits in plain ONNX Runtime.

Measured over all cases (ONNX Runtime 1.31, x86-64): every int8, fp16 and fp32 output is equal bit for bit.
What `assert_same` lets pass is for another machine's exp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from op_cases import ALL, Case, case_named
from op_implementations import assert_same, onnx_model, run_onnx, run_reference, session_kinds

from quamba_export.exporter.graph import onnx_backend
from quamba_export.exporter.graph.onnx_backend import ELEMENT
from quamba_export.plugins.common.registry import get_op, op_names

NEWEST_OPSET, NEWEST_IR = 20, 10  # what TensorRT 10.3 parses
SMALL = {
    "DynamicStateSSDScan": "G_2",
    "DynamicStateSelectiveScan": "odd_sizes",
    "FloatCausalConv1d": "shorter_than_the_window",
    "FloatGatedRMSNormHadamard": "two_groups",
    "FloatHadamard": "E_16",
    "FloatLinear": "decode",
    "FloatProjection": "decode",
    "FloatRMSNorm": "odd_width",
    "FloatSSDScan": "odd_sizes_float32",
    "FloatSelectiveScan": "odd_sizes_float32",
    "FloatInputSSDScan": "G_2_int8",
    "FloatInputSelectiveScan": "odd_sizes_int8",
    "GatedRMSNormHadamardQuantize": "two_groups",
    "HadamardQuantize": "E_16",
    "HalfCausalConv1d": "shorter_than_the_window",
    "HalfGatedRMSNormHadamard": "two_groups",
    "HalfHadamard": "E_16",
    "HalfInt4Linear": "short_group",
    "HalfInt4Projection": "short_group",
    "HalfInt8Linear": "decode",
    "HalfInt8Projection": "odd_sizes",
    "HalfLinear": "decode",
    "HalfProjection": "decode",
    "HalfRMSNorm": "odd_width",
    "HalfSSDScan": "G_2_float16",
    "HalfSelectiveScan": "odd_sizes_float16",
    "InputProjectionStep": "at_the_end",
    "Int4InputProjectionStep": "at_the_end",
    "Int4Linear": "short_group",
    "Int4RequantizedLinear": "short_group",
    "QuantizedCausalConv1d": "shorter_than_the_window",
    "QuantizedLinear": "odd_sizes",
    "QuantizedSSDScan": "G_2_int8",
    "QuantizedSelectiveScan": "odd_sizes_int8",
    "RMSNormInt4Linear": "short_group",
    "RMSNormInt8Linear": "odd_sizes",
    "RMSNormLinear": "odd_sizes",
    "RMSNormQuantize": "odd_width",
    "RequantizedLinear": "odd_sizes",
    "ScanInputCausalConv1d": "two_scales",
    "WeightedRMSNormQuantize": "odd_width",
}
NO_SCAN = "onnx.reference scans the first axis only, the function bodies the second"


@pytest.mark.parametrize("constants", [False, True], ids=["inputs", "constants"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_onnx_runtime_gives_the_reference_s_bits(case: Case, constants: bool) -> None:
    model = onnx_model(case, constants)
    expected = run_reference(case)
    for kind in session_kinds():
        assert_same(case, expected, run_onnx(model, case, kind))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_model_passes_checker_and_strict_shape_inference(case: Case) -> None:
    model = onnx_model(case)
    onnx.checker.check_model(model, full_check=True)
    declared = [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output]
    arrays = {
        **case.inputs,
        **dict(zip([t.name for t in case.spec.outputs], run_reference(case), strict=True)),
    }
    assert declared == [(t.name, ELEMENT[str(arrays[t.name].dtype)]) for t in case.spec.outputs]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for output in inferred.graph.output:
        shape = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        fixed = arrays[output.name].shape
        named = {"batch", "length"}
        assert len(shape) == len(fixed)
        assert [a for a in shape if a not in named] == [
            b for a, b in zip(shape, fixed, strict=True) if a not in named
        ]


@pytest.mark.parametrize("name", op_names())
def test_function_is_the_contract_in_standard_ops(name: str) -> None:
    spec, model = get_op(name).spec, onnx_model(case_named(name, SMALL[name]))
    (function,), (node,) = model.functions, model.graph.node
    assert (function.domain, function.name) == (spec.domain, name) == (node.domain, node.op_type)
    assert list(function.input) == [t.name for t in spec.inputs]
    assert list(function.output) == [t.name for t in spec.outputs]
    plugin = ["plugin_version", "plugin_namespace"]  # what TensorRT's parser reads to find the plugin
    assert list(function.attribute) == [a.name for a in spec.attrs] + plugin
    assert {a.name for a in node.attribute} == set(function.attribute)
    assert {n.domain for n in nodes_of(function.node)} == {""}
    assert [(o.domain, o.version) for o in function.opset_import if o.version > NEWEST_OPSET] == []
    assert {(o.domain, o.version) for o in model.opset_import} == {
        ("", function.opset_import[0].version),
        ("quamba", 1),
    }
    assert model.ir_version <= NEWEST_IR


def nodes_of(nodes: object) -> Iterator[onnx.NodeProto]:
    """The nodes and, below them, those of their subgraphs."""
    for node in nodes:  # type: ignore[attr-defined]
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g.node)


def evaluator_parameters() -> list[object]:
    scans = pytest.mark.xfail(reason=NO_SCAN, raises=RuntimeError, strict=True)
    return [pytest.param(name, marks=[scans] if name.endswith("Scan") else []) for name in op_names()]


@pytest.mark.parametrize("name", evaluator_parameters())
def test_onnx_s_own_evaluator_gives_the_reference_s_bits(name: str) -> None:
    case = case_named(name, SMALL[name])
    inputs = {key: np.ascontiguousarray(array) for key, array in case.inputs.items()}
    assert_same(case, run_reference(case), ReferenceEvaluator(onnx_model(case)).run(None, inputs))


# The gates above, shown red: a fault planted in a function body

FAULTS = [
    ("FloatInputSSDScan", "odd_sizes_float16", "x_f = Identity (x)", "x_f = Neg (x)"),
    ("FloatInputSelectiveScan", "odd_sizes_int8", "Mul (step, x_f)", "Identity (x_f)"),
    (
        "ScanInputCausalConv1d",
        "two_scales",
        "Mul (outlier_codes, outlier_scale)",
        "Mul (inlier_codes, out_scale)",
    ),
    ("ScanInputCausalConv1d", "four_bits", "Equal (inlier_codes, inside)", "Equal (inside, inside)"),
    ("RequantizedLinear", "half_steps", " = Round (", " = Floor ("),
    ("RequantizedLinear", "odd_sizes", "Mul (x_scale, weight_scale)", "Mul (x_scale, out_scale)"),
    ("QuantizedCausalConv1d", "W_3", "(taps, from_1, tap_to_1", "(taps, from_0, tap_to_0"),
    (
        "QuantizedCausalConv1d",
        "shorter_than_the_window",
        "Concat <axis = 1> (past, x)",
        "Concat <axis = 1> (x, past)",
    ),
    ("DynamicStateSSDScan", "L_65", "Div (held_next_limit, held_next_peak)", "Identity (held_next_limit)"),
    (
        "DynamicStateSSDScan",
        "chance_L_65",
        "Floor (held_next_codes_raised)",
        "Round (held_next_codes_raised)",
    ),
    (
        "DynamicStateSelectiveScan",
        "chance_L_65",
        "Add (held_next_steps, held_next_codes_chance)",
        "Identity (held_next_steps)",
    ),
    (
        "DynamicStateSelectiveScan",
        "nothing",
        "Max (held_next_largest, held_next_smallest)",
        "Identity (held_next_largest)",
    ),
    ("QuantizedSSDScan", "L_65_float32", "kept = Mul (h, decay_t)", "kept = Identity (h)"),
    ("QuantizedSSDScan", "L_65_float32", "Add (y_scanned, skip)", "Identity (y_scanned)"),
    ("QuantizedSSDScan", "L_64_float16", "Mul (h_chunk, share)", "Identity (h_chunk)"),
    ("QuantizedSSDScan", "L_64_float16", "Round (mixed_units)", "Floor (mixed_units)"),
    ("QuantizedSSDScan", "L_130_float32", "(y_chunks, y_rest)", "(y_rest, y_chunks)"),
    ("QuantizedSSDScan", "dt_limits", "Clip (dt_soft, dt_min, dt_max)", "Identity (dt_soft)"),
    ("QuantizedSelectiveScan", "L_65_float32", "h_next = Add (kept, added)", "h_next = Add (h, added)"),
    ("GatedRMSNormHadamardQuantize", "two_groups", "Mul (merged, norm_weight)", "Identity (merged)"),
    ("InputProjectionStep", "decode", "Concat <axis = 2> (front, conv_y", "Concat <axis = 2> (front, conv_x"),
    (
        "Int4InputProjectionStep",
        "decode",
        "Concat <axis = 2> (front, conv_y",
        "Concat <axis = 2> (front, conv_x",
    ),
    ("Int4InputProjectionStep", "short_group", "Mul (total, norm_scale)", "Identity (total)"),
    ("Int4RequantizedLinear", "K_384", "total_sum_1, total_part_2", "total_sum_0, total_part_2"),
    (
        "Int4RequantizedLinear",
        "short_group",
        "(total_codes_low, total_codes_high)",
        "(total_codes_high, total_codes_low)",
    ),
    (
        "Int4Linear",
        "decode",
        "(total_codes_flipped, total_codes_sign)",
        "(total_codes_unsigned, total_codes_sign)",
    ),
    ("Int4Linear", "decode", "Add (residual, projected)", "Add (residual, scaled)"),
    ("HalfCausalConv1d", "decode", "Add (total, bias)", "Identity (total)"),
    ("HalfGatedRMSNormHadamard", "two_groups", "Mul (x, silu)", "Identity (x)"),
    ("HalfHadamard", "saturated", "Clip (rotated, y_low, y_high)", "Identity (rotated)"),
    ("HalfInt4Linear", "cancelling", "Cast <to = 11>", "Cast <to = 1>"),
    ("HalfInt4Projection", "K_384", "total_sum_1, total_part_2", "total_sum_0, total_part_2"),
    ("FloatCausalConv1d", "decode", "Add (total, bias)", "Identity (total)"),
    ("FloatGatedRMSNormHadamard", "two_groups", "Mul (merged, norm_weight)", "Identity (merged)"),
    ("FloatHadamard", "E_16", "MatMul (hadamard_left, x_right)", "Identity (x_right)"),
    ("FloatLinear", "decode", "Add (residual, projected)", "Add (residual, total)"),
    ("FloatProjection", "K_1025", "Cast <to = 11>", "Cast <to = 1>"),
    ("FloatRMSNorm", "odd_width", "Add (root_mean, root_epsilon)", "Identity (root_mean)"),
    ("FloatSSDScan", "odd_sizes_float32", "Add (y_scanned, skip)", "Identity (y_scanned)"),
    ("FloatSelectiveScan", "odd_sizes_float32", "Mul (skipped, z_silu)", "Identity (skipped)"),
    ("HalfInt8Linear", "decode", "Mul (total, weight_scale)", "Identity (total)"),
    ("HalfLinear", "decode", "Add (residual, projected)", "Identity (projected)"),
    ("HalfProjection", "saturated", "Clip (biased, y_low, y_high)", "Identity (biased)"),
    ("HalfInt8Projection", "decode", "Mul (total, weight_scale)", "Identity (total)"),
    ("HalfRMSNorm", "decode", "Div (x, root)", "Identity (x)"),
    ("HalfSSDScan", "odd_sizes_float16", "Add (dt_f, dt_bias)", "Identity (dt_f)"),
    ("HalfSelectiveScan", "odd_sizes_float16", "Mul (skipped, z_silu)", "Identity (skipped)"),
    ("RMSNormInt4Linear", "decode", "Mul (widened_floats, widened_scales)", "Identity (widened_floats)"),
    ("RMSNormInt8Linear", "decode", "Mul (total, weight_scale)", "Identity (total)"),
    ("RMSNormLinear", "decode", "Div (x, root)", "Identity (x)"),
    ("RMSNormLinear", "magnitudes", "Add (mean, epsilon)", "Identity (mean)"),
    ("RMSNormQuantize", "magnitudes", "Sqrt (root_shifted)", "Sqrt (root_mean)"),
    ("WeightedRMSNormQuantize", "decode", "Mul (normed, norm_weight)", "Identity (normed)"),
]


@pytest.mark.parametrize(("name", "case_name", "old", "new"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_fault_in_a_body_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, case_name: str, old: str, new: str
) -> None:
    op, case = get_op(name), case_named(name, case_name)

    def faulty(*call: object) -> str:
        body = op.onnx_body(*call)  # type: ignore[arg-type]
        if old not in body:
            raise LookupError(f"{name}'s body has no {old!r}")
        return body.replace(old, new)

    broken = dataclasses.replace(op, onnx_body=faulty)
    monkeypatch.setattr(onnx_backend, "get_op", lambda _: broken)
    with pytest.raises(AssertionError):
        assert_same(case, run_reference(case), run_onnx(onnx_model(case), case, "unoptimized"))


def test_a_body_of_other_types_fails_the_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    op, case = get_op("QuantizedLinear"), case_named("QuantizedLinear", "odd_sizes")
    broken = dataclasses.replace(
        op, onnx_body=lambda *call: op.onnx_body(*call).replace("Add (residual, projected)", "Identity (x)")
    )
    monkeypatch.setattr(onnx_backend, "get_op", lambda _: broken)
    with pytest.raises(onnx.shape_inference.InferenceError, match="elem type"):
        onnx.checker.check_model(onnx_model(case), full_check=True)
