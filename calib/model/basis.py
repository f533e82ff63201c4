"""Stage `basis` of a calibration: what a recipe's exact rewrites need to know of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.klt import RESIDUAL, SecondMoments, eigenbasis, rotated_sites
from quamba_export.calib.model.layer import Observer as LayerObserver
from quamba_export.calib.model.parts import ModelParts
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

    def observer(self, samples: Sequence[Totals]) -> LayerObserver:
        """What adds up a micro-batch's second moments (n, ...) in the totals of its n samples."""

        def observe(site: str, values: Tensor) -> None:
            name = RESIDUAL if site.endswith(".norm_out") else site
            if name in self.observers:
                for sample, value in zip(samples, values, strict=True):
                    sample[name] = self.observers[name].measure(value.T)

        return observe


def basis_samples(recipe: Recipe, calib_size: int) -> int:
    """Samples of the stage: 0 for a recipe whose rewrites need no text."""
    return min(calib_size, BASIS_SAMPLES) if recipe.klt or recipe.smoothing is not None else 0


def find_basis(checkpoint: Checkpoint, recipe: Recipe, run: Run, device: torch.device) -> dict[str, Tensor]:
    """The tensors of calib/model/stored_basis.py: of smoothing the factors, of a KLT the rotations."""
    samples = basis_samples(recipe, len(run.tokens))
    if not samples:
        return {}
    parts, config = ModelParts(checkpoint, device, lambda part: [fuse_norms(part)]), checkpoint.config
    if recipe.smoothing is None:
        moments = dict.fromkeys(rotated_sites(config), SecondMoments())
        totals = run.observe(MomentStage(STAGE, samples, moments, {}), parts)
        return {site: eigenbasis(totals[site]["moments"]) for site in moments}
    observers = dict.fromkeys(smoothed_sites(config), LargestOfMaxima())
    totals = run.observe(Stage(STAGE, samples, observers, {}), parts)
    maxima = {site: torch.from_numpy(totals[site]["absmax"]) for site in observers}
    factors: dict[str, Tensor] = {}
    for i in range(config.n_layer):
        factors |= smoothing_factors(parts.layer(i), maxima, recipe.smoothing)
    return factors
