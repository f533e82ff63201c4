"""Calibrations with random scales for tests: no text and no model needed."""

from __future__ import annotations

import numpy as np
import torch

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.calibration_checks import expected_tensors
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.head_groups import ChannelPermutation, sort_and_cluster
from quamba_export.calib.model.stored_basis import basis_specs
from quamba_export.calib.recipes.recipe import Recipe, default_recipe
from quamba_export.calib.sites import GroupRanges


def random_calibration(
    config: MambaConfig, recipe: Recipe | None = None, *, digest: str = "0" * 64, seed: int = 0
) -> Calibration:
    """Scales between 0.01 and 0.1 for every site; a random reorder where the recipe has one."""
    recipe = recipe or default_recipe(config)
    generator = torch.Generator().manual_seed(seed)
    expected = expected_tensors(config, recipe)
    scales = {
        name: 0.01 + 0.09 * torch.rand(shape, generator=generator)
        for name, (shape, dtype) in expected.items()
        if dtype == torch.float32
    }
    reorders = random_reorders(config, recipe, seed)
    return Calibration(
        config=config,
        checkpoint_digest=digest,
        recipe=recipe,
        scales=scales,
        head_group_range={i: ranges.head_ends for i, (_, ranges) in reorders.items()},
        dim_group_range={i: ranges.channel_ends for i, (_, ranges) in reorders.items()},
        permutation={i: permutation for i, (permutation, _) in reorders.items()},
        basis=random_basis(config, recipe, seed),
    )


def random_basis(config: MambaConfig, recipe: Recipe, seed: int = 0) -> dict[str, torch.Tensor]:
    """Factors between 1/4 and 4, or rotations; empty where the recipe needs no text."""
    generator, basis = torch.Generator().manual_seed(seed), {}
    for name, (shape, dtype) in basis_specs(config, recipe).items():
        values = torch.rand(shape, generator=generator, dtype=dtype)
        basis[name] = torch.linalg.qr(values).Q if recipe.klt else 4 ** (2 * values - 1)
    return basis


def random_reorders(
    config: MambaConfig, recipe: Recipe, seed: int = 0
) -> dict[int, tuple[ChannelPermutation, GroupRanges]]:
    """Layer -> reorder by random magnitudes; empty where the recipe forms no groups."""
    groups = recipe.groups(config)
    if groups is None:
        return {}
    random = np.random.default_rng(seed)
    magnitudes = random.lognormal(size=(config.n_layer, config.n_heads, config.headdim))
    return {i: sort_and_cluster(magnitudes[i], config.n_groups, *groups) for i in range(config.n_layer)}
