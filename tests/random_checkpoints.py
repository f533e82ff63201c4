"""Small random models for tests: configs, checkpoints in memory, and both directory formats on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint, checkpoint_digest
from quamba_export.calib.checkpoints.tensors import tensor_shapes
from quamba_export.calib.config import MambaConfig

MAMBA1 = MambaConfig(
    kind="mamba1",
    d_model=32,
    n_layer=2,
    vocab_size=64,
    d_inner=64,
    d_state=16,
    d_conv=4,
    dt_rank=2,
    headdim=0,
    n_groups=0,
    tie_embeddings=True,
    conv_bias=True,
    proj_bias=False,
    norm_epsilon=1e-5,
)
MAMBA2 = replace(MAMBA1, kind="mamba2", d_state=32, dt_rank=0, headdim=16, n_groups=1)
MAMBA2_GROUPS = replace(MAMBA2, d_inner=128, headdim=16, n_groups=2)


def random_checkpoint(config: MambaConfig, seed: int = 0, tokenizer_path: Path | None = None) -> Checkpoint:
    """A checkpoint in memory with weights of trained magnitude (A in [1, N], dt around 0.001 to 0.1)."""
    tensors = random_tensors(config, seed)
    return Checkpoint(
        path=Path("random"),
        config=config,
        tensors=tensors,
        digest=checkpoint_digest(config, tensors),
        tokenizer_path=tokenizer_path,
        eos_token_id=0,
    )


def random_tensors(config: MambaConfig, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in tensor_shapes(config).items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator)
    normal = torch.randn(shape, generator=generator)
    if name.endswith("A_log"):
        return torch.log(1 + 15 * uniform)
    if name.endswith(("dt_bias", "dt_proj.bias")):
        return torch.log(torch.expm1(torch.exp(-6.9 + 4.6 * uniform)))
    if name.endswith(("norm.weight", "norm_f.weight", ".D")):
        return 1 + 0.2 * normal
    if name.endswith("bias"):
        return 0.1 * normal
    if name.endswith("embedding.weight"):
        return 0.5 * normal
    return normal / shape[-1] ** 0.5


def write_mamba_ssm(directory: Path, config: MambaConfig, tensors: dict[str, Tensor]) -> Path:
    """A mamba-ssm directory: config.json and pytorch_model.bin."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(mamba_ssm_config(config), indent=2))
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def mamba_ssm_config(config: MambaConfig) -> dict[str, object]:
    ssm: dict[str, object] = {
        "layer": config.kind.capitalize(),
        "d_state": config.d_state,
        "d_conv": config.d_conv,
        "expand": _expand(config),
        "conv_bias": config.conv_bias,
        "bias": config.proj_bias,
    }
    if config.kind == "mamba2":
        limit = list(config.time_step_limit)
        ssm |= {"headdim": config.headdim, "ngroups": config.n_groups, "dt_limit": limit}
    else:
        ssm |= {"dt_rank": config.dt_rank}
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": ssm,
        "rms_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": config.tie_embeddings,
    }


def _expand(config: MambaConfig) -> int | float:
    factor = config.d_inner / config.d_model
    return int(factor) if factor.is_integer() else factor  # transformers refuses a float


def write_hugging_face(directory: Path, config: MambaConfig, tensors: dict[str, Tensor]) -> Path:
    """A Hugging Face directory: config.json and model.safetensors, embeddings under their name there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hugging_face_config(config), indent=2))
    stored = {hugging_face_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def hugging_face_name(name: str) -> str:
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def hugging_face_config(config: MambaConfig) -> dict[str, object]:
    common: dict[str, object] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "expand": _expand(config),
        "use_bias": config.proj_bias,
        "use_conv_bias": config.conv_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "layer_norm_epsilon": config.norm_epsilon,
        "hidden_act": "silu",
        "eos_token_id": 0,
    }
    if config.kind == "mamba1":
        kind = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
        return common | kind | {"time_step_rank": config.dt_rank, "intermediate_size": config.d_inner}
    kind = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2"}
    return (
        common
        | kind
        | {
            "num_heads": config.n_heads,
            "head_dim": config.headdim,
            "n_groups": config.n_groups,
            "time_step_limit": list(config.time_step_limit),
        }
    )
