"""The final norm and the head as one plugin, in every engine.

An export computes its logits with standard ops in fp32. A framework reads an fp32 weight for such a product;
RMSNormLinear reads the fp16 weight as it is stored.

B batch, L length, D d_model, V vocabulary (padded).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from quamba_export.exporter.tensorrt.weights import HEAD
from quamba_export.plugins.common.registry import get_op
from quamba_export.runtime.errors import QuambaError

LOGITS = "logits"


def fuse_head(nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The nodes with RMSNormLinear in the place of the product that gives the logits (B, L, V).

    What only that product needed stays, dead. Raises QuambaError where the logits are not computed as
    `OnnxBackend.norm_linear` writes it.
    """
    made_by = {name: node for node in nodes for name in node.output}
    product = _maker(made_by, LOGITS, "MatMul")
    quotient = _maker(made_by, product.input[0], "Div")
    x, root = quotient.input
    shifted = _maker(made_by, _maker(made_by, root, "Sqrt").input[0], "Add")
    mean = _maker(made_by, shifted.input[0], "ReduceMean")
    square = _maker(made_by, mean.input[0], "Mul")
    widened = _maker(made_by, product.input[1], "Cast")
    weight = _maker(made_by, widened.input[0], "Transpose").input[0]
    if list(square.input) != [x, x]:
        raise _refused(f"a mean of {' * '.join(square.input)} divides {x}")
    if shifted.input[1] not in constants or weight not in constants:
        raise _refused(f"'{shifted.input[1]}' or '{weight}' is no constant")
    epsilon = float(numpy_helper.to_array(constants[shifted.input[1]]))
    return [_head(node, x, weight, epsilon) if node is product else node for node in nodes]


def _maker(made_by: Mapping[str, onnx.NodeProto], name: str, kind: str) -> onnx.NodeProto:
    """The node that gives `name`, which is to be of this kind."""
    node = made_by.get(name)
    if node is None or node.op_type != kind:
        found = "a constant or an input" if node is None else node.op_type
        raise _refused(f"'{name}' is made by {found}, not by {kind}")
    return node


def _head(product: onnx.NodeProto, x: str, weight: str, epsilon: float) -> onnx.NodeProto:
    spec = get_op(HEAD).spec
    return helper.make_node(
        HEAD,
        [x, weight],
        product.output,
        name=f"{LOGITS}/{HEAD}",
        domain=spec.domain,
        epsilon=epsilon,
        plugin_version=str(spec.version),
        plugin_namespace=spec.domain,
    )


def _refused(found: str) -> QuambaError:
    return QuambaError(
        "the graph does not compute its logits as an export does",
        found=found,
        allowed="x / Sqrt(Add(ReduceMean(Mul(x, x)), epsilon)), MatMul with Cast(Transpose(weight))",
        fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
    )
