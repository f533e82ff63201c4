"""What a calibration holds of a basis that was found on text: factors or rotations.

smoothing  of each site of calib/model/smoothing.py (K,) fp32: what channels are divided by
klt        of each site of calib/klt.py (K, K) fp64: orthonormal columns, x becomes K^T x
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quamba_export.calib.calibration_checks import FIX, Spec, check_specs
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.klt import rotated_sites
from quamba_export.calib.model.smoothing import smoothed_sites
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.runtime.errors import QuambaError

ORTHONORMAL = 1e-9  # how far K^T K may be from 1; rounding in fp64 leaves about K 2^-52


def basis_specs(config: MambaConfig, recipe: Recipe) -> dict[str, Spec]:
    """Name -> shape and dtype; empty where the recipe needs no text for its rewrites."""
    if recipe.smoothing is not None:
        return {site: ((width,), torch.float32) for site, width in smoothed_sites(config).items()}
    rotations = rotated_sites(config) if recipe.klt else {}
    return {site: ((width, width), torch.float64) for site, width in rotations.items()}


def check_basis(basis: Mapping[str, Tensor], config: MambaConfig, recipe: Recipe, where: str) -> None:
    """Refuse a basis that the recipe does not lead to, or that is none; `where` names the file."""
    check_specs(basis, basis_specs(config, recipe), config, recipe, where)
    for name, tensor in basis.items():
        if recipe.klt:
            error = (tensor.T @ tensor - torch.eye(len(tensor), dtype=tensor.dtype)).abs().max()
            right, allowed = bool(error <= ORTHONORMAL), f"orthonormal columns, within {ORTHONORMAL}"
        else:
            right, allowed = bool((tensor.isfinite() & (tensor > 0)).all()), "finite and > 0 everywhere"
        if not right:
            raise QuambaError(f"{where}: '{name}' has impossible values", allowed=allowed, fix=FIX)
