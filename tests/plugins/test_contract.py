"""Binding a call to a contract, and every refusal."""

from __future__ import annotations

import pytest
import torch
from op_cases import ALL, Case
from op_cases.drawing import eval_size

from quamba_export.plugins.common.contract import Attr, OpSpec, Tensor
from quamba_export.plugins.common.registry import get_op, op_names
from quamba_export.runtime.errors import QuambaError

OPS = op_names()
SPECS = [get_op(name).spec for name in OPS]
INPUTS = [(spec, i) for spec in SPECS for i in range(len(spec.inputs))]
ATTRS = [(spec, attr) for spec in SPECS for attr in spec.attrs]


def input_id(value: object) -> str | None:
    return value.name if isinstance(value, OpSpec | Attr) else None


def call_of(spec: OpSpec) -> tuple[list[str], list[list[int]], dict[str, float | int]]:
    """Dtypes, shapes and attributes of a call that the contract accepts; each letter has its own size."""
    letters = {letter: 2 * k for k, letter in enumerate("BLDEHPNGCWKMSV", start=3)} | {
        "G": 2,
        "H": 12,
        "K": 160,
    }
    letters |= {letter: 160 for letter, part in spec.multiples if part == "32"}
    shapes = [[eval_size(dim, letters) for dim in t.dims] for t in spec.inputs]
    return [t.allowed[0] for t in spec.inputs], shapes, {a.name: 1 for a in spec.attrs}


def refusal(spec: OpSpec, *call: object) -> QuambaError:
    with pytest.raises(QuambaError) as caught:
        spec.bind(*call)  # type: ignore[arg-type]
    error = caught.value
    assert error.message.startswith(f"{spec.name}: ")
    assert error.found
    assert error.allowed
    assert error.fix == f"see plugins/{spec.name}/README.md"
    return error


# Binding


@pytest.mark.parametrize("spec", SPECS, ids=input_id)
def test_bind_gives_every_letter_its_size(spec: OpSpec) -> None:
    dtypes, shapes, attrs = call_of(spec)
    sizes = spec.bind(dtypes, shapes, attrs)
    assert {dim[0] for t in spec.inputs for dim in t.dims} == set(sizes)
    for tensor, shape in zip(spec.outputs, spec.output_shapes(sizes), strict=True):
        assert shape == tuple(sizes[dim[0]] + int(dim[1:] or 0) for dim in tensor.dims)  # type: ignore[operator]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_case_binds(case: Case) -> None:
    arrays = list(case.inputs.values())
    sizes = case.spec.bind([str(a.dtype) for a in arrays], [a.shape for a in arrays], case.attrs)
    aliased = {t.aliases: k for k, t in enumerate(case.spec.outputs) if t.aliases}
    for name, k in aliased.items():
        assert case.spec.output_shapes(sizes)[k] == case.inputs[name].shape
        assert case.spec.output_dtypes([str(a.dtype) for a in arrays])[k] == str(case.inputs[name].dtype)


def test_names_of_sizes_are_carried_through() -> None:
    spec = get_op("QuantizedCausalConv1d").spec
    dtypes, shapes, attrs = call_of(spec)
    for shape in shapes[:2]:
        shape[0] = "batch"  # type: ignore[call-overload]
    shapes[0][1] = "length"  # type: ignore[call-overload]
    sizes = spec.bind(dtypes, shapes, attrs)
    assert [shape[:2] for shape in spec.output_shapes(sizes)] == [("batch", "length"), ("batch", sizes["C"])]


# Refusals


@pytest.mark.parametrize(("spec", "i"), INPUTS, ids=input_id)
def test_wrong_dtype_is_refused(spec: OpSpec, i: int) -> None:
    dtypes, shapes, attrs = call_of(spec)
    dtypes[i] = "float64"
    error = refusal(spec, dtypes, shapes, attrs)
    assert error.message.endswith(f"input '{spec.inputs[i].name}' has the wrong dtype")
    assert (error.found, error.allowed) == ("float64", " or ".join(spec.inputs[i].allowed))


