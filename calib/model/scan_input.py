"""What the scan gets for its input x: int8 codes, or in studies something else (docs/scales.md).

Two paths leave the convolution: x_proj (Mamba-1) always gets the int8 codes, the scan what the mode says.
`s1` is the site's scale, `s2 = s1 * factor`; where a layer has piecewise scales, each has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from quamba_export.calib.model.backend import Backend, V
from quamba_export.calib.model.qformat import BlockWidths
from quamba_export.calib.model.state_dtype import SsmStateDtype, has_row_scales
from quamba_export.plugins.common.quantization import INT8_MAX
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from quamba_export.calib.calibration import Calibration
    from quamba_export.calib.model.quantized_model import QuantizedModel
    from quamba_export.calib.recipes.recipe import Recipe

InputMode = Literal["int8", "fp32", "simulated-int8", "dual-scale", "uniform-scale", "w4a5-se"]
MODES: tuple[InputMode, ...] = get_args(InputMode)
STUDY_FACTOR = 2025.0  # of the Quamba study: a placeholder, which rounds outliers below 1012 s1 to 0
_LARGEST_CODE = {"fp32": 0, "simulated-int8": 127, "dual-scale": 127, "w4a5-se": 7}
_BITS = {"int8": 8, "fp32": 32, "simulated-int8": 8, "dual-scale": 9, "uniform-scale": 8, "w4a5-se": 5}
SCALED = ("dual-scale", "uniform-scale", "w4a5-se")


@dataclass(frozen=True)
class ScanInput:
    """The mode, and the factor between its two scales.

    int8:           codes with the site's scale: the product.
    fp32:           the convolution's result, unquantized: the upper bound of accuracy.
    simulated-int8: fp32 that holds round(x / s1) s1; equals int8 bit for bit.
    dual-scale:     codes on s1, and on s2 where s1 would clip: 8 bits and a flag.
    uniform-scale:  every code times s1 * factor.
    w4a5-se:        dual scale with int4 codes: 4 bits and a flag.
    factor:         None is auto: the largest |x| of the calibration over 127 s1 (over 7 s1 for int4 codes).
    """

    mode: InputMode = "int8"
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.factor is None:
            return
        if self.mode not in SCALED:
            raise QuambaError(
                f"--ssm-input {self.mode} has one scale",
                found=f"--scale-factor {self.factor:g}",
                allowed=f"with {', '.join(SCALED)}",
                code=ExitCode.USAGE,
            )
        if not 2.0**-20 <= self.factor <= 2.0**20:
            raise QuambaError(
                "--scale-factor is out of range",
                found=f"{self.factor:g}",
                allowed="a number from 2^-20 to 2^20, or auto",
                code=ExitCode.USAGE,
            )

    @property
    def is_float(self) -> bool:
        """Whether the scan's x is fp32."""
        return self.mode in _LARGEST_CODE

    @property
    def largest_code(self) -> int:
        """Of ScanInputCausalConv1d."""
        return _LARGEST_CODE[self.mode]

    @property
    def bits(self) -> int:
        """Of one value of x between convolution and scan, on the hardware that the mode stands for."""
        return _BITS[self.mode]

    def factors(self, scales: Tensor, largest: float) -> Tensor:
        """s2 / s1 of every scale; `largest` is the site's largest |x| in calibration.

        An auto factor is at least 1, but for w4a5-se, whose s1 is for 8 bits.
        """
        if self.mode not in SCALED:
            return torch.ones_like(scales)
        if self.factor is not None:
            return torch.full_like(scales, self.factor)
        reach = INT8_MAX if self.mode == "uniform-scale" else self.largest_code
        return (largest / (reach * scales)).clamp_min(1.0)


