"""W4AX: blocks of other widths side by side in one graph, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.recipes.layer_rules import LayerRule
from quamba_export.exporter.bundle.build import build_bundle
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.exporter.inspection.size_formula import graph_formula, size_formula
from quamba_export.runtime.errors import ExitCode, QuambaError
from tests.exported_graph import Graph, calibrated, tapped, tokens
from tests.fake_export import write_fake_export
from tests.random_checkpoints import MAMBA1, MAMBA2_GROUPS

WIDTHS = ("w8a8", "w4a16", "w4a8", "w8a16")


def mixed(config: MambaConfig) -> tuple[Checkpoint, Calibration]:
    """Four layers, each of another width."""
    checkpoint, calibration = calibrated(replace(config, n_layer=4))
    rules = tuple(LayerRule(str(i), {}, name) for i, name in enumerate(WIDTHS))
    return checkpoint, replace(calibration, recipe=replace(calibration.recipe, layers=rules))


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=lambda config: config.kind)
def test_every_site_and_state_is_the_same_bit_for_bit(config: MambaConfig, tmp_path: Path) -> None:
    """Prefill, then one token on the states that it left."""
    model = quantize_model(*mixed(config), "w4ax")
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
    assert [row["dtype"] for row in graph.table[:4]] == ["int8", "float16", "int8", "float16"]


def test_a_layer_is_that_of_its_width_alone() -> None:
    checkpoint, calibration = mixed(MAMBA2_GROUPS)
    model = quantize_model(checkpoint, calibration, "w4ax")
    for i, name in enumerate(WIDTHS):
        alone = quantize_model(checkpoint, calibration, name)
        own = {k for k in alone.tensors if k.startswith(f"layers.{i}.")}
        assert own == {k for k in model.tensors if k.startswith(f"layers.{i}.")}
        assert all(torch.equal(model.tensors[k], alone.tensors[k]) for k in own)


def test_the_formula_counts_every_block_at_its_own_bits() -> None:
    model = quantize_model(*mixed(MAMBA1), "w4ax")
    graph = onnx_from_model(model).graph
    assert graph_formula(model.config, "w4ax", graph) == size_formula(
        model.config, model.widths, model.blocks
    )


def test_a_recipe_without_widths_is_refused() -> None:
    with pytest.raises(QuambaError, match="says no block's widths") as caught:
        quantize_model(*calibrated(MAMBA1), "w4ax")
    assert caught.value.code is ExitCode.USAGE


def test_an_int8_state_is_refused_where_one_block_has_float_activations() -> None:
    with pytest.raises(QuambaError, match="w4ax has no int8 scan state"):
        quantize_model(*mixed(MAMBA1), "w4ax", "int8")


def test_no_engine_is_built_of_mixed_blocks(tmp_path: Path) -> None:
    export = write_fake_export(tmp_path / "export", qformat="w4ax")
    with pytest.raises(QuambaError, match="does not run w4ax"):
        build_bundle(export, "h200", tmp_path / "bundle")
