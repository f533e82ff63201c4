"""Stage `basis` of a calibration: what a recipe's exact rewrites need to know of the text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.data import Tokens
from quamba_export.calib.klt import RESIDUAL, SecondMoments, eigenbasis, rotated_sites
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.rewrites import fuse_norms
from quamba_export.calib.model.smoothing import smoothed_sites, smoothing_factors
from quamba_export.calib.observation import Run, Stage
from quamba_export.calib.observers.observer import LargestOfMaxima
from quamba_export.calib.progress_file import Totals
from quamba_export.calib.recipes.recipe import Recipe

STAGE = "basis"
BASIS_SAMPLES = 128  # samples, the first, that it is found on: any basis is exact, so time decides


@dataclass(frozen=True)
class MomentStage(Stage):
    """Second moments by rotated_sites: those of all layers' norm_out are added up as `residual`."""

    def __call__(self, model: FloatMamba, tokens: Tokens) -> list[Totals]:
        """tokens (n, L) -> the statistics of each sample by site."""
        samples: list[Totals] = [{} for _ in tokens]

        def observe(site: str, values: Tensor) -> None:
            name = RESIDUAL if site.endswith(".norm_out") else site
            if name not in self.observers:
                return
            measure = self.observers[name]
            for sample, value in zip(samples, values, strict=True):
                found = measure.measure(value.T)
                sample[name] = measure.combine(sample[name], found) if name in sample else found

        with torch.inference_mode():
            model(torch.from_numpy(tokens).to(model.device), observe=observe)
        return samples


def basis_samples(recipe: Recipe, calib_size: int) -> int:
    """Samples of the stage: 0 for a recipe whose rewrites need no text."""
    return min(calib_size, BASIS_SAMPLES) if recipe.klt or recipe.smoothing is not None else 0


def find_basis(checkpoint: Checkpoint, recipe: Recipe, run: Run) -> dict[str, Tensor]:
    """The tensors of calib/model/stored_basis.py: of smoothing the factors, of a KLT the rotations."""
    samples = basis_samples(recipe, len(run.tokens))
    if not samples:
        return {}
    model = FloatMamba.from_checkpoint(checkpoint)
    fuse_norms(model)
    if recipe.smoothing is None:
        moments = dict.fromkeys(rotated_sites(model.config), SecondMoments())
        totals = run.observe(MomentStage(STAGE, samples, moments, {}), model)
        return {site: eigenbasis(totals[site]["moments"]) for site in moments}
    observers = dict.fromkeys(smoothed_sites(model.config), LargestOfMaxima())
    totals = run.observe(Stage(STAGE, samples, observers, {}), model)
    maxima = {site: torch.from_numpy(totals[site]["absmax"]) for site in observers}
    return smoothing_factors(model, maxima, recipe.smoothing)
