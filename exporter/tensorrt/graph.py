"""export/'s graph as TensorRT shall parse it: plugins instead of functions, rows instead of slices.

The projections write several things side by side into one int8 row a token. The exported graph takes them
apart with Split and Reshape; the kernels read any part of a wider row by themselves. So a quamba node here
takes the whole row and says where its part begins, and the copies are gone.

B batch, L length, D d_model, V vocabulary (padded).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quamba_export.exporter.tensorrt.head_fusion import fuse_head
from quamba_export.exporter.tensorrt.step_fusion import fuse_steps
from quamba_export.exporter.tensorrt.weights import weight_inputs
from quamba_export.plugins.common.c_header import letters
from quamba_export.plugins.common.contract import OpSpec
from quamba_export.plugins.common.registry import get_op
from quamba_export.runtime.errors import QuambaError

DOMAIN = "quamba"
COUNT = "num_logits_to_keep"
OWN_TENSOR = -1  # in `row_offsets`: the input is no part of a wider row


@dataclass(frozen=True)
class Part:
    """A tensor (B, L, *shape) that is elements `offset` and on of every row of `row` (B, L, width)."""

    row: str
    offset: int
    shape: tuple[int, ...]


def tensorrt_graph(
    model: onnx.ModelProto,
    *,
    logits: Literal["last", "all"] = "last",
    weights_as_inputs: bool = False,
    steps: bool = False,
) -> onnx.ModelProto:
    """The graph with plugin nodes only: input_ids (B, L) int64 and past states in, logits and states out.

    model: an export's; it stays as it is. Every input of a quamba node that a Split or Reshape cuts out of a
    row becomes the row itself, with two plugin fields: `row_offsets`, an int an input (-1: a tensor of its
    own, else the first element in the row) and `sizes`, an int a letter of the contract in the order of first
    appearance (0: read from the shapes).
    logits: (B, 1, V) of the last position or (B, L, V) of all; the input num_logits_to_keep is gone.
    weights_as_inputs: large constants and both tables become graph inputs of their own names (see
    weights.py).

    steps: for calls of one token: norm, in_proj and convolution of a layer are one plugin (step_fusion.py),
    and no position is chosen. Final norm and head are one plugin always (head_fusion.py).

    Raises QuambaError where the graph is not one that `quamba-export export` wrote.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = _keep_logits([_copy(node) for node in model.graph.node], "all" if steps else logits)
    nodes = fuse_head(nodes, constants)
    nodes, rows = fuse_steps(nodes, constants) if steps else (nodes, {})
    nodes = _read_rows(nodes, constants, {name: Part(row, at, (n,)) for name, (row, at, n) in rows.items()})
    outputs = {value.name for value in model.graph.output}
    nodes = _without_dead(nodes, outputs)
    if logits == "last":
        constants["last_position"] = numpy_helper.from_array(np.array([-1], np.int64), "last_position")
    used = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    kept = {name: tensor for name, tensor in constants.items() if name in used}
    weights = weight_inputs(nodes, kept) if weights_as_inputs else []
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        [value for value in model.graph.input if value.name != COUNT] + weights,
        [_output(value, logits) for value in model.graph.output],
        [tensor for name, tensor in kept.items() if name not in {value.name for value in weights}],
        value_info=[value for value in model.graph.value_info if value.name in made - outputs],
    )
    result = helper.make_model(graph, opset_imports=model.opset_import, producer_name=model.producer_name)
    result.ir_version = model.ir_version
    return result


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _output(value: onnx.ValueInfoProto, logits: Literal["last", "all"]) -> onnx.ValueInfoProto:
    """logits has its own number of positions; every other output stays."""
    if value.name != "logits":
        return value
    batch, _, vocabulary = value.type.tensor_type.shape.dim
    shape = (batch.dim_param, 1 if logits == "last" else "length", vocabulary.dim_value)
    return helper.make_tensor_value_info("logits", value.type.tensor_type.elem_type, shape)


