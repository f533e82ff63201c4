"""Who takes part in `bench --against`: the PyTorch models of the same weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint, load_checkpoint
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.qformat import qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.speed.bench import Contestant, Ids


def torch_contestants(
    against: str, calibration: Path | None, qformat: str, threads: int
) -> tuple[list[Contestant], str]:
    """The quantized reference and the float model in PyTorch, and transformers' model where it is installed.

    Beside them who is left out and why, "" for nobody.
    """
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(against)
    scales = read_calibration(calibration) if calibration else None
    state = qformat_named(qformat).ssm_state_dtype
    reference = quantize_model(checkpoint, scales, qformat=qformat, ssm_state_dtype=state)
    contestants: list[Contestant] = [
        TorchContestant("PyTorch reference", partial(reference.run, num_logits=1)),
        TorchContestant("PyTorch float", FloatMamba.from_checkpoint(checkpoint)),
    ]
    if importlib.util.find_spec("transformers") is None:
        return contestants, "transformers, which is not installed: pip install transformers"
    return [*contestants, TransformersContestant(transformers_model(checkpoint))], ""


class TorchContestant:
    """A model of calib/: forward(input_ids, states) -> (logits, states)."""

    def __init__(self, name: str, forward: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.name, self.forward, self.states = name, forward, None

    def start(self, input_ids: Ids) -> None:
        self.states = None
        self.step(input_ids)

    def step(self, input_ids: Ids) -> None:
        with torch.inference_mode():
            _, self.states = self.forward(torch.from_numpy(input_ids), self.states)


class TransformersContestant:
    """transformers' implementation of the same architecture, fp32, its cache carried from token to token."""

    def __init__(self, model: Any) -> None:
        self.name, self.model, self.cache = "transformers fp32", model, None

    def start(self, input_ids: Ids) -> None:
        self.cache = None
        self.step(input_ids)

    def step(self, input_ids: Ids) -> None:
        with torch.inference_mode():
            output = self.model(
                torch.from_numpy(input_ids), cache_params=self.cache, use_cache=True, logits_to_keep=1
            )
        self.cache = output.cache_params


def transformers_model(checkpoint: Checkpoint) -> Any:
    """transformers' Mamba or Mamba-2 with the checkpoint's weights, fp32."""
    import transformers

    config = checkpoint.config
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "expand": config.d_inner // config.d_model,
        "use_bias": config.proj_bias,
        "use_conv_bias": config.conv_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "layer_norm_epsilon": config.norm_epsilon,
    }
    model: Any
    if config.kind == "mamba1":
        model = transformers.MambaForCausalLM(
            transformers.MambaConfig(**fields, time_step_rank=config.dt_rank)
        )
    else:
        fields |= {"num_heads": config.n_heads, "head_dim": config.headdim, "n_groups": config.n_groups}
        fields["time_step_limit"] = list(config.time_step_limit)
        model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**fields))
    weights = {
        name.replace("backbone.embedding.", "backbone.embeddings."): t
        for name, t in checkpoint.tensors.items()
    }
    if config.tie_embeddings:
        weights["lm_head.weight"] = weights["backbone.embeddings.weight"]
    model.load_state_dict(weights)
    model.train(False)
    return model
