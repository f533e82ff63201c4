"""Exact rewrites of the float model: the same function in a basis that quantizes better.

    fuse_norms        RMSNorm's weight goes into the projection behind it
    smooth_channels   maxima of activations go into the weights behind them (calib/model/smoothing.py)
    rotate_klt        a rotation found on text (calib/klt.py), in the same weights and around dt_proj
    rotate_residual   Hadamard over d_model in embedding, in_proj, out_proj and lm_head
    reorder_channels  heads and channels of Mamba-2 permuted, so that scale groups are contiguous
    rotate_out_proj   online Hadamard over d_inner in front of out_proj, its inverse in the weight

That is also their order. The reorder comes before rotate_out_proj because it permutes what that transform
mixes, and a site is observed in the basis left by all of them. Everything is computed in fp64 and each weight
rounded to fp32 once a rewrite. No weight depends on another layer's: a part of a model (calib/model/parts.py)
is rewritten as the whole one is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.klt import RESIDUAL, fold_klt
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.head_groups import ChannelPermutation
from quamba_export.calib.model.smoothing import smooth
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.plugins.common.hadamard import fold_hadamard, hadamard_factors

EMBEDDING, HEAD, FINAL_NORM = "backbone.embedding.weight", "lm_head.weight", "backbone.norm_f.weight"
PIECE = (
    512  # rows of a weight that are in fp64 at once: more, and the kernel clears fresh pages for every copy
)


@dataclass(frozen=True)
class RewriteReport:
    """What one rewrite did to the model's size and basis.

    values_before, values_after: weights stored; they differ where a tied head had to be untied.
    hadamard_width, hadamard_blocks: the transform; more than one block where the width has no full one.
    """

    name: str
    values_before: int
    values_after: int
    untied_head: bool = False
    hadamard_width: int = 0
    hadamard_blocks: int = 0


def rewrite(checkpoint: Checkpoint, calibration: Calibration) -> FloatMamba:
    """The float model in the basis that `calibration` was observed in; its logits are the checkpoint's."""
    model = FloatMamba.from_checkpoint(checkpoint)
    apply_rewrites(model, calibration.recipe, calibration.permutation, calibration.basis)
    return model


def apply_rewrites(
    model: FloatMamba,
    recipe: Recipe,
    permutation: Mapping[int, ChannelPermutation],
    basis: Mapping[str, Tensor],
) -> list[RewriteReport]:
    """The recipe's rewrites in their order.

    permutation: by layer, empty where nothing is reordered.
    basis:       of calib/model/stored_basis.py, empty where the recipe needs no text.
    """
    reports = [fuse_norms(model)]
    if recipe.smoothing is not None:
        reports.append(smooth_channels(model, basis))
    if recipe.klt:
        reports.append(rotate_klt(model, basis, hadamard=recipe.rotate_residual))
    if recipe.rotate_residual:
        reports.append(rotate_residual(model))
    if permutation:
        reports.append(reorder_channels(model, permutation))
    if recipe.rotate_out_proj:
        reports.append(rotate_out_proj(model))
    return reports


def fuse_norms(model: FloatMamba) -> RewriteReport:
    """Fold every layer's RMSNorm weight into in_proj, and the last one into lm_head, which is untied for it.

    The gated norm of Mamba-2 keeps its weight: its op has one.
    """
    before, tied = _values(model), EMBEDDING in model.tensors and HEAD not in model.tensors
    for layer in layers_of(model).values():
        _fold(model.tensors, f"{layer}.norm.weight", into=f"{layer}.mixer.in_proj.weight")
    if EMBEDDING in model.tensors:
        model.tensors[HEAD] = model.tensors[EMBEDDING] if tied else model.tensors[HEAD]
        _fold(model.tensors, FINAL_NORM, into=HEAD)
    return RewriteReport("fuse_norms", before, _values(model), untied_head=tied)


def smooth_channels(model: FloatMamba, factors: Mapping[str, Tensor]) -> RewriteReport:
    """Divide activations by `factors`, by site, and multiply the columns of the weights behind them."""
    before = _values(model)
    smooth(model, factors)
    return RewriteReport("smooth_channels", before, _values(model))


def rotate_residual(model: FloatMamba) -> RewriteReport:
    """Rotate the residual stream by the orthonormal Hadamard matrix of width d_model.

    Raises ValueError before fuse_norms: an RMSNorm with a weight does not commute with a rotation.
    """
    values = _values(model)
    _rotate_stream(model, fold_hadamard)
    return _rotation_report("rotate_residual", values, model.config.d_model)


def rotate_klt(model: FloatMamba, basis: Mapping[str, Tensor], *, hadamard: bool) -> RewriteReport:
    """Rotate the residual stream by `basis`, and Mamba-1's dt_low by its own; behind that one,
    which no other rewrite turns, goes with `hadamard` a Hadamard matrix.

    Raises ValueError before fuse_norms.
    """
    values, tensors, rank = _values(model), model.tensors, model.config.dt_rank
    _rotate_stream(model, lambda weight: fold_klt(weight, basis[RESIDUAL]))
    for i, layer in layers_of(model).items() if model.config.kind == "mamba1" else ():
        dt_proj, x_proj = f"{layer}.mixer.dt_proj.weight", f"{layer}.mixer.x_proj.weight"
        both = torch.cat([tensors[dt_proj], tensors[x_proj][:rank].T])  # (2 E, R)
        turned = fold_klt(both, basis[f"layers.{i}.dt_low"])
        low = (fold_hadamard(turned) if hadamard else turned).float()
        tensors[dt_proj], rows = low[: model.config.d_inner].clone(), low[model.config.d_inner :].T
        tensors[x_proj] = torch.cat([rows, tensors[x_proj][rank:]])
    return RewriteReport("rotate_klt", values, _values(model))


