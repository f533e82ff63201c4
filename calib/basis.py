"""Stage `basis` of a calibration: what a recipe's exact rewrites need to know of the text."""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.calib.checkpoint import Checkpoint
from quamba_export.calib.float_model import FloatMamba
from quamba_export.calib.observation import Run, Stage
from quamba_export.calib.observers import LargestOfMaxima
from quamba_export.calib.recipe import Recipe
from quamba_export.calib.rewrites import fuse_norms
from quamba_export.calib.smoothing import smoothed_sites, smoothing_factors

BASIS_SAMPLES = 128  # samples, the first, that it is found on: any basis is exact, so time decides


def basis_samples(recipe: Recipe, calib_size: int) -> int:
    """Samples of the stage: 0 for a recipe whose rewrites need no text."""
    return 0 if recipe.smoothing is None else min(calib_size, BASIS_SAMPLES)


def find_basis(checkpoint: Checkpoint, recipe: Recipe, run: Run) -> dict[str, Tensor]:
    """The tensors of calib/stored_basis.py: of smoothing the factors."""
    if recipe.smoothing is None:
        return {}
    model = FloatMamba.from_checkpoint(checkpoint)
    fuse_norms(model)
    observers = dict.fromkeys(smoothed_sites(model.config), LargestOfMaxima())
    totals = run.observe(Stage("basis", basis_samples(recipe, len(run.tokens)), observers, {}), model)
    maxima = {site: torch.from_numpy(totals[site]["absmax"]) for site in observers}
    return smoothing_factors(model, maxima, recipe.smoothing)
