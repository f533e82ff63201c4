"""Weights as inputs of the engines: which constants they are, and weights.bin, which holds each of them once.

A plan with its weights inside is as large as the model, and two plans hold them twice. So the graph takes
them as inputs, and the runtime binds both plans to one copy on the device (runtime/device_weights.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from quamba_export.runtime.engine_record import WEIGHT_ALIGNMENT, WeightTensor

LARGE_BYTES = 1 << 16  # smaller constants (norms, scales, biases) stay in the plans
DTYPES: dict[int, str] = {
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.FLOAT: "float32",
}
HEAD = "RMSNormLinear"  # final norm and head in one op


def weight_inputs(
    nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.ValueInfoProto]:
    """The graph inputs that take the place of constants: those of LARGE_BYTES and more, and both tables.

    nodes: those of the engine's graph. An input has the dtype of its constant.
    """
    tables = {node.input[0] for node in nodes if node.op_type == "Gather"}
    tables |= {node.input[1] for node in nodes if node.op_type == HEAD}
    values = []
    for name, tensor in constants.items():
        if name in tables or (_nbytes(tensor) >= LARGE_BYTES and tensor.data_type != onnx.TensorProto.INT64):
            values.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return values


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
            file.write(numpy_helper.to_array(stored[weight.name], base_dir=str(export)).tobytes())


def _nbytes(tensor: onnx.TensorProto) -> int:
    size: int = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size