def scan_input_named(name: str, factor: str | float | None = None) -> ScanInput:
    """The mode of a flag; `factor` is a number or auto. Raises QuambaError (exit 2) for what is neither."""
    if name not in MODES:
        allowed = ", ".join(MODES)
        raise QuambaError("unknown --ssm-input", found=name, allowed=allowed, code=ExitCode.USAGE)
    if factor is None or factor == "auto":
        return ScanInput(name)
    try:
        number = float(factor)
    except ValueError as error:
        allowed = "a number, or auto"
        raise QuambaError(
            "a scale factor is a number", found=str(factor), allowed=allowed, code=ExitCode.USAGE
        ) from error
    return ScanInput(name, number)


def check_scan_input(
    mode: ScanInput, recipe: Recipe | None, qformat: str, blocks: Sequence[BlockWidths], state: SsmStateDtype
) -> None:
    """Refuse (exit 2) to study what a model of these widths, by this recipe and with this state, has not.

    recipe: None where there is no calibration. Of a smoothed x, with a factor a channel, the studies know
        nothing.
    """
    if mode == ScanInput():
        return
    if all(block.activation_bits != 8 for block in blocks):
        raise QuambaError(
            f"{qformat} has no int8 scan input to study",
            found=f"--ssm-input {mode.mode}",
            allowed="blocks with int8 activations: w8a8, w4a8",
            code=ExitCode.USAGE,
        )
    if recipe is not None and recipe.smoothing is not None:
        raise QuambaError(
            "a study of the scan's input has no smoothed x",
            found=f"--ssm-input {mode.mode}, recipe {recipe.name}",
            allowed="a recipe without `smoothing`",
            code=ExitCode.USAGE,
        )
    if has_row_scales(state):
        raise QuambaError(
            "a study of the scan's input has no dynamic int8 state",
            found=f"--ssm-input {mode.mode} --ssm-state-dtype {state}",
            allowed="float16, float32, int8",
            code=ExitCode.USAGE,
        )


def with_scan_input(
    model: QuantizedModel, calibration: Calibration | None, mode: ScanInput
) -> QuantizedModel:
    """`model`, of int8 scan inputs, with those of `mode`; its weights and other scales are shared.

    Blocks of fp16 activations stay as they are: their scan gets no codes in the first place. Raises
    QuambaError as check_scan_input does.
    """
    if mode == ScanInput():
        return model
    recipe, statistics = (calibration.recipe, calibration.statistics) if calibration else (None, {})
    check_scan_input(mode, recipe, model.qformat, model.blocks, model.ssm_state_dtype)
    tensors, scales = dict(model.tensors), dict(model.scales)
    for i in (i for i, block in enumerate(model.blocks) if block.activation_bits == 8):
        site = f"layers.{i}"
        largest = float(statistics[f"{site}.x"]["absmax"])
        channels = tensors[f"{site}.conv1d.out_scale"].clone()  # (C,): x first, in Mamba-2 then B and C
        inner = slice(0, model.config.d_inner)
        if mode.is_float:
            channels[inner] *= mode.factors(channels[inner], largest)
            tensors[f"{site}.conv1d.outlier_scale"] = channels
        elif model.config.kind == "mamba1":
            scale = torch.tensor(model.scale(f"{site}.x"))
            scales[f"{site}.scan_x"] = float(scale * mode.factors(scale, largest))
        else:
            table = tensors[f"{site}.x_scale"]  # (S,)
            tensors[f"{site}.x_scale"] = table * mode.factors(table, largest)
    return replace(model, tensors=tensors, scales=scales, ssm_input=mode)


def scan_input_conv(net: Backend[V], site: str, mode: ScanInput, x: V, state: V) -> tuple[V, V, V]:
    """x (B, L, C) int8 -> the convolution's codes, its fp32 values (B, L, C) by the mode, next state."""
    parts = ("weight", "x_scale", "weight_scale", "bias", "out_scale", "outlier_scale")
    constants = (net.weight(f"{site}.conv1d.{part}") for part in parts)
    codes, values, state = net.op(
        "ScanInputCausalConv1d", x, state, *constants, largest_code=mode.largest_code
    )
    return codes, values, state
