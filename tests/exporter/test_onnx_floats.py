"""W8A16, fp16 and fp32: the graph against the reference, fp32 against the checkpoint, calibrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.qformat import qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.runtime.errors import ExitCode, QuambaError
from tests.exported_graph import Graph, calibrated, tapped, tokens
from tests.random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint

CONFIGS = {
    "mamba1 with biases": replace(MAMBA1, proj_bias=True, tie_embeddings=False),
    "mamba2 in groups": MAMBA2_GROUPS,
}
FORMATS = ("w8a16", "fp16", "fp32")
FLOAT_BOUND = 2.0**-18  # of the largest logit: docs/accuracy.md


def uncalibrated(config: MambaConfig, qformat: str) -> tuple[Checkpoint, QuantizedModel]:
    checkpoint = random_checkpoint(config)
    state = qformat_named(qformat).ssm_state_dtype
    return checkpoint, quantize_model(checkpoint, None, qformat, state)


@pytest.mark.parametrize("qformat", FORMATS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_site_and_state_is_the_same_bit_for_bit(name: str, qformat: str, tmp_path: Path) -> None:
    """Prefill, then one token on the states that it left."""
    _, model = uncalibrated(CONFIGS[name], qformat)
    ids, states, reference_states = tokens(model.config, 2, 9), None, None
    sites = tuple(site for site in tapped(model, ids) if site.startswith("layers."))
    graph = Graph(model, tmp_path, sites)
    for part in torch.split(ids, [8, 1], dim=1):
        expected, found = tapped(model, part, reference_states), graph.run(part, states)
        _, reference_states = model(part, reference_states)
        states = graph.next_states(found)
        np.testing.assert_allclose(found["logits"], expected.pop("logits").numpy(), rtol=1e-6, atol=1e-5)
        for site, tensor in expected.items():
            np.testing.assert_array_equal(found[site], tensor.numpy(), err_msg=site)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fp32_graph_gives_the_checkpoint_s_logits(name: str, tmp_path: Path) -> None:
    checkpoint, model = uncalibrated(CONFIGS[name], "fp32")
    ids = tokens(model.config, 2, 24)
    with torch.no_grad():
        expected, _ = FloatMamba.from_checkpoint(checkpoint)(ids)
    found = Graph(model, tmp_path).run(ids)["logits"]
    difference = np.abs(found - expected.numpy()).max()
    assert difference <= FLOAT_BOUND * float(expected.abs().max())
    _, half = uncalibrated(CONFIGS[name], "fp16")
    rounded, _ = half(ids)  # the bound tells fp16 from fp32
    assert float((rounded - expected).abs().max()) > FLOAT_BOUND * float(expected.abs().max())


@pytest.mark.parametrize("qformat", FORMATS)
def test_inputs_and_outputs_are_named_as_in_any_width(qformat: str) -> None:
    graphs = [
        onnx_from_model(quantize_model(*calibrated(MAMBA1))).graph,
        onnx_from_model(uncalibrated(MAMBA1, qformat)[1]).graph,
    ]
    named = [[value.name for value in (*graph.input, *graph.output)] for graph in graphs]
    sites = [{value.name for value in graph.value_info} for graph in graphs]
    assert named[0] == named[1]
    assert sites[0] == sites[1]
    onnx.checker.check_model(onnx_from_model(uncalibrated(MAMBA2_GROUPS, qformat)[1]), full_check=True)


@pytest.mark.parametrize("qformat", ["w8a16", "w4a16"])
def test_a_calibration_changes_the_basis_of_codes_only(qformat: str) -> None:
    """With and without one the model is the same but for the rounding of its weights."""
    checkpoint, calibration = calibrated(MAMBA2_GROUPS)
    ids = tokens(MAMBA2_GROUPS, 1, 16)
    logits = [quantize_model(checkpoint, given, qformat)(ids)[0] for given in (calibration, None)]
    with torch.no_grad():
        exact, _ = FloatMamba.from_checkpoint(checkpoint)(ids)
    errors = [float((found - exact).square().mean()) for found in logits]
    assert 0.5 < errors[0] / errors[1] < 2


def test_int8_activations_want_a_calibration_and_floats_none() -> None:
    checkpoint, calibration = calibrated(MAMBA1)
    with pytest.raises(
        QuambaError, match="w8a8 has int8 activations, whose scales are found on text"
    ) as caught:
        quantize_model(checkpoint, None, "w8a8")
    assert caught.value.code is ExitCode.USAGE
    with pytest.raises(QuambaError, match="fp32 has nothing to take from a calibration"):
        quantize_model(checkpoint, calibration, "fp32")


def test_an_int8_state_needs_int8_activations() -> None:
    with pytest.raises(QuambaError, match="fp16 has no int8 scan state"):
        quantize_model(random_checkpoint(MAMBA1), None, "fp16", "int8")
