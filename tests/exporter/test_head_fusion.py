"""Final norm and head of a graph as one plugin, and graphs that end in something else."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import helper
from refusals import refused

from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.exporter.tensorrt.graph import tensorrt_graph
from quamba_export.exporter.tensorrt.head_fusion import HEAD
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2, random_checkpoint

REFUSED = "the graph does not compute its logits as an export does"


def exported(kind: str = "mamba1") -> onnx.ModelProto:
    config = replace(MAMBA1 if kind == "mamba1" else MAMBA2, n_layer=1)
    checkpoint = random_checkpoint(config)
    return onnx_from_model(quantize_model(checkpoint, random_calibration(config, digest=checkpoint.digest)))


def head_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The standard ops behind the last layer, by kind."""
    (product,) = (node for node in model.graph.node if "logits" in node.output)
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, waiting = {}, [product]
    while waiting:
        node = waiting.pop()
        if node.domain == "" and node.op_type != "Slice":
            found[node.op_type] = node
            waiting += [made_by[name] for name in node.input if name in made_by]
    return found


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("logits", ["last", "all"])
def test_one_node_gives_the_logits(kind: str, steps: bool, logits: str) -> None:
    """It reads the fp16 weight as it is stored; a step has no Slice in front of it."""
    model = exported(kind)
    graph = tensorrt_graph(model, logits=logits, steps=steps, weights_as_inputs=True).graph
    (head,) = (node for node in graph.node if node.op_type == HEAD)
    assert list(head.output) == ["logits"]
    assert head.input[1] == "lm_head.weight"
    (weight,) = (value for value in graph.input if value.name == "lm_head.weight")
    assert weight.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    (epsilon,) = (helper.get_attribute_value(a) for a in head.attribute if a.name == "epsilon")
    assert epsilon == pytest.approx(MAMBA1.norm_epsilon)
    standard = sorted({node.op_type for node in graph.node if not node.domain} - {"Reshape"})
    chosen = ["Slice"] if logits == "last" and not steps else []
    assert standard == ["Cast", "Gather", *chosen], "those of the embedding, and of the last position"


@pytest.mark.parametrize("kind", ["Transpose", "Cast", "Div", "Sqrt", "Add", "ReduceMean", "Mul"])
def test_another_node_in_the_head_is_refused(kind: str) -> None:
    model = exported()
    head_nodes(model)[kind].op_type = "Identity"
    with refused(REFUSED, f"is made by Identity, not by {kind}", "fix: quamba-export export"):
        tensorrt_graph(model)


def test_a_norm_of_something_else_is_refused() -> None:
    model = exported()
    square = head_nodes(model)["Mul"]
    square.input[1] = head_nodes(model)["Transpose"].input[0]
    with refused(REFUSED, "lm_head.weight divides"):
        tensorrt_graph(model)


def test_an_epsilon_that_is_computed_is_refused() -> None:
    model = exported()
    head_nodes(model)["Add"].input[1] = "past_ssm_states.0"
    with refused(REFUSED, "'past_ssm_states.0' or 'lm_head.weight' is no constant"):
        tensorrt_graph(model)


def test_a_weight_that_is_no_constant_is_refused() -> None:
    model = exported()
    head_nodes(model)["Transpose"].input[0] = "past_ssm_states.0"
    with refused(REFUSED, "or 'past_ssm_states.0' is no constant"):
        tensorrt_graph(model)