@pytest.mark.parametrize(("spec", "i"), INPUTS, ids=input_id)
def test_wrong_rank_is_refused(spec: OpSpec, i: int) -> None:
    dtypes, shapes, attrs = call_of(spec)
    shapes[i] = [*shapes[i], 1]
    error = refusal(spec, dtypes, shapes, attrs)
    assert error.message.endswith(f"input '{spec.inputs[i].name}' has the wrong rank")
    assert (error.found, error.allowed) == (str(tuple(shapes[i])), f"({spec.inputs[i].shape})")


@pytest.mark.parametrize(("spec", "i"), INPUTS, ids=input_id)
def test_sizes_that_disagree_are_refused(spec: OpSpec, i: int) -> None:
    letters = [dim[0] for t in spec.inputs for dim in t.dims]
    for k, dim in enumerate(spec.inputs[i].dims):
        dtypes, shapes, attrs = call_of(spec)
        right = shapes[i][k]
        shapes[i][k] += 12
        if letters.count(dim[0]) > 1:
            error = refusal(spec, dtypes, shapes, attrs)
            assert "disagrees with the inputs before it" in error.message
            assert dim[0] in error.found
            if "/" not in error.found:
                offset = int(dim[1:] or 0)
                sizes = {f"{dim[0]} = {right + extra - offset}" for extra in (0, 12)}
                assert {error.found, error.allowed} == sizes
        else:
            assert spec.bind(dtypes, shapes, attrs)[dim[0]] == shapes[i][k]


@pytest.mark.parametrize(("spec", "i"), INPUTS, ids=input_id)
def test_empty_input_is_refused(spec: OpSpec, i: int) -> None:
    dtypes, shapes, attrs = call_of(spec)
    shapes[i][0] = 0
    assert "is empty" in refusal(spec, dtypes, shapes, attrs).message


@pytest.mark.parametrize("spec", SPECS, ids=input_id)
def test_wrong_number_of_inputs_is_refused(spec: OpSpec) -> None:
    dtypes, shapes, attrs = call_of(spec)
    for call in ((dtypes[:-1], shapes[:-1]), ([*dtypes, "int8"], [*shapes, [1]])):
        error = refusal(spec, *call, attrs)
        assert error.message.endswith("wrong number of inputs")
        assert error.found == f"{len(call[0])} inputs"
        assert error.allowed == ", ".join(t.name for t in spec.inputs)


@pytest.mark.parametrize(("spec", "attr"), ATTRS, ids=input_id)
def test_missing_attribute_is_refused(spec: OpSpec, attr: Attr) -> None:
    dtypes, shapes, attrs = call_of(spec)
    del attrs[attr.name]
    error = refusal(spec, dtypes, shapes, attrs)
    assert error.message.endswith("wrong attributes")
    assert attr.name in error.allowed.split(", ")
    assert attr.name not in error.found.split(", ")


@pytest.mark.parametrize("spec", SPECS, ids=input_id)
def test_unknown_attribute_is_refused(spec: OpSpec) -> None:
    dtypes, shapes, attrs = call_of(spec)
    error = refusal(spec, dtypes, shapes, {**attrs, "zero_point": 0})
    assert error.message.endswith("wrong attributes")
    assert "zero_point" in error.found


UNUSABLE = [float("nan"), float("inf"), -float("inf"), 1e39, -1e39]  # 1e39 is an infinity in fp32
NO_SCALE = [
    0.0,
    -0.0,
    -0.1,
    1e-60,
    2.0**-127,
]  # 1e-60 is 0 in fp32, and a subnormal is 0 where those are flushed


