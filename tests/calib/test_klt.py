"""The rotation from the data: what it makes of second moments, its conventions, the artefact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_graph import calibrated
from random_checkpoints import MAMBA1, MAMBA2, random_checkpoint

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.calibration import Calibration, read_calibration, write_calibration
from quamba_export.calib.data import calibration_windows
from quamba_export.calib.klt import RESIDUAL, eigenbasis
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.runtime.errors import QuambaError

SAMPLES, LENGTH = 6, 12
RECIPE = load_recipe("klt")
RANKED = dataclasses.replace(MAMBA1, dt_rank=4)


def rotated(folder: Path, config, recipe=RECIPE, **options) -> Calibration:
    checkpoint = random_checkpoint(config, 0, folder / "tokenizer.json")
    return calibrate(
        checkpoint, folder / "text.txt", recipe, calib_size=SAMPLES, calib_seqlen=LENGTH, **options
    )


def second_moments(folder: Path, config, calibration: Calibration) -> dict[str, torch.Tensor]:
    """Of norm_out over all layers, and of every dt_low, in the rewritten model."""
    model, seen = rewrite(random_checkpoint(config), calibration), {}
    text = calibration_windows(folder / "text.txt", folder / "tokenizer.json", 0, count=SAMPLES, size=LENGTH)
    with torch.no_grad():
        model(torch.from_numpy(text), observe=seen.__setitem__)
    values = {site: value.double().flatten(0, 1) for site, value in seen.items()}
    moments = {site: value.T @ value for site, value in values.items() if site.endswith(".dt_low")}
    stream = torch.cat([value for site, value in values.items() if site.endswith(".norm_out")])
    return moments | {RESIDUAL: stream.T @ stream}


@pytest.mark.parametrize("config", [RANKED, MAMBA2], ids=lambda config: config.kind)
def test_all_channels_get_the_same_mean_square(folder, config):
    moments = second_moments(folder, config, rotated(folder, config))
    assert len(moments) == (config.n_layer if config.kind == "mamba1" else 0) + 1
    for site, moment in moments.items():
        mean = moment.diagonal().mean()
        torch.testing.assert_close(
            moment.diagonal() / mean, torch.ones(len(moment)).double(), rtol=1e-4, atol=0
        )
        assert float((moment - mean * torch.eye(len(moment))).abs().max()) > 0.01 * mean, (
            site
        )  # H mixed again


def test_without_the_hadamard_transform_channels_are_uncorrelated_and_fall(folder):
    calibration = rotated(folder, RANKED, dataclasses.replace(RECIPE, rotate_residual=False))
    for moment in second_moments(folder, RANKED, calibration).values():
        largest = moment.diagonal().max()
        assert float((moment - moment.diagonal().diag()).abs().max()) < 1e-5 * largest
        assert bool((moment.diagonal().diff() <= 1e-6 * largest).all())


def test_order_and_signs_are_fixed():
    random = np.random.default_rng(0)
    values = random.normal(size=(200, 36)) * np.arange(1, 37)  # 9 Hadamard blocks of 4
    moments = values.T @ values
    basis = eigenbasis(moments)
    torch.testing.assert_close(basis.T @ basis, torch.eye(36).double(), rtol=0, atol=1e-12)
    assert bool((basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all())
    eigenvalues = (basis.T @ torch.from_numpy(moments) @ basis).diagonal()
    ranks = eigenvalues.argsort(descending=True).argsort()
    assert ranks.reshape(9, 4).tolist() == [[i, i + 9, i + 18, i + 27] for i in range(9)]


@pytest.mark.parametrize("config", [RANKED, MAMBA2], ids=lambda config: config.kind)
def test_a_saved_calibration_gives_the_same_model(folder, tmp_path, config):
    made = rotated(folder, config, out_dir=tmp_path / "c")
    read = read_calibration(tmp_path / "c")
    assert read.basis[RESIDUAL].dtype == torch.float64
    assert read.digest == made.digest == rotated(folder, config).digest
    checkpoint = random_checkpoint(config, 0, folder / "tokenizer.json")
    first, second = (quantize_model(checkpoint, calibration) for calibration in (made, read))
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("fault", [0.0, 1e-6, torch.nan])
def test_what_is_no_rotation_is_refused(tmp_path, fault):
    _, calibration = calibrated(MAMBA2, recipe=RECIPE)
    write_calibration(calibration, tmp_path / "c")
    calibration.basis[RESIDUAL][0] += fault or -calibration.basis[RESIDUAL][0]
    with pytest.raises(QuambaError, match="'residual' has impossible values") as caught:
        write_calibration(calibration, tmp_path / "d")
    assert caught.value.allowed == "orthonormal columns, within 1e-09"
