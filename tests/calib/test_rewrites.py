import dataclasses
import os
from pathlib import Path

import pytest
import torch
from random_calibrations import random_calibration, random_reorders
from random_checkpoints import MAMBA1, MAMBA2, random_checkpoint

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.rewrites import (
    apply_rewrites,
    fuse_norms,
    reorder_channels,
    rewrite,
    rotate_out_proj,
    rotate_residual,
)
from quamba_export.calib.recipes.recipe import load_recipe

CONFIGS = {
    "mamba1": MAMBA1,
    "mamba1-untied-bias": dataclasses.replace(MAMBA1, tie_embeddings=False, proj_bias=True, conv_bias=False),
    "mamba1-odd": dataclasses.replace(MAMBA1, d_model=36, d_inner=44),  # no full Hadamard matrix
    "mamba2-g1": MAMBA2,
    "mamba2-g2-bias": dataclasses.replace(MAMBA2, n_groups=2, d_inner=128, proj_bias=True),
    "mamba2-g8": dataclasses.replace(MAMBA2, n_groups=8, d_inner=256, tie_embeddings=False),
    "mamba2-odd": dataclasses.replace(MAMBA2, d_model=36, d_inner=60, headdim=3, d_state=8, n_groups=2),
}


@pytest.fixture(params=CONFIGS)
def checkpoint(request):
    return random_checkpoint(CONFIGS[request.param])


def reorders(config):
    recipe = load_recipe("quamba2")
    return {i: permutation for i, (permutation, _) in random_reorders(config, recipe).items()}


def assert_same_logits(checkpoint, model, length=21):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(checkpoint.config.vocab_size, (2, length), generator=generator)
    with torch.no_grad():
        expected, _ = FloatMamba.from_checkpoint(checkpoint)(ids)
        found, _ = model(ids)
        head, states = model(ids[:, :-2])
        tail, _ = model(ids[:, -2:], states)  # the carried state is in the new basis too
    bound = 1e-4 * max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= bound
    assert float((torch.cat([head, tail], dim=1) - expected).abs().max()) <= bound


def test_fused_norms_leave_the_logits(checkpoint):
    model = FloatMamba.from_checkpoint(checkpoint)
    report = fuse_norms(model)
    assert_same_logits(checkpoint, model)
    assert report.untied_head == checkpoint.config.tie_embeddings
    head = checkpoint.config.vocab_size * checkpoint.config.d_model
    assert report.values_after - report.values_before == (head if report.untied_head else 0)


@pytest.mark.parametrize("hadamard", [False, True], ids=["smoothed", "smoothed-and-rotated"])
def test_smoothed_channels_leave_the_logits(checkpoint, hadamard):
    recipe = dataclasses.replace(load_recipe("smoothquant"), rotate_out_proj=hadamard)
    model = rewrite(checkpoint, random_calibration(checkpoint.config, recipe))
    assert_same_logits(checkpoint, model)
    assert not bool((model.tensors["backbone.layers.0.norm.weight"] == 1).any())


@pytest.mark.parametrize("hadamard", [False, True], ids=["klt", "klt-and-hadamard"])
def test_a_rotation_from_the_data_leaves_the_logits(checkpoint, hadamard):
    recipe = dataclasses.replace(load_recipe("klt"), rotate_residual=hadamard)
    calibration = random_calibration(checkpoint.config, recipe)
    model = rewrite(checkpoint, calibration)
    assert_same_logits(checkpoint, model)
    names = ["rotate_klt", "rotate_residual"] if hadamard else ["rotate_klt"]
    reports = apply_rewrites(FloatMamba.from_checkpoint(checkpoint), recipe, {}, calibration.basis)
    assert [report.name for report in reports] == ["fuse_norms", *names, "rotate_out_proj"]


def test_rotated_residual_leaves_the_logits(checkpoint):
    model = FloatMamba.from_checkpoint(checkpoint)
    fuse_norms(model)
    report = rotate_residual(model)
    assert_same_logits(checkpoint, model)
    width = checkpoint.config.d_model
    assert (report.hadamard_width, report.hadamard_blocks) == (width, 9 if width == 36 else 1)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("mamba2")])