@pytest.mark.parametrize(("spec", "attr"), ATTRS, ids=input_id)
def test_attribute_out_of_range_is_refused(spec: OpSpec, attr: Attr) -> None:
    dtypes, shapes, attrs = call_of(spec)
    if attr.type == "int":
        for value in (1.5, 2.0):
            error = refusal(spec, dtypes, shapes, {**attrs, attr.name: value})
            assert error.message.endswith(f"attribute '{attr.name}' has the wrong type")
    refused = {
        ("float", "positive"): UNUSABLE + NO_SCALE,
        ("float", "any"): UNUSABLE,
        ("int", "positive"): [0, -1],
        ("int", "flag"): [-1, 2],
        ("int", "count"): [-1, 2**31],
    }
    for value in refused[attr.type, attr.values]:
        error = refusal(spec, dtypes, shapes, {**attrs, attr.name: value})
        assert error.message.endswith(f"attribute '{attr.name}' is out of range")
        assert error.found == repr(value)


@pytest.mark.parametrize(
    ("op", "letter", "part", "found", "allowed"),
    [
        ("QuantizedSSDScan", "H", "G", "H = 12", "a multiple of 5"),
        ("GatedRMSNormHadamardQuantize", "E", "n_groups", "E = 12", "a multiple of 5"),
    ],
)
def test_groups_that_do_not_divide_are_refused(
    op: str, letter: str, part: str, found: str, allowed: str
) -> None:
    spec = get_op(op).spec
    dtypes, shapes, attrs = call_of(spec)
    for tensor, shape in zip(spec.inputs, shapes, strict=True):
        shape[:] = [
            {letter: 12, part: 5}.get(dim, size) for dim, size in zip(tensor.dims, shape, strict=True)
        ]
    error = refusal(
        spec, dtypes, shapes, {name: 5 if name == part else value for name, value in attrs.items()}
    )
    assert error.message.endswith(f"{letter} does not divide by {part}")
    assert (error.found, error.allowed) == (found, allowed)


def test_a_part_of_a_size_is_checked_rounded_up() -> None:
    spec = get_op("Int4Linear").spec
    dtypes, shapes, attrs = call_of(spec)
    assert (shapes[1][1], shapes[2][1]) == (80, 2)  # K = 160
    shapes[2][1] = 1
    error = refusal(spec, dtypes, shapes, attrs)
    assert (error.found, error.allowed) == ("K/128 = 1", "K/128 = 2")
    shapes[0][2], shapes[1][1], shapes[2][1] = 150, 75, 2
    error = refusal(spec, dtypes, shapes, attrs)
    assert (error.found, error.allowed) == ("K = 150", "a multiple of 32")


def test_unknown_size_with_an_offset_is_refused() -> None:
    spec = get_op("QuantizedCausalConv1d").spec
    dtypes, shapes, attrs = call_of(spec)
    shapes[1][2] = "width"  # type: ignore[call-overload]
    assert "input 'state' needs a known size for W-1" in refusal(spec, dtypes, shapes, attrs).message


def test_contradictory_contracts_are_refused() -> None:
    x, y = Tensor("x", "int8", "B"), Tensor("y", "int8", "B")
    with pytest.raises(ValueError, match="occurs twice"):
        OpSpec("Op", (x,), (y,), (Attr("x", "float"),))
    with pytest.raises(ValueError, match="aliases unknown input s"):
        OpSpec("Op", (x,), (Tensor("y", "int8", "B", aliases="s"),))
    with pytest.raises(ValueError, match="bad dimension 'b'"):
        OpSpec("Op", (Tensor("x", "int8", "b"),), (y,)).bind(["int8"], [[1]], {})


def test_torch_op_refuses_what_the_contract_refuses() -> None:
    op = get_op("RMSNormQuantize").torch_op
    with pytest.raises(
        QuambaError, match=r"RMSNormQuantize: input 'x' has the wrong dtype\n  found: torch.float64"
    ):
        op(torch.zeros(1, 1, 4, dtype=torch.float64), epsilon=1e-5, out_scale=0.1)
    with pytest.raises(QuambaError, match="attribute 'out_scale' is out of range"):
        op(torch.zeros(1, 1, 4), epsilon=1e-5, out_scale=0.0)
    with pytest.raises(RuntimeError, match="out_scale"):
        op(torch.zeros(1, 1, 4), epsilon=1e-5)
