"""Weights as inputs of the engines: which constants they are, and weights.bin, which holds each of them once.

A plan with its weights inside is as large as the model, and two plans hold them twice. So the graph takes
them as inputs, and the runtime binds both plans to one copy on the device (runtime/weights.py).

D d_model, V vocabulary (padded).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quamba_export.exporter.onnx_backend import ELEMENT
from quamba_export.runtime.engine_record import WEIGHT_ALIGNMENT, WeightTensor
from quamba_export.runtime.errors import QuambaError

LARGE_BYTES = 1 << 16  # smaller constants (norms, scales, biases) stay in the plans
DTYPES = {element: dtype for dtype, element in ELEMENT.items()}


def weight_inputs(
    nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.ValueInfoProto]:
    """The graph inputs that take the place of constants: those of LARGE_BYTES and more, and both tables.

    nodes: those of the engine's graph, in which the head is a Gemm. Its weight is an input of the dtype that
    the product has, fp32, because TensorRT would widen an fp16 input anew in every run.
    """
    widened = {node.input[1] for node in nodes if node.op_type == "Gemm"}
    tables = widened | {node.input[0] for node in nodes if node.op_type == "Gather"}
    values = []
    for name, tensor in constants.items():
        if name in tables or (_nbytes(tensor) >= LARGE_BYTES and tensor.data_type != onnx.TensorProto.INT64):
            element = ELEMENT["float32"] if name in widened else tensor.data_type
            values.append(helper.make_tensor_value_info(name, element, tensor.dims))
    return values


def head_as_gemm(nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Replace Transpose, Cast and MatMul of the head by a Gemm that reads the weight (V, D) as it lies.

    (B, 1, D) @ (V, D)^T -> (B, 1, V), fp32. TensorRT folds the two nodes into a constant's bytes; of an input
    it would write a transposed copy in every run. The shapes of the Reshapes around it join `constants`.
    """
    reader = {name: node for node in nodes for name in node.input}
    chains = [[node] for node in nodes if node.op_type == "Transpose"]
    for chain in chains:
        while len(chain) < 3 and chain[-1].output[0] in reader:
            chain.append(reader[chain[-1].output[0]])
    kinds = [[node.op_type for node in chain] for chain in chains]
    if kinds != [["Transpose", "Cast", "MatMul"]]:
        raise QuambaError(
            "the graph does not compute its logits as an export does",
            found=", ".join(" -> ".join(chain) for chain in kinds) or "no Transpose",
            allowed="Transpose -> Cast -> MatMul, once",
            fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
        )
    ((transpose, cast, product),) = chains
    weight = transpose.input[0]  # (V, D)
    V, D = constants[weight].dims
    for name, shape in (("head_rows", [-1, D]), ("head_logits", [-1, 1, V])):
        constants[name] = numpy_helper.from_array(np.array(shape, np.int64), name)
    head = [
        helper.make_node("Reshape", [product.input[0], "head_rows"], ["head_in"], "head_in/Reshape"),
        helper.make_node("Gemm", ["head_in", weight], ["head_out"], "head_out/Gemm", transB=1),
        helper.make_node("Reshape", ["head_out", "head_logits"], product.output, product.name),
    ]
    return [node for node in nodes if not any(node is gone for gone in (transpose, cast, product))] + head


def weight_table(graph: onnx.ModelProto, model: onnx.ModelProto) -> tuple[WeightTensor, ...]:
    """The layout of weights.bin: what `graph` takes as inputs and is a constant in export/'s model.

    Every tensor begins at a multiple of WEIGHT_ALIGNMENT, as a plugin's wide loads want it.
    """
    constants, table, end = {tensor.name for tensor in model.graph.initializer}, list[WeightTensor](), 0
    for value in graph.graph.input:
        if value.name in constants:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_value for dim in tensor.shape.dim)
            offset = -(-end // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
            table.append(WeightTensor(value.name, DTYPES[tensor.elem_type], shape, offset))
            end = table[-1].end
    return tuple(table)


def write_weights(table: Sequence[WeightTensor], model: onnx.ModelProto, export: Path, path: Path) -> None:
    """Write weights.bin; one tensor at a time is in memory. model: export/'s, without its data."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    with path.open("wb") as file:
        for weight in table:
            file.seek(weight.offset)
            file.write(_array(stored[weight.name], export, weight.dtype).tobytes())


def _array(tensor: onnx.TensorProto, export: Path, dtype: str) -> NDArray[np.generic]:
    """An initializer's values (in the file beside the graph, mostly), in `dtype`."""
    array: NDArray[np.generic] = numpy_helper.to_array(tensor, base_dir=str(export))
    return array.astype(dtype, copy=False)


def _nbytes(tensor: onnx.TensorProto) -> int:
    size: int = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size
