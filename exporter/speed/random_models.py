"""Quantized models of published sizes with random codes: what speed, memory and kernels are measured on.

No checkpoint, text or tokenizer is needed, and the codes look like those of a trained model: activations of
about one spread over a third of the int8 range, steps of 0.001 to 0.1, a residual stream that stays small.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import MIXABLE, BlockWidths, qformat_named
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.state_dtype import SsmStateDtype
from quamba_export.exporter.model_sizes import CONFIGS
from quamba_export.plugins.common.int4 import group_sizes
from quamba_export.runtime.errors import ExitCode, QuambaError

ACTIVATION_SCALE = 1 / 32  # of values with a deviation of 1
WEIGHT_DEVIATION = {8: 127 / math.sqrt(3), 4: math.sqrt(255 / 12)}  # of uniform codes, by their bits
RESIDUAL_GAIN = 0.2  # deviation of what a block adds to the stream


def random_model(
    name: str,
    *,
    n_layer: int | None = None,
    qformat: str = "w8a8",
    ssm_state_dtype: SsmStateDtype = "float16",
    seed: int = 0,
) -> QuantizedModel:
    """The quantized model called `name` in CONFIGS, with `n_layer` layers instead of its own where given.

    qformat: one whose weights are codes. Raises QuambaError (exit 2) for an unknown name or width.
    """
    widths = qformat_named(qformat)
    block = widths.block
    if block is None or widths.of_floats or widths.name != block.name:
        raise QuambaError(
            "no random models of these widths",
            found=qformat,
            allowed=", ".join(MIXABLE),
            code=ExitCode.USAGE,
        )
    if name not in CONFIGS:
        raise QuambaError(
            "unknown model size", found=name, allowed=", ".join(sorted(CONFIGS)), code=ExitCode.USAGE
        )
    config = replace(CONFIGS[name], n_layer=n_layer or CONFIGS[name].n_layer)
    draw = _Draw(config, block, np.random.default_rng(seed))
    for i in range(config.n_layer):
        draw.layer(i)
    draw.tensors["embedding.weight"] = draw.normal(config.vocab_size, config.d_model).half()
    head = draw.normal(config.vocab_size, config.d_model) / math.sqrt(config.d_model)
    draw.tensors["lm_head.weight"] = head.half()
    blocks = (block,) * config.n_layer
    return QuantizedModel(
        config, draw.tensors, draw.scales, widths, blocks, ssm_state_dtype, out_hadamard=True
    )


class _Draw:
    """Draws the constants of one layer after the other, by the names calib/model/network.py asks for."""

    def __init__(self, config: MambaConfig, widths: BlockWidths, random: np.random.Generator) -> None:
        self.config, self.widths, self.random = config, widths, random
        self.tensors: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}

    def layer(self, i: int) -> None:
        config, site = self.config, f"layers.{i}"
        mamba1, codes = config.kind == "mamba1", self.widths.activation_bits == 8
        parameters = self._mamba1(site) if mamba1 else self._mamba2()
        self.tensors |= {f"{site}.{name}": values for name, values in parameters.items()}
        if codes:
            sites = ["norm_out", "z", "dt", "out_proj_in"]
            if mamba1:
                sites += ["conv_in", "x", "dt_low", "B", "C"]
                self.scales[f"{site}.ssm_state"] = ACTIVATION_SCALE / 8
                self._round(site, parameters)
            else:
                self._tables(site)
            self.scales.update({f"{site}.{name}": ACTIVATION_SCALE for name in sites})
        self._linear(f"{site}.in_proj", config.d_in_proj, config.d_model)
        self._conv(f"{site}.conv1d", codes)
        self._linear(f"{site}.out_proj", config.d_model, config.d_inner, RESIDUAL_GAIN)

    def _mamba1(self, site: str) -> dict[str, Tensor]:
        config = self.config
        self._linear(f"{site}.x_proj", config.dt_rank + 2 * config.d_state, config.d_inner)
        self._linear(f"{site}.dt_proj", config.d_inner, config.dt_rank, 0.2)
        return {
            "A_log": torch.arange(1, config.d_state + 1).log().expand(config.d_inner, -1).contiguous(),
            "D": torch.ones(config.d_inner),
            "dt_bias": self._step_bias(config.d_inner),
        }

    def _round(self, site: str, parameters: dict[str, Tensor]) -> None:
        for name, values in parameters.items():
            scale = float(values.abs().max() / 127)
            self.tensors[f"{site}.{name}"] = torch.round(values / scale).to(torch.int8)
            self.scales[f"{site}.{name}"] = scale

    def _mamba2(self) -> dict[str, Tensor]:
        config = self.config
        return {
            "A_log": torch.log(1 + 15 * torch.from_numpy(self.random.random(config.n_heads))).float(),
            "D": torch.ones(config.n_heads),
            "dt_bias": self._step_bias(config.n_heads),
            "norm.weight": torch.ones(config.d_inner),
        }

    def _tables(self, site: str) -> None:
        config = self.config
        self.tensors |= {
            f"{site}.x_scale": torch.full((16 * config.n_groups,), ACTIVATION_SCALE),
            f"{site}.B_scale": torch.full((config.n_groups,), ACTIVATION_SCALE),
            f"{site}.C_scale": torch.full((config.n_groups,), ACTIVATION_SCALE),
            f"{site}.state_scale": torch.full((16 * config.n_groups, config.d_state), ACTIVATION_SCALE / 8),
            f"{site}.scale_index": self._scale_index(),
        }

    def _scale_index(self) -> Tensor:
        """Four head groups by four channel groups in each group, as quamba2 forms them: (H, P) int32."""
        config = self.config
        heads, channels = torch.arange(config.n_heads), torch.arange(config.headdim)
        per_group = config.n_heads // config.n_groups
        rows = heads // per_group * 16 + heads % per_group * 4 // per_group * 4  # (H,)
        return (rows[:, None] + channels * 4 // config.headdim).to(torch.int32)

    def _linear(self, name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        """Codes (rows, columns) of its bits; inputs of deviation 1 give outputs of deviation `gain`."""
        bits = self.widths.bits(name)
        scale = gain / (WEIGHT_DEVIATION[bits] * math.sqrt(columns))
        if bits == 4:
            weight = self._bytes(rows, columns // 2)
            weight_scale = torch.full((rows, len(group_sizes(columns))), scale).half()
        else:
            weight, weight_scale = self._codes(rows, columns), torch.full((rows,), scale)
        self.tensors |= {
            f"{name}.weight": weight,
            f"{name}.weight_scale": weight_scale,
            f"{name}.bias": torch.zeros(rows),
            f"{name}.out_scale": torch.full((rows,), ACTIVATION_SCALE),
        }

    def _conv(self, name: str, codes: bool) -> None:
        channels, width = self.config.conv_dim, self.config.d_conv
        if not codes:
            weight = self.normal(channels, width) / math.sqrt(width)
            self.tensors |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(channels)}
            return
        self._linear(name, channels, width)
        self.tensors[f"{name}.x_scale"] = torch.full((channels,), ACTIVATION_SCALE)

    def _step_bias(self, size: int) -> Tensor:
        """Biases whose softplus lies between 0.001 and 0.1."""
        steps = np.exp(self.random.uniform(math.log(0.001), math.log(0.1), size))
        return torch.from_numpy(np.log(np.expm1(steps))).float()

    def _codes(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.integers(-127, 128, shape, dtype=np.int8))

    def _bytes(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.integers(-128, 128, shape, dtype=np.int8))

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.standard_normal(shape, dtype=np.float32))
