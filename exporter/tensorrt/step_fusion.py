"""Norm, in_proj and convolution of a layer as one plugin, for engines that take one token at a time.

At one token a kernel costs more than what a norm or a convolution computes. InputProjectionStep, or
Int4InputProjectionStep, does all three; its output row is the projection's with the convolved channels in
place.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from quamba_export.plugins.common.registry import get_op

DOMAIN = "quamba"
STEPS = {  # by the projection
    "RequantizedLinear": "InputProjectionStep",
    "Int4RequantizedLinear": "Int4InputProjectionStep",
}


@dataclass(frozen=True)
class Layer:
    """The three nodes of one layer; the convolution reads `begin` and on of the projection's rows."""

    norm: onnx.NodeProto
    linear: onnx.NodeProto
    conv: onnx.NodeProto
    begin: int


def fuse_steps(
    nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], dict[str, tuple[str, int, int]]]:
    """The nodes with one step for every three that belong together, in the projection's place.

    Returns them and, by the name of a convolution's output, the row that holds it now: its name, the first
    element and their number. Layers whose nodes do not fit stay as they are.
    """
    made_by = {name: node for node in nodes for name in node.output}
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found = [
        _layer(node, made_by, readers, constants) for node in nodes if _is(node, "QuantizedCausalConv1d")
    ]
    layers = [layer for layer in found if layer is not None]
    steps = {id(layer.linear): _step(layer) for layer in layers}
    dropped = {id(node) for layer in layers for node in (layer.norm, layer.conv)}
    fused = [steps.get(id(node), node) for node in nodes if id(node) not in dropped]
    rows = {
        layer.conv.output[0]: (layer.linear.output[0], layer.begin, _length(constants[layer.conv.input[4]]))
        for layer in layers
    }
    return fused, rows


def _is(node: onnx.NodeProto | None, op: str) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type == op


def _layer(
    conv: onnx.NodeProto,
    made_by: dict[str, onnx.NodeProto],
    readers: dict[str, int],
    constants: dict[str, onnx.TensorProto],
) -> Layer | None:
    """What stands in front of a convolution: a norm that only the projection reads, both on one scale."""
    row, begin = conv.input[0], 0
    split = made_by.get(row)
    if split is not None and split.op_type == "Split":
        sizes = numpy_helper.to_array(constants[split.input[1]])
        begin, row = int(sizes[: list(split.output).index(row)].sum()), split.input[0]
    linear = made_by.get(row)
    if linear is None or not any(_is(linear, op) for op in STEPS):
        return None
    norm = made_by.get(linear.input[0])
    if norm is None or not _is(norm, "RMSNormQuantize") or readers[norm.output[0]] != 1:
        return None
    if _attribute(norm, "out_scale") != _attribute(linear, "x_scale"):
        return None
    return Layer(norm, linear, conv, begin)


def _step(layer: Layer) -> onnx.NodeProto:
    op = STEPS[layer.linear.op_type]
    spec = get_op(op).spec
    return helper.make_node(
        op,
        [layer.norm.input[0], *layer.linear.input[1:], *layer.conv.input[1:]],
        [layer.linear.output[0], layer.conv.output[1]],
        name=f"{layer.linear.name}/{op}",
        domain=DOMAIN,
        epsilon=_attribute(layer.norm, "epsilon"),
        norm_scale=_attribute(layer.norm, "out_scale"),
        conv_begin=layer.begin,
        plugin_version=str(spec.version),
        plugin_namespace=spec.domain,
    )


def _attribute(node: onnx.NodeProto, name: str) -> float:
    (value,) = (attribute.f for attribute in node.attribute if attribute.name == name)
    return float(value)


def _length(tensor: onnx.TensorProto) -> int:
    return int(tensor.dims[0])
