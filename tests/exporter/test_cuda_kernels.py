"""Which nodes of an exported graph ONNX Runtime's CUDA provider has no kernel for: docs/onnxruntime-cuda.md.

CUDA_KERNELS is what docs/OperatorKernels.md of microsoft/onnxruntime (commit 001d12d) lists for
the CUDA provider at opset 19, of the types that decide: those of a node's first input.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, inliner, shape_inference
from tiny_flow import Flow

FLOATS = {"DOUBLE", "FLOAT", "FLOAT16"}
NUMBERS = FLOATS | {"INT8", "UINT8", "INT32", "INT64"}
ANY = NUMBERS | {"BOOL"}
CUDA_KERNELS = {
    **dict.fromkeys(("Cast", "Concat", "Gather", "Identity", "Reshape", "Scan", "Slice", "Split"), ANY),
    **dict.fromkeys(("Squeeze", "Transpose", "Unsqueeze"), ANY),
    **dict.fromkeys(("Abs", "Add", "Div", "Mul", "Sub"), NUMBERS),
    **dict.fromkeys(("Exp", "Log", "MatMul", "Round", "Sqrt"), FLOATS),
    **dict.fromkeys(("If", "Shape"), ANY),
    **dict.fromkeys(("GreaterOrEqual", "Less", "ReduceMax"), FLOATS | {"INT32", "INT64"}),
    "Where": {"BOOL"},  # whose values are floats here
    "Clip": FLOATS | {"INT8", "UINT8", "INT64"},
    "DequantizeLinear": {"INT8", "UINT8"},
    "MatMulInteger": {"INT8"},
    "Max": FLOATS | {"INT32", "INT64"},
    "Neg": FLOATS | {"INT8", "INT32", "INT64"},
    "QuantizeLinear": {"FLOAT", "FLOAT16"},
    "ReduceMean": FLOATS | {"INT32"},
}
WITHOUT = {("BitwiseXor", "INT8"), ("MatMulInteger", "UINT8")}


def typed_nodes(graph: GraphProto, outer: dict[str, int]) -> Iterator[tuple[NodeProto, str]]:
    """Every node, those of bodies too, with the type of its first input; constants have none."""
    types = dict(outer) | {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from typed_nodes(attribute.g, types)
        if node.op_type != "Constant":
            yield node, TensorProto.DataType.Name(types.get(node.input[0], 0))


def test_only_the_int8_products_and_what_prepares_them_have_no_cuda_kernel(flow: Flow) -> None:
    model = inliner.inline_local_functions(onnx.load(str(flow.export / "model.onnx")))
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    nodes = [(node.op_type, dtype) for node, dtype in typed_nodes(graph, {})]
    assert {op for op, _ in nodes} - {"BitwiseXor"} <= set(CUDA_KERNELS)
    assert not [(op, dtype) for op, dtype in nodes if dtype == "UNDEFINED"]
    assert {node for node in nodes if node[1] not in CUDA_KERNELS.get(node[0], ())} == WITHOUT
