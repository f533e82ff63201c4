"""W4A8 and W4A16: the graph against the reference bit for bit, the size of the weights, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.runtime.errors import ExitCode, QuambaError
from tests.exported_graph import CONFIGS, Graph, calibrated, quantized, tapped, tokens
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint

WIDTHS = ("w4a8", "w4a16")
MODELS = {**CONFIGS, "mamba2 in two groups of columns": replace(MAMBA2_GROUPS, d_model=160, d_inner=320)}


@pytest.mark.parametrize("qformat", WIDTHS)
@pytest.mark.parametrize("name", MODELS)
def test_every_site_and_state_is_the_same_bit_for_bit(name: str, qformat: str, tmp_path: Path) -> None:
    """Prefill, then one token on the states that it left."""
    model = quantized(MODELS[name], qformat=qformat)
    ids, states, reference_states = tokens(model.config, 2, 39), None, None
    sites = tuple(site for site in tapped(model, ids) if site.startswith("layers."))
    graph = Graph(model, tmp_path, sites)
    for part in torch.split(ids, [38, 1], dim=1):
        expected, found = tapped(model, part, reference_states), graph.run(part, states)
        _, reference_states = model(part, reference_states)
        states = graph.next_states(found)
        # the head's fp32 sums in another order, of 160 products and up to 27 in size
        np.testing.assert_allclose(found["logits"], expected.pop("logits").numpy(), rtol=1e-6, atol=1e-5)
        for site, tensor in expected.items():
            np.testing.assert_array_equal(found[site], tensor.numpy(), err_msg=site)


@pytest.mark.parametrize("qformat", WIDTHS)
@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=lambda config: config.kind)
def test_a_graph_in_any_width_is_what_a_builder_wants(config: MambaConfig, qformat: str) -> None:
    proto = onnx_from_model(quantized(config, qformat=qformat))
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, check_type=True, data_prop=True)
    assert proto.ir_version <= 10
    assert {o.domain: o.version for o in proto.opset_import} == {"": 19, "quamba": 1}
    called = {node.op_type for node in proto.graph.node if node.domain == "quamba"}
    assert {function.name for function in proto.functions} == called


@pytest.mark.parametrize("qformat", WIDTHS)
def test_projections_take_four_bits_and_two_bytes_a_group(qformat: str) -> None:
    config = replace(MAMBA2_GROUPS, d_model=160, d_inner=320)
    model = quantized(config, qformat=qformat)
    rows = {"in_proj": (config.d_in_proj, 160, 2), "out_proj": (160, 320, 3)}  # M, K, groups a row
    for name, (m, k, groups) in rows.items():
        stored = [model.tensors[f"layers.0.{name}.{part}"] for part in ("weight", "weight_scale")]
        assert [tensor.nbytes for tensor in stored] == [m * k // 2, m * groups * 2]


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=lambda config: config.kind)
@pytest.mark.parametrize("qformat", WIDTHS)
def test_a_graph_is_as_large_as_the_formula_says(config: MambaConfig, qformat: str) -> None:
    """Weights at their bits, two bytes a group's scale, the small tensors; biases of zeros are beyond it."""
    config = replace(config, d_model=1024, d_inner=1024, n_layer=1)
    checkpoint = random_checkpoint(config)
    calibration = random_calibration(config, digest=checkpoint.digest)
    graph = onnx_from_model(quantize_model(checkpoint, calibration, qformat)).graph
    expected = 2.0 * 2 * config.vocab_size * config.d_model
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(("in_proj.weight", "out_proj.weight")):
            expected += tensor.numel() / 2 + 2 * tensor.numel() / 128
        elif name.endswith(("x_proj.weight", "dt_proj.weight")):
            expected += tensor.numel()
    sizes = {tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer}
    large = re.compile(r"proj\.(weight|bias)$|(in|out)_proj.weight_scale$|embedding|lm_head")
    small = sum(size for name, size in sizes.items() if not large.search(name))
    assert sum(sizes.values()) == pytest.approx(expected + small, rel=0.01)


def test_columns_that_sixteen_bytes_cannot_hold_are_refused() -> None:
    with pytest.raises(QuambaError, match=r"layers\.0\.in_proj does not fit int4's packing") as caught:
        quantized(replace(MAMBA1, d_model=24, d_inner=48), qformat="w4a8")
    assert (caught.value.found, caught.value.allowed) == ("24 columns", "a multiple of 32")


def test_an_unknown_width_is_refused() -> None:
    with pytest.raises(QuambaError, match="unknown --qformat") as caught:
        quantize_model(*calibrated(MAMBA1), qformat="w2a8")
    assert (caught.value.found, caught.value.code) == ("w2a8", ExitCode.USAGE)
    assert "w8a8, w4a8, w4a16" in str(caught.value.allowed)
