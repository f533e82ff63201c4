"""Checkpoint + calibration -> QuantizedModel: every weight rounded to its codes, every scale put where an
op reads it. The float weights are read a layer at a time: beside the codes, memory holds no more of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.parts import rewritten_parts
from quamba_export.calib.model.qformat import BlockWidths, QFormat, qformat_named
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.smoothing import check_smoothable
from quamba_export.calib.model.state_dtype import SsmStateDtype
from quamba_export.calib.model.tables import FLOATS, stored_table
from quamba_export.calib.model.uncalibrated import calibration_for
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.stored_weight import stored
from quamba_export.calib.rounding.weight_grid import BITS
from quamba_export.plugins.common.quantization import INT8_MAX, SMALLEST_SCALE, quantize
from quamba_export.runtime.errors import ExitCode, QuambaError


def quantize_model(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    qformat: str = "w8a8",
    ssm_state_dtype: SsmStateDtype = "float16",
) -> QuantizedModel:
    """The model of a checkpoint in the widths of `qformat`, on the scales of its calibration.

    calibration: None for a format without int8 activations, whose calibration gives exact rewrites and
        rounded weights only: rewrites that need no text take its place. A format of floats takes none.

    Raises QuambaError for an unknown format, a state that it has not, a calibration that is missing, not
    wanted or made from another checkpoint, and a weight whose columns int4's packing does not fit.
    """
    widths = qformat_named(qformat)
    calibration = calibration_for(checkpoint, widths, calibration)
    blocks = check_form(calibration.recipe, checkpoint.config.n_layer, widths, ssm_state_dtype)
    if calibration.checkpoint_digest != checkpoint.digest:
        raise QuambaError(
            "the calibration was made for another checkpoint",
            found=f"checkpoint {checkpoint.digest[:12]}, calibrated on {calibration.checkpoint_digest[:12]}",
            fix="run `quamba-export calibrate` on this checkpoint",
            code=ExitCode.INTEGRITY,
        )
    recipe = calibration.recipe
    parts = rewritten_parts(checkpoint, recipe, calibration.permutation, calibration.basis)
    tensors = _ends(parts.ends().tensors, calibration, widths)
    scales: dict[str, float] = {}
    for i, block in enumerate(blocks):
        _Layer(i, checkpoint.config, parts.layer(i).tensors, calibration, block).quantize(tensors, scales)
    return QuantizedModel(
        checkpoint.config, tensors, scales, widths, blocks, ssm_state_dtype, recipe.rotate_out_proj
    )


def check_form(
    recipe: Recipe, n_layer: int, widths: QFormat, ssm_state_dtype: SsmStateDtype
) -> tuple[BlockWidths, ...]:
    """Widths of every layer in a format that a calibration by this recipe is for.

    Raises QuambaError (exit 2) for one that it is not for: it says no block's widths, smooths what are
    floats, rounds to other bits; and for an int8 state where activations are floats.
    """
    blocks = _blocks(widths, recipe, n_layer)
    if recipe.smoothing is not None:
        check_smoothable(recipe, n_layer, widths)
    if any(block.activation_bits != 8 for block in blocks) and ssm_state_dtype.startswith("int8"):
        raise QuambaError(
            f"{widths.name} has no int8 scan state",
            found=f"--ssm-state-dtype {ssm_state_dtype}",
            allowed="float16, float32",
            fix="leave --ssm-state-dtype out: float16 is the default",
            code=ExitCode.USAGE,
        )
    _check_rounded(recipe, widths, blocks)
    return blocks


def _blocks(widths: QFormat, recipe: Recipe, n_layer: int) -> tuple[BlockWidths, ...]:
    """Widths of every layer."""
    blocks = (widths.block,) * n_layer if widths.block else recipe.blocks(n_layer)
    if blocks is None:
        raise QuambaError(
            f"recipe {recipe.name} of the calibration says no block's widths",
            found=f"--qformat {widths.name}",
            allowed='a recipe with qformat = "w8a8", and others in [[layers]]',
            fix="calibrate with such a recipe: `quamba-export search` writes one",
            code=ExitCode.USAGE,
        )
    return blocks


def _check_rounded(recipe: Recipe, widths: QFormat, blocks: tuple[BlockWidths, ...]) -> None:
    """Refuse (exit 2) weights that a calibration by the recipe has in other bits than the format wants."""
    rounded = recipe.rounded_bits(len(blocks))
    pairs = zip(rounded or (), blocks, strict=True) if rounded else ()
    for i, (bits, block) in enumerate(pairs):
        if bits != block.weight_bits:
            raise QuambaError(
                f"the calibration has weights that are rounded to {bits} bits",
                found=f"--qformat {widths.name}, {block.weight_bits} bits in layer {i}",
                fix=f"calibrate with --weight-bits {block.weight_bits} (in a sweep: --vary weights.bits="
                f"{block.weight_bits}), or use another --qformat",
                code=ExitCode.USAGE,
            )
    head = recipe.weights.head_bits
    if head != 16 and widths.head_bits not in (head, 16):
        raise QuambaError(
            f"the calibration has an lm_head that is rounded to {head} bits",
            found=f"--lm-head-bits {widths.head_bits}",
            allowed=f"{head}, or 16",
            code=ExitCode.USAGE,
        )


def _ends(source: Mapping[str, Tensor], calibration: Calibration, widths: QFormat) -> dict[str, Tensor]:
    """Embedding and head at their bits; a head that the calibration has rounded is taken from there."""
    clip = bool(calibration.recipe.weights.as_table()["clip"])
    embedding, head = source["backbone.embedding.weight"], source["lm_head.weight"]
    tensors = stored_table("embedding", embedding, widths.embedding_bits, clip=clip)
    if widths.head_bits in BITS and "lm_head.weight" in calibration.weights:
        return tensors | {n: t for n, t in calibration.weights.items() if n.startswith("lm_head.")}
    return tensors | stored_table("lm_head", head, widths.head_bits, clip=clip)


class _Layer:
    """Constants of one layer: reads the float weights and the calibration, writes into tensors and scales."""

    def __init__(
        self,
        i: int,
        config: MambaConfig,
        source: Mapping[str, Tensor],
        calibration: Calibration,
        widths: BlockWidths,
    ) -> None:
        self.site, self.i, self.config, self.calibration = f"layers.{i}", i, config, calibration
        self.widths = widths
        self._source, self._prefix = source, f"backbone.layers.{i}.mixer"

    def parameter(self, name: str) -> Tensor:
        return self._source[f"{self._prefix}.{name}"].float()

    def scale(self, name: str) -> Tensor:
        return self.calibration.scales[f"{self.site}.{name}"]

    def weight_scale(self, weight: Tensor) -> Tensor:
        """Scale of each row (M,); all the same where the recipe wants one a tensor."""
        if self.calibration.recipe.per_channel_weights:
            return absmax_scale(weight, dim=1)
        return absmax_scale(weight).expand(weight.shape[0]).contiguous()

    def quantize(self, tensors: dict[str, Tensor], scales: dict[str, float]) -> None:
        if self.widths.activation_bits == 8:
            self._int8(tensors, scales)
        else:
            self._float(tensors)
        self._linear(tensors, "out_proj", None)

    def _float(self, tensors: dict[str, Tensor]) -> None:
        """Float activations: projections at their bits, everything else fp32."""
        self._linear(tensors, "in_proj", None)
        parameters = ["A_log", "D"]
        if self.config.kind == "mamba1":
            self._linear(tensors, "x_proj", None)
            self._linear(tensors, "dt_proj", None, bias=None)
            tensors[f"{self.site}.dt_bias"] = self.parameter("dt_proj.bias")
        else:
            parameters += ["dt_bias", "norm.weight"]
        tensors.update({f"{self.site}.{name}": self.parameter(name) for name in parameters})
        weight, bias = self._conv_parameters()
        tensors.update({f"{self.site}.conv1d.weight": weight, f"{self.site}.conv1d.bias": bias})

    def _int8(self, tensors: dict[str, Tensor], scales: dict[str, float]) -> None:
        per_tensor = ["norm_out", "z", "dt", "out_proj_in"]
        if self.config.kind == "mamba1":
            per_tensor += ["conv_in", "x", "dt_low", "B", "C", "ssm_state"]
            self._mamba1(tensors, scales)
        else:
            self._mamba2(tensors)
        scales.update({f"{self.site}.{name}": float(self.scale(name)) for name in per_tensor})
        if self.calibration.recipe.smoothing is not None:
            tensors[f"{self.site}.norm_weight"] = self._source[f"backbone.layers.{self.i}.norm.weight"]

    def _mamba1(self, tensors: dict[str, Tensor], scales: dict[str, float]) -> None:
        config = self.config
        inner, state = config.d_inner, config.d_state
        self._linear(tensors, "in_proj", self._rows(("conv_in", inner), ("z", inner)))
        self._linear(tensors, "x_proj", self._rows(("dt_low", config.dt_rank), ("B", state), ("C", state)))
        self._linear(tensors, "dt_proj", self._rows(("dt", inner)), bias=None)
        divisor = self._source.get(f"{self._prefix}.x_divisor", torch.ones(inner))
        self._conv(tensors, self._rows(("conv_in", inner)), self._rows(("x", inner)) * divisor)
        for name, values in (
            ("A_log", self.parameter("A_log")),
            ("D", self.parameter("D")),
            ("dt_bias", self.parameter("dt_proj.bias")),
        ):
            scale = absmax_scale(values)
            tensors[f"{self.site}.{name}"] = quantize(values, scale)
            scales[f"{self.site}.{name}"] = float(scale)

    def _mamba2(self, tensors: dict[str, Tensor]) -> None:
        config, site = self.config, self.site
        shared = config.n_groups * config.d_state
        x_in = (("conv_in_x", config.d_inner), ("conv_in_B", shared), ("conv_in_C", shared))
        rows = self._rows(("z", config.d_inner), *x_in, ("dt", config.n_heads))
        self._linear(tensors, "in_proj", rows)
        x_table, state_table, index = self._piecewise()
        by_group = [self.scale(name).expand(config.n_groups) for name in ("B", "C")]  # (G,)
        per_channel = [scale.repeat_interleave(config.d_state) for scale in by_group]  # (G N,)
        out_scale = torch.cat([x_table[index].flatten(), *per_channel])  # (C,)
        self._conv(tensors, self._rows(*x_in), out_scale)
        for name in ("A_log", "D", "dt_bias", "norm.weight"):
            tensors[f"{site}.{name}"] = self.parameter(name)
        tensors[f"{site}.x_scale"], tensors[f"{site}.state_scale"] = x_table, state_table
        tensors[f"{site}.B_scale"], tensors[f"{site}.C_scale"] = (scale.contiguous() for scale in by_group)
        tensors[f"{site}.scale_index"] = index

    def _piecewise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale tables x (S,) and state (S, N), and the row of each head and channel (H, P) int32."""
        config, x, state = self.config, self.scale("x"), self.scale("ssm_state")
        ranges = self.calibration.ranges(self.i)
        if ranges is None:
            index = torch.zeros(config.n_heads, config.headdim, dtype=torch.int32)
            return x.reshape(1), state.reshape(1, 1).expand(1, config.d_state).contiguous(), index
        return x.flatten(), state.reshape(-1, config.d_state), ranges.index(config.n_heads)

    def _rows(self, *parts: tuple[str, int]) -> Tensor:
        """Per-row scale vector from per-tensor scales of consecutive parts."""
        return torch.cat([self.scale(name).expand(size) for name, size in parts])

    def _linear(
        self, tensors: dict[str, Tensor], name: str, out_scale: Tensor | None, bias: str | None = ""
    ) -> None:
        weight = self.parameter(f"{name}.weight")  # (M, K)
        prefix = f"{self.site}.{name}"
        bits = self.widths.bits(name)
        if bits in FLOATS:
            tensors[f"{prefix}.weight"] = weight.to(FLOATS[bits])
        else:
            codes, scale = self._rounded(name, weight)
            tensors[f"{prefix}.weight"], tensors[f"{prefix}.weight_scale"] = codes, scale
        has_bias = bias is not None and f"{self._prefix}.{name}.bias" in self._source
        tensors[f"{prefix}.bias"] = (
            self.parameter(f"{name}.bias") if has_bias else torch.zeros(weight.shape[0])
        )
        if out_scale is not None:
            tensors[f"{prefix}.out_scale"] = out_scale

    def _rounded(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of a projection: the calibration's, or where it has none the recipe's."""
        calibrated, prefix = self.calibration.weights, f"{self.site}.{name}"
        if f"{prefix}.weight" in calibrated:
            return calibrated[f"{prefix}.weight"], calibrated[f"{prefix}.weight_scale"]
        recipe, bits = self.calibration.recipe, self.widths.bits(name)
        rounding = Nearest() if recipe.weights.uses_inputs else recipe.weights
        return stored(rounding.round(weight, recipe.grid(bits), name=prefix), bits, prefix)

    def _conv_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight (C, W) and bias (C,); zeros where the layer has none."""
        weight = self.parameter("conv1d.weight").squeeze(1)
        return weight, self.parameter("conv1d.bias") if self.config.conv_bias else torch.zeros(len(weight))

    def _conv(self, tensors: dict[str, Tensor], x_scale: Tensor, out_scale: Tensor) -> None:
        weight, bias = self._conv_parameters()
        scale = self.weight_scale(weight)
        prefix = f"{self.site}.conv1d"
        tensors.update(
            {
                f"{prefix}.weight": quantize(weight, scale[:, None]),
                f"{prefix}.weight_scale": scale,
                f"{prefix}.bias": bias,
                f"{prefix}.x_scale": x_scale,
                f"{prefix}.out_scale": out_scale,
            }
        )


def absmax_scale(values: Tensor, dim: int | None = None) -> Tensor:
    """max |values| / 127 in fp32, over everything or over `dim`; where that is below SMALLEST_SCALE the slice
    counts as zeros and gets 1 (its codes are all 0).
    """
    peak = values.abs().max() if dim is None else values.abs().amax(dim)
    scale = (peak / INT8_MAX).float()
    return torch.where(scale >= SMALLEST_SCALE, scale, torch.ones_like(scale))
