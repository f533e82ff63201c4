"""Weight files of a checkpoint -> fp32 tensors under mamba-ssm's names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig


def tensor_shapes(config: MambaConfig) -> dict[str, tuple[int, ...]]:
    """Every weight a model of this config has, by mamba-ssm's name, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embedding.weight": (config.vocab_size, config.d_model),
        "backbone.norm_f.weight": (config.d_model,),
    }
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.d_model)
    for index in range(config.n_layer):
        prefix = f"backbone.layers.{index}."
        shapes[prefix + "norm.weight"] = (config.d_model,)
        shapes |= {f"{prefix}mixer.{name}": shape for name, shape in _mixer_shapes(config).items()}
    return shapes


def _mixer_shapes(config: MambaConfig) -> dict[str, tuple[int, ...]]:
    d_inner, d_state, rank, heads = config.d_inner, config.d_state, config.dt_rank, config.n_heads
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (config.d_in_proj, config.d_model),
        "conv1d.weight": (config.conv_dim, 1, config.d_conv),
        "out_proj.weight": (config.d_model, d_inner),
    }
    if config.conv_bias:
        shapes["conv1d.bias"] = (config.conv_dim,)
    if config.proj_bias:
        shapes |= {"in_proj.bias": (config.d_in_proj,), "out_proj.bias": (config.d_model,)}
    if config.kind == "mamba2":
        return shapes | {"A_log": (heads,), "D": (heads,), "dt_bias": (heads,), "norm.weight": (d_inner,)}
    return shapes | {
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "x_proj.weight": (rank + 2 * d_state, d_inner),
        "dt_proj.weight": (d_inner, rank),
        "dt_proj.bias": (d_inner,),
    }


def read_tensors(directory: Path, config: MambaConfig) -> dict[str, Tensor]:
    """fp32 tensors from pytorch_model.bin."""
    stored = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True, mmap=True)
    return {name: stored[name].float().contiguous() for name in tensor_shapes(config)}
