"""The graph that TensorRT parses computes what the export does: every op's reference on parts of its rows."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from refusals import refused
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.graph.onnx_export import onnx_from_model, write_model
from quamba_export.exporter.tensorrt import weights as tensorrt_weights
from quamba_export.exporter.tensorrt.graph import DOMAIN, tensorrt_graph
from quamba_export.plugins.common.c_header import letters
from quamba_export.plugins.common.contract import OpSpec
from quamba_export.plugins.common.registry import get_op
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

CONFIGS = {"mamba1": MAMBA1, "mamba2": MAMBA2, "mamba2 in groups": MAMBA2_GROUPS}


def quantized(config: MambaConfig, qformat: str = "w8a8") -> QuantizedModel:
    checkpoint = random_checkpoint(config)
    return quantize_model(checkpoint, random_calibration(config, digest=checkpoint.digest), qformat)


def read_inputs(spec: OpSpec, inputs: list[Tensor], offsets: list[int], sizes: list[int]) -> list[Tensor]:
    """The parts that a plugin reads of its rows."""
    known = {letter: size for letter, size in zip(letters(spec), sizes, strict=True) if size}
    for tensor, value, offset in zip(spec.inputs, inputs, offsets, strict=True):
        if offset < 0:
            for dim, size in zip(tensor.dims, value.shape, strict=True):
                if "/" not in dim:  # K/2 does not tell K
                    known.setdefault(dim[0], size - int(dim[1:] or 0))
    parts = []
    for tensor, value, offset in zip(spec.inputs, inputs, offsets, strict=True):
        if offset >= 0:
            shape = [known[letter] for letter in tensor.dims[2:]]
            value = value[:, :, offset : offset + prod(shape)].reshape(*value.shape[:2], *shape)
        parts.append(value)
    return parts


def run_op(node: onnx.NodeProto, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    op = get_op(node.op_type)
    fields = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert fields.pop("plugin_version") == b"1"
    assert fields.pop("plugin_namespace") == b"quamba"
    offsets, sizes = fields.pop("row_offsets", [-1] * len(inputs)), fields.pop("sizes", [])
    sizes = sizes or [0] * len(letters(op.spec))
    result = op.torch_op(*read_inputs(op.spec, inputs, offsets, sizes), **fields)
    return result if isinstance(result, tuple) else (result,)


def run_standard(node: onnx.NodeProto, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Gather":
            return (inputs[0][inputs[1]],)
        case "Cast":
            return (inputs[0].float(),)
        case "Reshape":
            sizes = [size or inputs[0].shape[axis] for axis, size in enumerate(inputs[1].tolist())]
            return (inputs[0].reshape(sizes),)
        case "Split":
            return inputs[0].split(inputs[1].tolist(), attributes["axis"])
        case "Slice":
            return (inputs[0][:, int(inputs[1]) :],)
        case "ReduceMean":
            return (inputs[0].mean(-1, keepdim=True),)
        case "Transpose":
            return (inputs[0].T,)
        case "Neg" | "Sqrt":
            return (getattr(torch, node.op_type.lower())(inputs[0]),)
        case "Mul" | "Add" | "Div" | "MatMul":
            return (getattr(torch, node.op_type.lower())(*inputs),)
    raise AssertionError(f"no operator {node.op_type} expected in this graph")


def run(model: onnx.ModelProto, feed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every node in order, with each op's reference."""
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    values = constants | {value.name: feed[value.name] for value in model.graph.input}
    for node in model.graph.node:
        step = run_op if node.domain == DOMAIN else run_standard
        inputs = [values[name] for name in node.input]
        values |= dict(zip(node.output, step(node, inputs), strict=True))
    return {value.name: values[value.name] for value in model.graph.output}