def reorder_channels(model: FloatMamba, permutation: Mapping[int, ChannelPermutation]) -> RewriteReport:
    """Permute heads and channels of the Mamba-2 layers in `permutation`: no value changes, only places.

    Raises ValueError after rotate_out_proj, whose weight has no channels left to permute.
    """
    if model.out_hadamard:
        raise ValueError("reorder_channels must come before rotate_out_proj")
    values, inner = _values(model), model.config.d_inner
    for i, layer in layers_of(model).items():
        order, prefix = permutation[i], f"{layer}.mixer"
        channels = order.flat()
        dt_row = model.config.d_in_proj - model.config.n_heads
        rows = torch.arange(model.config.d_in_proj)
        rows[:inner], rows[inner : 2 * inner], rows[dt_row:] = (
            channels,
            inner + channels,
            dt_row + order.heads,
        )
        conv = torch.arange(model.config.conv_dim)
        conv[:inner] = channels
        for name, index in (
            *(
                ("in_proj.weight", rows),
                ("in_proj.bias", rows),
                ("conv1d.weight", conv),
                ("conv1d.bias", conv),
            ),
            *(
                ("A_log", order.heads),
                ("D", order.heads),
                ("dt_bias", order.heads),
                ("norm.weight", channels),
            ),
        ):
            if f"{prefix}.{name}" in model.tensors:
                model.tensors[f"{prefix}.{name}"] = model.tensors[f"{prefix}.{name}"][index]
        out_proj = f"{prefix}.out_proj.weight"
        model.tensors[out_proj] = model.tensors[out_proj][:, channels].contiguous()
    return RewriteReport("reorder_channels", values, values)


def rotate_out_proj(model: FloatMamba) -> RewriteReport:
    """Transform out_proj's input online by the Hadamard matrix of width d_inner, and undo it in the weight.

    Raises ValueError where that was done already.
    """
    if model.out_hadamard:
        raise ValueError("rotate_out_proj was applied already")
    values = _values(model)
    for layer in layers_of(model).values():
        weight = f"{layer}.mixer.out_proj.weight"
        model.tensors[weight] = _folded(model.tensors[weight], fold_hadamard)
    model.out_hadamard = True
    return _rotation_report("rotate_out_proj", values, model.config.d_inner)


def _rotate_stream(model: FloatMamba, fold: Callable[[Tensor], Tensor]) -> None:
    """Put the residual stream into the basis that `fold` (out, D) -> (out, D) turns its readers to."""
    tensors = model.tensors
    if (EMBEDDING in tensors and HEAD not in tensors) or any(
        not bool((tensors[name] == 1).all()) for name in _norm_names(model)
    ):
        raise ValueError("a rotation of the residual stream needs fuse_norms first")
    ends = [EMBEDDING, HEAD] if EMBEDDING in tensors else []
    readers = [*ends, *(f"{layer}.mixer.in_proj.weight" for layer in layers_of(model).values())]
    for name in readers:  # rows live in the residual stream
        tensors[name] = _folded(tensors[name], fold)
    for layer in layers_of(model).values():
        weight = f"{layer}.mixer.out_proj.weight"
        tensors[weight] = _folded(tensors[weight].T, fold).T.contiguous()
        bias = f"{layer}.mixer.out_proj.bias"
        if bias in tensors:
            tensors[bias] = fold(tensors[bias]).float()


def _fold(tensors: dict[str, Tensor], norm: str, *, into: str) -> None:
    """weight (out, D) := weight * norm (D,), norm := 1."""
    factors = tensors[norm].double()
    tensors[into] = _folded(tensors[into], lambda rows: rows.double() * factors)
    tensors[norm] = torch.ones_like(tensors[norm])


def _folded(weight: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
    """fold(weight) in fp32, for weight (out, in) and a fold of its rows."""
    folded = torch.empty(weight.shape, device=weight.device)
    for rows, into in zip(weight.split(PIECE), folded.split(PIECE), strict=True):
        into.copy_(fold(rows))
    return folded


def _rotation_report(name: str, values: int, width: int) -> RewriteReport:
    blocks = hadamard_factors(width).blocks
    return RewriteReport(name, values, values, hadamard_width=width, hadamard_blocks=blocks)


def layers_of(model: FloatMamba) -> dict[int, str]:
    """Number -> prefix of the names of every layer that the model, or the part of one, has."""
    names = {i: f"backbone.layers.{i}" for i in range(model.config.n_layer)}
    return {i: name for i, name in names.items() if f"{name}.norm.weight" in model.tensors}


def _norm_names(model: FloatMamba) -> list[str]:
    names = [FINAL_NORM, *(f"{layer}.norm.weight" for layer in layers_of(model).values())]
    return [name for name in names if name in model.tensors]


def _values(model: FloatMamba) -> int:
    return sum(tensor.numel() for tensor in model.tensors.values())
