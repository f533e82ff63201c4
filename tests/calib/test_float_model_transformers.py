"""Logits equal to transformers' implementation, with weights that both read from the same directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2, random_tensors, write_hugging_face

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.layer import rms_norm

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)


def mamba2(groups: int, headdim: int, heads: int, **changes: object) -> MambaConfig:
    return replace(
        MAMBA2,
        n_groups=groups,
        headdim=headdim,
        d_inner=headdim * heads,
        d_model=headdim * heads // 2,
        **changes,
    )


CASES = {
    "mamba1-tied": MAMBA1,
    "mamba1-untied": replace(MAMBA1, tie_embeddings=False),
    "mamba1-biases": replace(MAMBA1, proj_bias=True, dt_rank=5, d_state=8, norm_epsilon=1e-3),
    "mamba1-no-conv-bias-width-2": replace(MAMBA1, conv_bias=False, d_conv=2),
    "mamba2-g1-p16-tied": mamba2(1, 16, 4),
    "mamba2-g1-p128-untied": mamba2(1, 128, 2, tie_embeddings=False, d_state=64),
    "mamba2-g2-p32-untied": mamba2(2, 32, 4, tie_embeddings=False),
    "mamba2-g2-p64-biases": mamba2(2, 64, 2, proj_bias=True, norm_epsilon=1e-3),
    "mamba2-g8-p16-tied": mamba2(8, 16, 8),
    "mamba2-g8-p32-untied": mamba2(8, 32, 16, tie_embeddings=False, d_state=16),
    "mamba2-g2-dt-limits": mamba2(2, 16, 4, time_step_limit=(0.01, 0.05)),
    "mamba2-g1-no-conv-bias-width-3": mamba2(1, 16, 4, conv_bias=False, d_conv=3),
}


def assert_same_logits(directory: Path, hugging_face: torch.nn.Module, tokens: torch.Tensor) -> None:
    ours = FloatMamba.from_checkpoint(load_checkpoint(directory))
    with torch.no_grad():
        wanted = hugging_face(tokens).logits.float()
        found, _ = ours(tokens)
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() <= 1e-4 * max(1.0, wanted.abs().max().item())


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_logits_are_those_of_transformers(config: MambaConfig, tmp_path: Path) -> None:
    write_hugging_face(tmp_path, config, random_tensors(config))
    hugging_face = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for length in (1, 7, 65, 131):
        assert_same_logits(tmp_path, hugging_face, torch.randint(config.vocab_size, (2, length)))


@pytest.mark.parametrize(
    "config", [CASES["mamba1-untied"], CASES["mamba2-g2-p32-untied"]], ids=["mamba1", "mamba2"]
)
def test_a_directory_that_transformers_wrote_in_shards(config: MambaConfig, tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "one", config, random_tensors(config))
    hugging_face = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "one", dtype=torch.float32
    ).eval()
    hugging_face.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert load_checkpoint(tmp_path / "shards").digest == load_checkpoint(tmp_path / "one").digest
    assert_same_logits(tmp_path / "shards", hugging_face, torch.randint(config.vocab_size, (1, 20)))


def test_the_gated_norm_is_per_group() -> None:
    """transformers normalizes each group of d_inner / n_groups channels by itself, as mamba-ssm does."""
    from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

    y, z, weight = torch.randn(2, 3, 64), torch.randn(2, 3, 64), torch.rand(64)
    theirs = MambaRMSNormGated(64, group_size=16, eps=1e-5)
    theirs.weight.data = weight
    ours = rms_norm(y * torch.nn.functional.silu(z), weight, 1e-5, groups=4)
    torch.testing.assert_close(ours, theirs(y, z))
    by_hand = y[0, 0, 16:32] * torch.nn.functional.silu(z[0, 0, 16:32])
    by_hand = by_hand / torch.sqrt(by_hand.square().mean() + 1e-5) * weight[16:32]
    torch.testing.assert_close(ours[0, 0, 16:32], by_hand)


def test_shared_models_match_transformers(shared_model: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(shared_model)
    write_hugging_face(tmp_path, checkpoint.config, checkpoint.tensors)
    hugging_face = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert_same_logits(shared_model, hugging_face, torch.randint(checkpoint.config.vocab_size, (1, 99)))