def feed_of(model: onnx.ModelProto, batch: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Token ids and states of random values; all logits are kept."""
    random = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = [
            dim.dim_value or {"batch": batch, "length": length}[dim.dim_param] for dim in tensor.shape.dim
        ]
        array = random.integers(0, 32, shape) if dtype != np.float16 else random.normal(size=shape)
        feed[value.name] = torch.from_numpy(np.asarray(array, dtype))
    return feed | {"num_logits_to_keep": torch.tensor(length)}


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_the_same_bits(name: str, length: int) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name]))
    feed = feed_of(exported, 2, length)
    expected = run(exported, feed)
    found = run(tensorrt_graph(exported, logits="all"), feed)
    assert found.keys() == expected.keys()
    for output, tensor in expected.items():
        assert torch.equal(found[output], tensor), output


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_compute_the_same_bits(name: str) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name]))
    feed = feed_of(exported, 2, 1)
    graph = tensorrt_graph(exported, logits="all", steps=True)
    expected, found = run(exported, feed), run(graph, feed)
    assert all(torch.equal(found[output], tensor) for output, tensor in expected.items())
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("InputProjectionStep") == CONFIGS[name].n_layer
    assert not {"RMSNormQuantize", "QuantizedCausalConv1d", "Split"}.intersection(kinds)


@pytest.mark.parametrize("steps", [False, True], ids=["prefill", "steps"])
@pytest.mark.parametrize("name", CONFIGS)
def test_four_bit_projections_compute_the_same_bits(name: str, steps: bool) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name], "w4a8"))
    feed = feed_of(exported, 2, 1 if steps else 5)
    graph = tensorrt_graph(exported, logits="all", steps=steps)
    expected, found = run(exported, feed), run(graph, feed)
    assert all(torch.equal(found[output], tensor) for output, tensor in expected.items())
    kinds = [node.op_type for node in graph.graph.node]
    projection = "Int4InputProjectionStep" if steps else "Int4RequantizedLinear"
    assert kinds.count(projection) == kinds.count("Int4Linear") == CONFIGS[name].n_layer
    assert "Split" not in kinds
    if steps:
        assert not {"RMSNormQuantize", "QuantizedCausalConv1d", "Int4RequantizedLinear"}.intersection(kinds)


@pytest.mark.parametrize("steps", [False, True], ids=["prefill", "steps"])
@pytest.mark.parametrize("qformat", ["w4a16", "w8a16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_fp16_activations_compute_the_same_bits(name: str, qformat: str, steps: bool) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name], qformat))
    feed = feed_of(exported, 2, 1 if steps else 5)
    graph = tensorrt_graph(exported, logits="all", steps=steps)
    expected, found = run(exported, feed), run(graph, feed)
    assert all(torch.equal(found[output], tensor) for output, tensor in expected.items())
    kinds = [node.op_type for node in graph.graph.node]
    projection = {"w4a16": "HalfInt4Projection", "w8a16": "HalfInt8Projection"}[qformat]
    assert kinds.count(projection) >= CONFIGS[name].n_layer
    assert kinds.count("HalfRMSNorm") == kinds.count("HalfCausalConv1d") == CONFIGS[name].n_layer
    assert "Split" not in kinds


@pytest.mark.parametrize("qformat", ["w8a8", "w4a8"])
@pytest.mark.parametrize(("config", "plugins"), [(MAMBA1, 6), (MAMBA2, 4)], ids=["mamba1", "mamba2"])
def test_a_layer_of_a_step_is_a_few_plugins(config: MambaConfig, plugins: int, qformat: str) -> None:
    graph = tensorrt_graph(onnx_from_model(quantized(config, qformat)), steps=True)
    own = [node for node in graph.graph.node if node.domain == DOMAIN and node.op_type != "RMSNormLinear"]
    assert len(own) == plugins * config.n_layer


def test_a_norm_on_another_scale_stays_by_itself() -> None:
    exported = onnx_from_model(quantized(MAMBA2))
    norm = next(node for node in exported.graph.node if node.op_type == "RMSNormQuantize")
    (scale,) = (attribute for attribute in norm.attribute if attribute.name == "out_scale")
    scale.f *= 2
    kinds = [node.op_type for node in tensorrt_graph(exported, steps=True).graph.node]
    assert kinds.count("InputProjectionStep") == MAMBA2.n_layer - 1
    assert kinds.count("RMSNormQuantize") == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_it_gives_the_last_logits(name: str) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name]))
    feed = feed_of(exported, 2, 5)
    found = run(tensorrt_graph(exported), feed)["logits"]
    torch.testing.assert_close(found, run(exported, feed)["logits"][:, -1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_copied_between_plugins(name: str) -> None:
    exported = onnx_from_model(quantized(CONFIGS[name]))
    graph = tensorrt_graph(exported)
    made_by = {output: node for node in graph.graph.node for output in node.output}
    kinds = [node.op_type for node in graph.graph.node]
    assert not graph.functions
    assert "Split" not in kinds
    for node in graph.graph.node:
        if node.op_type == "Reshape":  # (B, L, H, P) to (B, L, E): no copy in TensorRT
            assert made_by[node.input[0]].op_type == "QuantizedSSDScan"
    onnx.checker.check_model(graph)
    assert exported.functions, "the export itself stays as it is"


@pytest.mark.parametrize("name", CONFIGS)
def test_no_field_of_a_plugin_is_left_out(name: str) -> None:
    for node in tensorrt_graph(onnx_from_model(quantized(CONFIGS[name]))).graph.node:
        if node.domain == DOMAIN:
            spec, fields = get_op(node.op_type).spec, {a.name: list(a.ints) for a in node.attribute}
            assert len(fields["row_offsets"]) == len(spec.inputs)
            assert len(fields["sizes"]) == len(letters(spec))


def weight_names(graph: onnx.ModelProto) -> set[str]:
    return {value.name for value in graph.graph.input if "states" not in value.name} - {"input_ids"}


def test_weights_may_be_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = onnx_from_model(quantized(MAMBA2))
    small = tensorrt_graph(exported, weights_as_inputs=True)
    assert weight_names(small) == {"embedding.weight", "lm_head.weight"}
    monkeypatch.setattr(tensorrt_weights, "LARGE_BYTES", 1)
    graph = tensorrt_graph(exported, weights_as_inputs=True)
    onnx.checker.check_model(graph)
    assert {"layers.0.in_proj.weight", "layers.1.out_proj.weight", "layers.0.A_log"} <= weight_names(graph)
    assert not {tensor.name for tensor in graph.graph.initializer} & weight_names(graph)
    feed = feed_of(exported, 2, 3)
    expected = run(exported, feed)
    for tensor in exported.graph.initializer:
        feed[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    found = run(graph, feed)
    assert all(torch.equal(found[name], expected[name]) for name in found if name != "logits")
    torch.testing.assert_close(found["logits"], expected["logits"][:, -1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_plans_take_the_same_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tensorrt_weights, "LARGE_BYTES", 1)
    exported = onnx_from_model(quantized(CONFIGS[name]))
    prefill, decode = (
        tensorrt_graph(exported, weights_as_inputs=True, steps=steps) for steps in (False, True)
    )
    tables = [
        {(w.name, w.dtype, w.shape) for w in tensorrt_weights.weight_table(graph, exported)}
        for graph in (prefill, decode)
    ]
    assert tables[0] == tables[1]


def test_the_weights_lie_aligned_in_one_file_in_the_dtype_of_their_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt_weights, "LARGE_BYTES", 1)
    write_model(quantized(MAMBA1), tmp_path)
    exported = onnx.load(tmp_path / "model.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    graph = tensorrt_graph(exported, weights_as_inputs=True)
    table = tensorrt_weights.weight_table(graph, exported)
    tensorrt_weights.write_weights(table, exported, tmp_path, tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    assert {row.name for row in table} == weight_names(graph)
    assert table[-1].end == len(content)
    for row in table:
        assert row.offset % 256 == 0
        assert row.dtype == str(stored[row.name].dtype)
        array = np.frombuffer(content[row.offset : row.end], row.dtype).reshape(row.shape)
        np.testing.assert_array_equal(array, stored[row.name])


def test_a_graph_without_the_count_is_refused() -> None:
    exported = onnx_from_model(quantized(replace(MAMBA1, n_layer=1)))
    with refused("does not choose its logits", "found: 0 Slice nodes", "fix: quamba-export export"):
        tensorrt_graph(tensorrt_graph(exported))
