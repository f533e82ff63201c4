"""Smoothing: where maxima go by alpha, the artefact, the exported graph, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_graph import Graph, calibrated, tapped, tokens
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.calibration import Calibration, read_calibration, write_calibration
from quamba_export.calib.data import calibration_windows
from quamba_export.calib.model.basis import BASIS_SAMPLES
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.model.scan_input import ScanInput, with_scan_input
from quamba_export.calib.model.smoothing import SMOOTHED, smoothed_sites
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.runtime.errors import ExitCode, QuambaError

SAMPLES, LENGTH = 6, 12
RECIPE = load_recipe("smoothquant")


def smoothed(folder: Path, config, alpha: float = 0.5, **options) -> Calibration:
    checkpoint = random_checkpoint(config, 0, folder / "tokenizer.json")
    recipe = dataclasses.replace(RECIPE, smoothing=alpha)
    text = folder / "text.txt"
    return calibrate(checkpoint, text, recipe, calib_size=SAMPLES, calib_seqlen=LENGTH, **options)


def maxima(folder: Path, config, calibration: Calibration) -> tuple[dict, dict]:
    """Of every smoothed site's channels and of the columns behind them, in the rewritten model."""
    model, seen = rewrite(random_checkpoint(config), calibration), {}
    text = calibration_windows(folder / "text.txt", folder / "tokenizer.json", 0, count=SAMPLES, size=LENGTH)
    with torch.no_grad():
        model(torch.from_numpy(text), observe=seen.__setitem__)
    channels, columns = {}, {}
    for site in smoothed_sites(config):
        _, layer, name = site.split(".")
        weight = model.tensors[f"backbone.layers.{layer}.mixer.{SMOOTHED[config.kind][name]}.weight"]
        channels[site], columns[site] = seen[site].abs().amax((0, 1)), weight.abs().amax(0)
    return channels, columns


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=lambda config: config.kind)
def test_alpha_says_where_the_maxima_go(folder, config):
    assert SAMPLES <= BASIS_SAMPLES
    for alpha in (0.0, 0.5, 1.0):
        channels, columns = maxima(folder, config, smoothed(folder, config, alpha))
        for site in channels:
            ratio = channels[site] ** alpha / columns[site] ** (1 - alpha)  # what equation 4 makes even
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


def test_factors_have_mean_one_and_dead_channels_none(folder):
    checkpoint = random_checkpoint(MAMBA2, 0, folder / "tokenizer.json")
    checkpoint.tensors["backbone.layers.0.mixer.out_proj.weight"][:, 3] = 0
    calibration = calibrate(checkpoint, folder / "text.txt", RECIPE, calib_size=SAMPLES, calib_seqlen=LENGTH)
    assert float(calibration.basis["layers.0.out_proj_in"][3]) == 1
    for factors in calibration.basis.values():
        assert abs(float(factors.double().log().mean())) < 1e-6


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2], ids=lambda config: config.kind)
def test_a_saved_calibration_gives_the_same_model(folder, tmp_path, config):
    made = smoothed(folder, config, out_dir=tmp_path / "c")
    read = read_calibration(tmp_path / "c")
    assert (read.digest, read.recipe) == (made.digest, made.recipe)
    assert read.digest == smoothed(folder, config).digest
    assert read.run["rewrites"][1]["name"] == "smooth_channels"
    checkpoint = random_checkpoint(config, 0, folder / "tokenizer.json")
    first, second = (quantize_model(checkpoint, calibration) for calibration in (made, read))
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=lambda config: config.kind)
def test_the_graph_gives_the_reference_s_bits(tmp_path, config):
    model = quantize_model(*calibrated(config, recipe=RECIPE))
    ids = tokens(config, 2, 20)
    expected = tapped(model, ids)
    graph = Graph(model, tmp_path, tuple(site for site in expected if site.startswith("layers.")))
    found = graph.run(ids)
    np.testing.assert_allclose(found["logits"], expected.pop("logits").numpy(), rtol=0, atol=1e-5)
    for site, tensor in expected.items():
        np.testing.assert_array_equal(found[site], tensor.numpy(), err_msg=site)


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2], ids=lambda config: config.kind)
def test_int8_codes_are_those_of_the_rewritten_float_model(config):
    checkpoint, calibration = calibrated(config, recipe=RECIPE)
    model, ids, seen = quantize_model(checkpoint, calibration), tokens(config, 1, 24), {}
    with torch.no_grad():
        rewrite(checkpoint, calibration)(ids, observe=seen.__setitem__)
    codes = tapped(model, ids)
    for name in ("norm_out", "x", "out_proj_in"):
        site = f"layers.0.{name}"
        values = codes[site].float() * model.site_scale(site)
        lost = (values - seen[site]).square().mean() / seen[site].square().mean()
        assert float(lost) < 0.01, name


def test_what_smoothing_cannot_do_is_refused():
    checkpoint, calibration = calibrated(MAMBA1, recipe=RECIPE)
    with pytest.raises(QuambaError, match="smooths int8 activations") as caught:
        quantize_model(checkpoint, calibration, "w4a16")
    assert (caught.value.found, caught.value.code) == ("w4a16 in layer 0", ExitCode.USAGE)
    model = quantize_model(checkpoint, calibration)
    with pytest.raises(QuambaError, match="no smoothed x"):
        with_scan_input(model, calibration, ScanInput("fp32"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda basis: basis.pop("layers.0.norm_out"), "no tensor 'layers.0.norm_out'"),
        (lambda basis: basis.update({"layers.0.norm_outt": torch.ones(1)}), "did you mean"),
        (lambda basis: basis["layers.0.norm_out"].fill_(0), "impossible values"),
        (lambda basis: basis["layers.0.norm_out"].fill_(torch.inf), "impossible values"),
        (lambda basis: basis.update({"layers.0.norm_out": torch.ones(3)}), "wrong shape"),
    ],
)
def test_a_basis_that_is_none_is_refused(tmp_path, change, message):
    _, calibration = calibrated(MAMBA2, recipe=RECIPE)
    change(calibration.basis)
    with pytest.raises(QuambaError, match=message):
        write_calibration(calibration, tmp_path / "c")
    assert not list(tmp_path.iterdir())
