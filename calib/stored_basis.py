"""What a calibration holds of a basis that was found on text: of each smoothed site a factor a channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quamba_export.calib.calibration_checks import FIX, Spec, check_specs
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.recipe import Recipe
from quamba_export.calib.smoothing import smoothed_sites
from quamba_export.runtime.errors import QuambaError


def basis_specs(config: MambaConfig, recipe: Recipe) -> dict[str, Spec]:
    """Name -> shape and dtype; empty where the recipe needs no text for its rewrites."""
    if recipe.smoothing is None:
        return {}
    return {site: ((width,), torch.float32) for site, width in smoothed_sites(config).items()}


def check_basis(basis: Mapping[str, Tensor], config: MambaConfig, recipe: Recipe, where: str) -> None:
    """Refuse a basis that the recipe does not lead to, or that is none; `where` names the file."""
    check_specs(basis, basis_specs(config, recipe), config, recipe, where)
    for name, tensor in basis.items():
        if not bool((tensor.isfinite() & (tensor > 0)).all()):
            raise QuambaError(
                f"{where}: '{name}' has impossible values", allowed="finite and > 0 everywhere", fix=FIX
            )
