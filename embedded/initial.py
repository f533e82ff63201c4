"""Sizes of the two embedded models and their initial weights.

Initial values follow the published models: A_log = log(1..N) (Mamba-1) or log U(1, 16) a head (Mamba-2),
dt bias such that softplus(bias) is log-uniform in [1e-3, 1e-1], out_proj divided by sqrt(layers).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quamba_export.calib.config import Kind, MambaConfig

_COMMON = {
    "d_model": 160,  # 8 * 20, and d_inner 16 * 20: the Hadamard factor of the published 2.7b and 2.8b
    "n_layer": 6,
    "vocab_size": 1024,
    "d_inner": 320,
    "d_conv": 4,
    "tie_embeddings": True,
    "conv_bias": True,
    "proj_bias": False,
    "norm_epsilon": 1e-5,
}
CONFIGS: dict[Kind, MambaConfig] = {
    "mamba1": MambaConfig(kind="mamba1", d_state=16, dt_rank=10, headdim=0, n_groups=0, **_COMMON),  # type: ignore[arg-type]
    # 2 groups of 5 heads: each can be clustered into 4 head groups, unevenly
    "mamba2": MambaConfig(kind="mamba2", d_state=64, dt_rank=0, headdim=32, n_groups=2, **_COMMON),  # type: ignore[arg-type]
}


def initial_tensors(config: MambaConfig, seed: int) -> dict[str, Tensor]:
    """Canonical name -> fp32 tensor."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "backbone.embedding.weight": torch.empty(config.vocab_size, config.d_model).normal_(
            std=0.02, generator=generator
        ),
        "backbone.norm_f.weight": torch.ones(config.d_model),
    }
    for layer in range(config.n_layer):
        tensors[f"backbone.layers.{layer}.norm.weight"] = torch.ones(config.d_model)
        block = _mamba1(config, generator) if config.kind == "mamba1" else _mamba2(config, generator)
        tensors |= {f"backbone.layers.{layer}.mixer.{name}": tensor for name, tensor in block.items()}
    return tensors


def _mamba1(config: MambaConfig, generator: torch.Generator) -> dict[str, Tensor]:
    inner, state, rank = config.d_inner, config.d_state, config.dt_rank
    return _shared(config, generator) | {
        "x_proj.weight": _uniform((rank + 2 * state, inner), inner, generator),
        "dt_proj.weight": _uniform((inner, rank), rank, generator),
        "dt_proj.bias": _dt_bias(inner, generator),
        "A_log": torch.arange(1, state + 1).float().log().repeat(inner, 1),  # (E, N)
        "D": torch.ones(inner),
    }


def _mamba2(config: MambaConfig, generator: torch.Generator) -> dict[str, Tensor]:
    return _shared(config, generator) | {
        "dt_bias": _dt_bias(config.n_heads, generator),
        "A_log": torch.empty(config.n_heads).uniform_(1, 16, generator=generator).log(),
        "D": torch.ones(config.n_heads),
        "norm.weight": torch.ones(config.d_inner),
    }


def _shared(config: MambaConfig, generator: torch.Generator) -> dict[str, Tensor]:
    out_proj = _uniform((config.d_model, config.d_inner), config.d_inner, generator)
    return {
        "in_proj.weight": _uniform((config.d_in_proj, config.d_model), config.d_model, generator),
        "conv1d.weight": _uniform((config.conv_dim, 1, config.d_conv), config.d_conv, generator),
        "conv1d.bias": _uniform((config.conv_dim,), config.d_conv, generator),
        "out_proj.weight": out_proj / math.sqrt(config.n_layer),
    }


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _dt_bias(size: int, generator: torch.Generator) -> Tensor:
    """b with softplus(b) = dt, dt log-uniform in [1e-3, 1e-1]: the inverse is dt + log(1 - exp(-dt))."""
    dt = torch.empty(size).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
    return dt + torch.log(-torch.expm1(-dt))
