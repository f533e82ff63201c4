"""Rounded weights as the ops read them and artefacts hold them, and which of them a calibration has.

8 bits: codes (M, K) int8, a scale a row (M,) fp32.
4 bits: codes packed two to a byte (M, K/2) int8, scales of 128 columns of a row (M, ceil(K/128)) fp16; those
        of a larger group are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.rounding.way import Rounding
from quamba_export.calib.rounding.weight_grid import BITS, RoundedWeight, grid_of
from quamba_export.plugins.common.int4 import CHUNK, GROUP, pack_int4
from quamba_export.runtime.errors import QuambaError


def stored(weight: RoundedWeight, bits: int, name: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of the projection `name`, which lie on the ops' grid of `bits`.

    Raises QuambaError as check_columns does.
    """
    if bits == 8:
        return weight.codes, weight.scale[:, 0].contiguous()
    check_columns(weight.codes.shape[1], name)
    firsts = torch.arange(0, weight.codes.shape[1], GROUP, device=weight.scale.device)
    return pack_int4(weight.codes), weight.scale[:, firsts // weight.group].half()


def check_columns(columns: int, name: str) -> None:
    """Raise QuambaError where a row of `columns` int4 codes does not fill whole runs of 16 bytes."""
    if columns % CHUNK:
        raise QuambaError(
            f"{name} does not fit int4's packing",
            found=f"{columns} columns",
            allowed=f"a multiple of {CHUNK}",
            fix="use 8 bits: --qformat w8a8, --weight-bits 8",
        )


def rounded_shapes(config: MambaConfig) -> dict[str, tuple[int, int]]:
    """(M, K) of every projection that a rounding with inputs rounds: `layers.{i}.in_proj`, `.out_proj`."""
    shapes = {"in_proj": (config.d_in_proj, config.d_model), "out_proj": (config.d_model, config.d_inner)}
    return {f"layers.{i}.{name}": shape for i in range(config.n_layer) for name, shape in shapes.items()}


def stored_specs(config: MambaConfig, bits: Sequence[int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name -> shape and dtype of all that `stored` gives for the projections of rounded_shapes.

    bits: of every layer.
    """
    specs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, shape in rounded_shapes(config).items():
        specs |= weight_specs(name, shape, bits[int(name.split(".")[1])])
    return specs


def weight_specs(
    name: str, shape: tuple[int, int], bits: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name -> shape and dtype of codes and scales of one weight (M, K)."""
    rows, columns = shape
    groups = -(-columns // grid_of(bits).columns_a_group(columns))
    scale = ((rows, groups), torch.float16) if bits == 4 else ((rows,), torch.float32)
    return {
        f"{name}.weight": ((rows, columns * bits // 8), torch.int8),
        f"{name}.weight_scale": scale,
    }


def head_specs(config: MambaConfig, rounding: Rounding) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The same of lm_head, where the rounding rounds it while calibrating."""
    bits = rounding.head_bits
    return weight_specs("lm_head", (config.vocab_size, config.d_model), bits) if bits in BITS else {}
