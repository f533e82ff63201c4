"""Writes a trained model as the two checkpoint formats the loaders read.

Mamba-2 goes into a mamba-ssm directory (pytorch_model.bin, bf16), Mamba-1 into a Hugging Face directory
(model.safetensors, fp16), both with a tied head, which therefore is absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from quamba_export.calib.config import Kind, MambaConfig

STORED_DTYPE: dict[Kind, torch.dtype] = {"mamba1": torch.float16, "mamba2": torch.bfloat16}


def write_checkpoint(
    config: MambaConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, eos: int, directory: Path
) -> None:
    """tensors: canonical names, any float dtype; cast to the format's stored dtype."""
    directory.mkdir(parents=True, exist_ok=True)
    dtype = STORED_DTYPE[config.kind]
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    tokenizer.save(str(directory / "tokenizer.json"))
    if config.kind == "mamba2":
        _write_json(directory / "config.json", _mamba_ssm_config(config))
        torch.save(stored, directory / "pytorch_model.bin")
        return
    renamed = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in stored.items()}
    _write_json(directory / "config.json", _hugging_face_config(config, eos))
    _write_json(directory / "generation_config.json", {"bos_token_id": eos, "eos_token_id": eos})
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})


def _mamba_ssm_config(config: MambaConfig) -> dict[str, object]:
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "d_intermediate": 0,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": config.d_state,
            "headdim": config.headdim,
            "ngroups": config.n_groups,
        },
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": config.tie_embeddings,
    }


def _hugging_face_config(config: MambaConfig, eos: int) -> dict[str, object]:
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "conv_kernel": config.d_conv,
        "dtype": "float16",
        "expand": config.d_inner // config.d_model,
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "intermediate_size": config.d_inner,
        "layer_norm_epsilon": config.norm_epsilon,
        "num_hidden_layers": config.n_layer,
        "residual_in_fp32": True,
        "state_size": config.d_state,
        "tie_word_embeddings": config.tie_embeddings,
        "time_step_rank": config.dt_rank,
        "use_bias": config.proj_bias,
        "use_conv_bias": config.conv_bias,
        "vocab_size": config.vocab_size,
    }


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