def test_reordered_channels_leave_the_logits(name):
    checkpoint = random_checkpoint(CONFIGS[name])
    model = FloatMamba.from_checkpoint(checkpoint)
    reorder_channels(model, reorders(checkpoint.config))
    assert_same_logits(checkpoint, model)


def test_rotated_out_proj_leaves_the_logits(checkpoint):
    model = FloatMamba.from_checkpoint(checkpoint)
    report = rotate_out_proj(model)
    assert model.out_hadamard
    assert_same_logits(checkpoint, model)
    blocks = {44: 11, 60: 15}.get(checkpoint.config.d_inner, 1)
    assert report.hadamard_blocks == blocks


def test_all_rewrites_of_a_recipe_leave_the_logits_and_the_checkpoint(checkpoint):
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    model = rewrite(checkpoint, random_calibration(checkpoint.config))
    assert model.out_hadamard
    assert_same_logits(checkpoint, model)
    assert before.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(before[name], checkpoint.tensors[name]) for name in before)


def test_sites_are_permuted_with_the_channels():
    checkpoint = random_checkpoint(CONFIGS["mamba2-g2-bias"])
    model, permutation = FloatMamba.from_checkpoint(checkpoint), reorders(checkpoint.config)
    reorder_channels(model, permutation)
    ids = torch.arange(12)[None]
    sites = [{}, {}]
    FloatMamba.from_checkpoint(checkpoint)(ids, observe=lambda site, value: sites[0].update({site: value}))
    model(ids, observe=lambda site, value: sites[1].update({site: value}))
    order = permutation[0]
    for site in ("z", "conv_in_x", "out_proj_in"):
        expected = sites[0][f"layers.0.{site}"][..., order.flat()]
        torch.testing.assert_close(sites[1][f"layers.0.{site}"], expected)
    state = sites[0]["layers.0.ssm_state"].flatten(1, 2)[:, order.flat()]
    torch.testing.assert_close(sites[1]["layers.0.ssm_state"].flatten(1, 2), state)
    torch.testing.assert_close(sites[1]["layers.0.dt"], sites[0]["layers.0.dt"][..., order.heads])


def test_wrong_order_is_refused():
    model = FloatMamba.from_checkpoint(random_checkpoint(MAMBA2))
    with pytest.raises(ValueError, match="needs fuse_norms first"):
        rotate_residual(model)
    rotate_out_proj(model)
    with pytest.raises(ValueError, match="applied already"):
        rotate_out_proj(model)
    with pytest.raises(ValueError, match="must come before rotate_out_proj"):
        reorder_channels(model, reorders(MAMBA2))


def test_a_recipe_without_rewrites_only_fuses_the_norms():
    checkpoint = random_checkpoint(MAMBA2)
    plain = dataclasses.replace(load_recipe("quamba"), rotate_residual=False, rotate_out_proj=False)
    model = FloatMamba.from_checkpoint(checkpoint)
    assert [report.name for report in apply_rewrites(model, plain, {}, {})] == ["fuse_norms"]
    assert not model.out_hadamard


@pytest.mark.skipif("QUAMBA_TEST_MODELS" not in os.environ, reason="QUAMBA_TEST_MODELS names no checkpoints")
@pytest.mark.parametrize("name", ["mamba1-docs-18m", "mamba2-docs-19m", "mamba2-docs-21m-g8"])
def test_shared_models_keep_their_logits(name):
    checkpoint = load_checkpoint(Path(os.environ["QUAMBA_TEST_MODELS"]) / name)
    model = FloatMamba.from_checkpoint(checkpoint)
    recipe = load_recipe("quamba" if checkpoint.config.kind == "mamba1" else "quamba2")
    steps = [fuse_norms, rotate_residual, rotate_out_proj]
    if recipe.reorder:
        steps.insert(2, lambda model: reorder_channels(model, reorders(checkpoint.config)))
    for step in steps:
        step(model)
        assert_same_logits(checkpoint, model, length=70)
