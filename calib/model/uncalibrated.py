"""What stands for a calibration in formats without activation scales: rewrites that need no text."""

from __future__ import annotations

from dataclasses import replace

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import QFormat
from quamba_export.calib.recipes.recipe import Recipe, default_recipe
from quamba_export.runtime.errors import ExitCode, QuambaError


def calibration_for(checkpoint: Checkpoint, widths: QFormat, calibration: Calibration | None) -> Calibration:
    """The calibration given, or for a format that can do without one an empty one.

    Empty: the default recipe's rotations where weights are codes, nothing but fused norms where they are
    floats. Raises QuambaError (exit 2) for int8 activations without a calibration, and for floats with one:
    nothing in it would be used.
    """
    if calibration is None and (widths.block is None or widths.block.activation_bits == 8):
        raise QuambaError(
            f"{widths.name} has int8 activations, whose scales are found on text",
            found="no --calibration",
            allowed="without one: w4a16, w8a16, fp16, fp32",
            fix="quamba-export calibrate CHECKPOINT --data TEXT -o calibration/",
            code=ExitCode.USAGE,
        )
    if calibration is not None and widths.of_floats:
        raise QuambaError(
            f"{widths.name} has nothing to take from a calibration",
            found="--calibration",
            fix="leave it out",
            code=ExitCode.USAGE,
        )
    if calibration is not None:
        return calibration
    recipe = uncalibrated_recipe(checkpoint.config, widths)
    return Calibration(checkpoint.config, checkpoint.digest, recipe, scales={})


def uncalibrated_recipe(config: MambaConfig, widths: QFormat) -> Recipe:
    """What an empty calibration is by."""
    recipe = replace(default_recipe(config), reorder=False, head_groups=1, channel_groups=1)
    if widths.of_floats:
        recipe = replace(recipe, rotate_residual=False, rotate_out_proj=False)
    return recipe
