"""Smoothing: maxima of activations move into the weights behind them (SmoothQuant, arXiv 2211.10438, eq. 4).

Channel k of a projection's input is divided by s_k and column k of the weight multiplied by it,

    s_k = max |x_k|^alpha / max |W_k|^(1 - alpha)

over geometric mean 1: a factor that all channels share changes no code. Where the division goes, exactly:

    in_proj   the weight of the norm in front of it, which fuse_norms left at 1
    out_proj  Mamba-2: the weight of the gated norm. Mamba-1 has none, and nothing passes its gate but what is
              linear in front of it. The scan is, in x: so x is divided as the convolution writes it, in int8
              by the scales of its codes. x_proj, which reads x too, takes the factors into its columns.
    dt_proj   Mamba-1: the rows of x_proj that give its input
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.qformat import QFormat
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.runtime.errors import ExitCode, QuambaError

SMOOTHED = {  # site of an activation -> the projection behind it
    "mamba1": {"norm_out": "in_proj", "dt_low": "dt_proj", "out_proj_in": "out_proj"},
    "mamba2": {"norm_out": "in_proj", "out_proj_in": "out_proj"},
}
SMALLEST = 2.0**-60  # maxima below it are of dead channels, which need no factor


def smoothed_sites(config: MambaConfig) -> dict[str, int]:
    """`layers.{i}.{site}` of every activation that is smoothed -> its channels."""
    widths = {"norm_out": config.d_model, "dt_low": config.dt_rank, "out_proj_in": config.d_inner}
    return {
        f"layers.{i}.{site}": widths[site] for i in range(config.n_layer) for site in SMOOTHED[config.kind]
    }


def smoothing_factors(model: FloatMamba, maxima: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Site -> s (K,) fp32, of maxima (K,) of |x| in every channel, both by `layers.{i}.{site}`."""
    factors = {}
    for site in smoothed_sites(model.config):
        _, layer, name = site.split(".")
        if f"backbone.layers.{layer}.norm.weight" not in model.tensors:  # of a part of the model
            continue
        projection = SMOOTHED[model.config.kind][name]
        weight = model.tensors[f"backbone.layers.{layer}.mixer.{projection}.weight"]  # (M, K)
        columns = weight.double().abs().amax(dim=0).cpu()
        channels = maxima[site].double()
        factor = channels.pow(alpha) / columns.pow(1 - alpha)
        alive = (channels >= SMALLEST) & (columns >= SMALLEST)
        log = torch.where(alive, factor, 1.0).log()
        log -= log[alive].mean() if bool(alive.any()) else 0.0
        factors[site] = torch.where(alive, log.exp(), 1.0).float()
    return factors


def smooth(model: FloatMamba, factors: Mapping[str, Tensor]) -> None:
    """Divide and multiply by `factors`, of smoothed_sites; fuse_norms comes before."""
    for i in range(model.config.n_layer):
        if f"backbone.layers.{i}.norm.weight" not in model.tensors:
            continue
        mixer, site = f"backbone.layers.{i}.mixer", f"layers.{i}"
        norm_out, out_proj_in = factors[f"{site}.norm_out"], factors[f"{site}.out_proj_in"]
        _divide(model, f"backbone.layers.{i}.norm.weight", norm_out)
        _multiply_columns(model, f"{mixer}.in_proj.weight", norm_out)
        _multiply_columns(model, f"{mixer}.out_proj.weight", out_proj_in)
        if model.config.kind == "mamba2":
            _divide(model, f"{mixer}.norm.weight", out_proj_in)
            continue
        dt_low = factors[f"{site}.dt_low"]
        model.tensors[f"{mixer}.x_divisor"] = out_proj_in.to(model.device)
        _multiply_columns(model, f"{mixer}.x_proj.weight", out_proj_in)
        rows = torch.ones(model.config.dt_rank + 2 * model.config.d_state)
        rows[: model.config.dt_rank] = dt_low
        _divide(model, f"{mixer}.x_proj.weight", rows[:, None])
        _multiply_columns(model, f"{mixer}.dt_proj.weight", dt_low)


def check_smoothable(recipe: Recipe, n_layer: int, widths: QFormat) -> None:
    """Refuse (exit 2) blocks whose activations are floats: their ops have no place to divide at."""
    blocks = (widths.block,) if widths.block else recipe.blocks(n_layer) or ()
    floats = [i for i, block in enumerate(blocks) if block.activation_bits != 8]
    if floats:
        raise QuambaError(
            f"recipe {recipe.name} smooths int8 activations",
            found=f"{blocks[floats[0]].name} in layer {floats[0]}",
            allowed="w8a8, w4a8",
            fix="use a recipe without `smoothing`: float activations have no outliers to move",
            code=ExitCode.USAGE,
        )


def _divide(model: FloatMamba, name: str, by: Tensor) -> None:
    weight = model.tensors[name]
    model.tensors[name] = (weight.double() / by.to(weight.device).double()).float()


def _multiply_columns(model: FloatMamba, name: str, by: Tensor) -> None:
    weight = model.tensors[name]
    model.tensors[name] = (weight.double() * by.to(weight.device).double()).float()
