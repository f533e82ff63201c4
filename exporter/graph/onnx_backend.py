"""Write calib/model/network.py as an ONNX graph: one node a call, intermediate tensors named by their sites.

A value is a name with its dtype and shape; a shape's entry is an int where it is fixed and a string
("batch", "length") where it is dynamic. Every quamba op is a node of its own domain; its function body in
standard ops travels in the model, so that plain ONNX Runtime runs it and a TensorRT builder that has the
plugin may strip it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quamba_export.plugins.common.contract import OpSpec, Size
from quamba_export.plugins.common.int4 import CHUNK, GROUP
from quamba_export.plugins.common.registry import get_op
from quamba_export.plugins.common.torch_op import dtype_name
from quamba_export.runtime.errors import QuambaError

NIBBLE = {"nibble": 15, "sign_of_nibble": 8, "values_of_nibble": 16}
OPSET, IR_VERSION = 19, 9  # the newest that TensorRT 10.3 parses is opset 20, IR 10
ELEMENT = {
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
}


@dataclass(frozen=True)
class Value:
    """One tensor of the graph."""

    name: str
    dtype: str
    shape: tuple[Size, ...]


class OnnxBackend:
    """Interpreter whose values are names of ONNX tensors; `model_proto` gives the finished model.

    initializer: how a weight and its name become a TensorProto; WeightFile puts them into a file.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        initializer: Callable[[NDArray[Any], str], onnx.TensorProto] = numpy_helper.from_array,
    ) -> None:
        self._tensors, self._initializer = tensors, initializer
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._functions: dict[str, tuple[OpSpec, str]] = {}
        self._names: dict[str, str] = {}  # provisional name -> site
        self._values: dict[str, Value] = {}

    # What network.py calls

    def op(self, name: str, *inputs: Value, **attrs: float | int) -> tuple[Value, ...]:
        op = get_op(name)
        dtypes = [v.dtype for v in inputs]
        sizes = op.spec.bind(dtypes, [v.shape for v in inputs], attrs)
        body = op.onnx_body(sizes, dict(zip((t.name for t in op.spec.inputs), dtypes, strict=True)), attrs)
        if self._functions.setdefault(name, (op.spec, body))[1] != body:
            raise QuambaError(
                f"{name}: two calls need different function bodies",
                found=f"sizes {sizes}, dtypes {dtypes}, attributes {sorted(attrs)}",
                allowed="one set of fixed sizes and dtypes in a graph",
            )
        shapes, out_dtypes = op.spec.output_shapes(sizes), op.spec.output_dtypes(dtypes)
        fields: dict[str, float | int | str] = {
            a.name: float(attrs[a.name]) if a.type == "float" else int(attrs[a.name]) for a in op.spec.attrs
        }
        fields |= {"plugin_version": str(op.spec.version), "plugin_namespace": op.spec.domain}
        return self._node(
            name, inputs, list(zip(out_dtypes, shapes, strict=True)), domain=op.spec.domain, attrs=fields
        )

    def weight(self, name: str) -> Value:
        tensor = self._tensors[name]
        if name not in self._initializers:
            self._initializers[name] = self._initializer(tensor.contiguous().numpy(), name)
        return Value(name, dtype_name(tensor), tuple(tensor.shape))

    def embed(self, table: Value, input_ids: Value) -> Value:
        rows = self._one(
            "Gather", (table, input_ids), table.dtype, (*input_ids.shape, table.shape[1]), axis=0
        )
        return self._cast(rows)

    def embed_codes(self, codes: Value, scale: Value, input_ids: Value, bits: int) -> Value:
        batch, columns = input_ids.shape, int(codes.shape[1])
        rows = self._one("Gather", (codes, input_ids), codes.dtype, (*batch, columns), axis=0)
        scales = self._one("Gather", (scale, input_ids), scale.dtype, (*batch, *scale.shape[1:]), axis=0)
        if bits == 8:
            column = self._one(
                "Unsqueeze", (scales, self._int64("axis_last", [-1])), scale.dtype, (*batch, 1)
            )
            return self._one("Mul", (self._cast(rows), column), "float32", rows.shape)
        group = self._int32("group_of_column", [k // GROUP for k in range(2 * columns)])
        wide = self._one("Gather", (self._cast(scales), group), "float32", (*batch, 2 * columns), axis=2)
        unpacked = self._cast(self._unpack_int4(rows))
        return self._one("Mul", (unpacked, wide), "float32", unpacked.shape)

    def split(self, x: Value, sizes: Sequence[int]) -> tuple[Value, ...]:
        parts = self._int64(f"split_{'_'.join(map(str, sizes))}", sizes)
        outputs = [(x.dtype, (*x.shape[:-1], size)) for size in sizes]
        return self._node("Split", (x, parts), outputs, attrs={"axis": len(x.shape) - 1})

    def reshape_last(self, x: Value, shape: Sequence[int]) -> Value:
        target = self._int64(f"shape_{'_'.join(map(str, shape))}", [0, 0, *shape])
        return self._one("Reshape", (x, target), x.dtype, (*x.shape[:2], *shape))

    def last_tokens(self, x: Value, count: Value) -> Value:
        """Slice from `-count`."""
        start = self._one("Neg", (count,), "int64", ())
        starts = self._one("Reshape", (start, self._int64("shape_of_scalar", [1])), "int64", (1,))
        ends, axes = self._int64("int64_max", [np.iinfo(np.int64).max]), self._int64("axis_1", [1])
        return self._one("Slice", (x, starts, ends, axes), x.dtype, (x.shape[0], "num_logits", x.shape[2]))

    def norm_linear(self, x: Value, weight: Value, epsilon: float) -> Value:
        square = self._one("Mul", (x, x), x.dtype, x.shape)
        mean = self._one(
            "ReduceMean", (square, self._int64("axis_last", [-1])), x.dtype, (*x.shape[:-1], 1), keepdims=1
        )
        shifted = self._one("Add", (mean, self._float("norm_epsilon", epsilon)), x.dtype, mean.shape)
        root = self._one("Sqrt", (shifted,), x.dtype, mean.shape)
        normed = self._one("Div", (x, root), x.dtype, x.shape)
        rows, columns = weight.shape
        transposed = self._one("Transpose", (weight,), weight.dtype, (columns, rows), perm=[1, 0])
        return self._one("MatMul", (normed, self._cast(transposed)), x.dtype, (*x.shape[:-1], rows))

    def tap(self, site: str, value: Value) -> Value:
        self._names[value.name] = site
        return value

    # Building the model

    def rename(self, value: Value, name: str) -> None:
        """Give a graph output its contract name."""
        self._names[value.name] = name

    def model_proto(
        self, inputs: Sequence[Value], outputs: Sequence[Value], producer: str
    ) -> onnx.ModelProto:
        """The finished model; `inputs` and `outputs` carry their final names."""
        self._apply_names()
        graph = helper.make_graph(
            self._nodes,
            "quamba",
            [_value_info(v) for v in inputs],
            [_value_info(replace(v, name=self._names.get(v.name, v.name))) for v in outputs],
            list(self._initializers.values()),
            value_info=self._site_infos({self._names.get(v.name, v.name) for v in outputs}),
        )
        model = helper.make_model(
            graph,
            functions=[_function_proto(spec, body) for spec, body in self._functions.values()],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("quamba", 1)],
            producer_name=producer,
        )
        model.ir_version = IR_VERSION
        return model

    def _apply_names(self) -> None:
        for node in self._nodes:
            node.input[:] = [self._names.get(name, name) for name in node.input]
            node.output[:] = [self._names.get(name, name) for name in node.output]
            node.name = f"{node.output[0]}/{node.op_type}"

    def _site_infos(self, outputs: set[str]) -> list[onnx.ValueInfoProto]:
        named = (
            replace(self._values[old], name=new) for old, new in self._names.items() if new not in outputs
        )
        return [_value_info(value) for value in named]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[Value],
        outputs: Sequence[tuple[str, tuple[Size, ...]]],
        domain: str = "",
        attrs: Mapping[str, float | int | str | Sequence[int]] = MappingProxyType({}),
    ) -> tuple[Value, ...]:
        first = len(self._values)
        values = tuple(Value(f"t{first + k}", dtype, shape) for k, (dtype, shape) in enumerate(outputs))
        self._values.update({v.name: v for v in values})
        node = helper.make_node(
            op_type,
            [v.name for v in inputs],
            [v.name for v in values],
            domain=domain,
            **dict[str, Any](attrs),
        )
        self._nodes.append(node)
        return values

    def _one(
        self,
        op_type: str,
        inputs: Sequence[Value],
        dtype: str,
        shape: tuple[Size, ...],
        **attrs: int | Sequence[int],
    ) -> Value:
        return self._node(op_type, inputs, [(dtype, shape)], attrs=attrs)[0]

    def _unpack_int4(self, packed: Value) -> Value:
        """(B, L, K/2) int8 -> codes (B, L, K) int32, as plugins/common/int4.py unpacks them."""
        batch, length, size = packed.shape[0], packed.shape[1], 2 * int(packed.shape[2])
        chunks = (batch, length, size // CHUNK, CHUNK // 2)
        wide = self._cast(packed, "int32")
        target = self._int64("shape_of_chunks", [0, 0, *chunks[2:]])
        rows = self._one("Reshape", (wide, target), "int32", chunks)
        nibble, sign, step = (self._int32(name, value) for name, value in NIBBLE.items())
        low = self._one("BitwiseAnd", (rows, nibble), "int32", chunks)
        above = self._one("Sub", (rows, low), "int32", chunks)
        flipped = self._one("BitwiseXor", (low, sign), "int32", chunks)
        parts = [
            self._one("Sub", (flipped, sign), "int32", chunks),
            self._one("Div", (above, step), "int32", chunks),
        ]
        both = self._one("Concat", parts, "int32", (*chunks[:3], CHUNK), axis=3)
        return self.reshape_last(both, [size])

    def _cast(self, x: Value, dtype: str = "float32") -> Value:
        return x if x.dtype == dtype else self._one("Cast", (x,), dtype, x.shape, to=ELEMENT[dtype])

    def _int64(self, name: str, values: Sequence[int]) -> Value:
        self._initializers.setdefault(name, numpy_helper.from_array(np.array(values, np.int64), name))
        return Value(name, "int64", (len(values),))

    def _int32(self, name: str, value: int | Sequence[int]) -> Value:
        array = np.array(value, np.int32)
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return Value(name, "int32", array.shape)

    def _float(self, name: str, value: float) -> Value:
        self._initializers.setdefault(name, numpy_helper.from_array(np.array(value, np.float32), name))
        return Value(name, "float32", ())


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, ELEMENT[value.dtype], value.shape)


def _function_proto(spec: OpSpec, body: str) -> onnx.FunctionProto:
    """The op's function: header from the contract, body from the op."""
    attrs = ", ".join([*(a.name for a in spec.attrs), "plugin_version", "plugin_namespace"])
    inputs, outputs = (", ".join(t.name for t in tensors) for tensors in (spec.inputs, spec.outputs))
    scope = f'<opset_import: ["" : {OPSET}], domain: "{spec.domain}">'
    return onnx.parser.parse_function(f"{scope} {spec.name} <{attrs}> ({inputs}) => ({outputs}) {{ {body} }}")