def _keep_logits(nodes: list[onnx.NodeProto], logits: Literal["last", "all"]) -> list[onnx.NodeProto]:
    """Replace the Slice that counts by `num_logits_to_keep`: from the last position, or not at all."""
    counts = {COUNT}
    for node in nodes:
        if node.op_type in ("Neg", "Reshape") and node.input[0] in counts:
            counts.add(node.output[0])
    slices = [node for node in nodes if node.op_type == "Slice" and node.input[1] in counts]
    if len(slices) != 1:
        raise QuambaError(
            "the graph does not choose its logits as an export does",
            found=f"{len(slices)} Slice nodes that read {COUNT}",
            allowed="1",
            fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
        )
    (chosen,) = slices
    if logits == "last":
        chosen.input[1] = "last_position"
        return nodes
    for node in nodes:
        node.input[:] = [chosen.input[0] if name == chosen.output[0] else name for name in node.input]
    return [node for node in nodes if node is not chosen]


def _read_rows(
    nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto], parts: dict[str, Part]
) -> list[onnx.NodeProto]:
    """Point every quamba node at the rows its inputs are parts of. `parts`: known beforehand; grows."""
    for node in nodes:
        if node.domain == DOMAIN:
            _read_row(node, get_op(node.op_type).spec, parts)
        elif node.op_type == "Split":
            _record_split(node, _ints(node, constants), parts)
        elif node.op_type == "Reshape" and node.input[0] in parts:
            part = parts[node.input[0]]
            _, _, *shape = _ints(node, constants)
            parts[node.output[0]] = Part(part.row, part.offset, tuple(shape))
    return nodes


def _ints(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int]:
    """The constant second input of a Split or Reshape."""
    if len(node.input) < 2 or node.input[1] not in constants:
        raise QuambaError(f"{node.op_type} '{node.name}' has no constant sizes", found=", ".join(node.input))
    return [int(value) for value in numpy_helper.to_array(constants[node.input[1]])]


def _record_split(node: onnx.NodeProto, sizes: list[int], parts: dict[str, Part]) -> None:
    """Its outputs as parts of the row; the backend splits along the last axis of (B, L, width) only."""
    (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
    if axis not in (2, -1):
        raise QuambaError(f"Split '{node.name}' is not along a row", found=f"axis {axis}", allowed="2")
    whole = parts.get(node.input[0], Part(node.input[0], 0, (sum(sizes),)))
    offset = whole.offset
    for name, size in zip(node.output, sizes, strict=True):
        parts[name] = Part(whole.row, offset, (size,))
        offset += size


def _read_row(node: onnx.NodeProto, spec: OpSpec, parts: dict[str, Part]) -> None:
    """Replace the node's parts by their rows and add the two plugin fields.

    Both are always written: TensorRT prints a warning for each field that a node leaves out.
    """
    if len(node.input) != len(spec.inputs):
        raise QuambaError(
            f"{node.op_type} '{node.name}' was exported by another release",
            found=f"{len(node.input)} inputs",
            allowed=", ".join(tensor.name for tensor in spec.inputs),
            fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
        )
    offsets, hidden, seen = [OWN_TENSOR] * len(spec.inputs), dict[str, int](), set[str]()
    for index, tensor in enumerate(spec.inputs):
        part = parts.get(node.input[index]) if tensor.dims[:2] == ("B", "L") else None
        if part is None:
            seen |= {letter[0] for letter in tensor.dims if "/" not in letter}  # K/2 does not tell K
            continue
        offsets[index], node.input[index] = part.offset, part.row
        hidden |= dict(zip(tensor.dims[2:], part.shape, strict=True))
    sizes = [0 if letter in seen else hidden.get(letter, 0) for letter in letters(spec)]
    node.attribute.append(helper.make_attribute("row_offsets", offsets))
    node.attribute.append(helper.make_attribute("sizes", sizes))


def _without_dead(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some output needs, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
