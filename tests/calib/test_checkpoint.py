"""Checkpoints that are fine: every format, layout and dtype gives the same model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_checkpoints import (
    MAMBA1,
    MAMBA2_GROUPS,
    hugging_face_name,
    mamba_ssm_config,
    random_checkpoint,
    random_tensors,
    write_hugging_face,
    write_mamba_ssm,
)
from safetensors.torch import save_file

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.runtime.errors import ExitCode, QuambaError

UNTIED = replace(MAMBA2_GROUPS, tie_embeddings=False, proj_bias=True, time_step_limit=(0.001, 0.1))
configs = pytest.mark.parametrize(
    "config", [MAMBA1, MAMBA2_GROUPS, UNTIED], ids=["mamba1", "mamba2", "untied"]
)


@configs
def test_both_formats_give_the_same_checkpoint(config: MambaConfig, tmp_path: Path) -> None:
    wanted = random_checkpoint(config)
    for write in (write_mamba_ssm, write_hugging_face):
        directory = write(tmp_path / write.__name__, config, wanted.tensors)
        found = load_checkpoint(directory)
        assert (found.path, found.config, found.digest) == (directory, config, wanted.digest)
        assert (found.tokenizer_path, found.eos_token_id) == (None, 0)
        assert found.tensors.keys() == wanted.tensors.keys()
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("write", [write_mamba_ssm, write_hugging_face])
def test_every_stored_dtype_becomes_fp32(write, dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in random_tensors(MAMBA1).items()}
    tensors = load_checkpoint(write(tmp_path, MAMBA1, stored)).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(torch.equal(tensors[name], tensor.float()) for name, tensor in stored.items())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_put_together(suffix: str, tmp_path: Path) -> None:
    wanted = random_checkpoint(MAMBA1)
    directory = write_hugging_face(tmp_path, MAMBA1, {})
    (directory / "model.safetensors").unlink()
    stored = {hugging_face_name(name): tensor for name, tensor in wanted.tensors.items()}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for part in range(3):
        names = list(stored)[part::3]
        shard = f"{stem}-0000{part + 1}-of-00003.{suffix}"
        save = save_file if suffix == "safetensors" else torch.save
        save({name: stored[name] for name in names}, directory / shard)
        weight_map |= dict.fromkeys(names, shard)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert load_checkpoint(directory).digest == wanted.digest


def test_a_tied_head_may_be_stored_too(tmp_path: Path) -> None:
    wanted = random_checkpoint(MAMBA1)
    stored = wanted.tensors | {"lm_head.weight": wanted.tensors["backbone.embedding.weight"]}
    found = load_checkpoint(write_mamba_ssm(tmp_path, MAMBA1, stored))
    assert found.digest == wanted.digest
    assert "lm_head.weight" not in found.tensors


def test_a_hugging_face_base_model_has_no_backbone_prefix(tmp_path: Path) -> None:
    wanted = random_checkpoint(MAMBA1)
    directory = write_hugging_face(tmp_path, MAMBA1, wanted.tensors)
    stored = {hugging_face_name(name).removeprefix("backbone."): t for name, t in wanted.tensors.items()}
    save_file(stored, directory / "model.safetensors")
    assert load_checkpoint(directory).digest == wanted.digest


def test_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    wanted = random_checkpoint(MAMBA1)
    directory = write_hugging_face(tmp_path, MAMBA1, wanted.tensors)
    (directory / "pytorch_model.bin").write_bytes(b"not read")
    assert load_checkpoint(str(directory)).digest == wanted.digest


def test_the_vocabulary_is_padded(tmp_path: Path) -> None:
    directory = write_mamba_ssm(tmp_path, MAMBA1, random_tensors(MAMBA1))
    raw = mamba_ssm_config(MAMBA1) | {"vocab_size": 49, "pad_vocab_size_multiple": 16}
    (directory / "config.json").write_text(json.dumps(raw))
    assert load_checkpoint(directory).config.vocab_size == 64


def test_the_digest_follows_every_weight_and_switch() -> None:
    checkpoint = random_checkpoint(MAMBA1)
    other_weights = random_checkpoint(MAMBA1, seed=1)
    other_config = random_checkpoint(replace(MAMBA1, norm_epsilon=1e-6))
    assert len({checkpoint.digest, other_weights.digest, other_config.digest}) == 3
    assert len(checkpoint.digest) == 64


def test_weights_that_change_on_the_disk_are_refused(tmp_path: Path) -> None:
    """They would be others than those of the digest."""
    directory = write_hugging_face(tmp_path, MAMBA1, random_tensors(MAMBA1))
    tensors = load_checkpoint(directory).tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    weights = directory / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\0" * 4096)
    with pytest.raises(QuambaError, match="changed while it was in use") as caught:
        tensors["backbone.embedding.weight"]
    assert caught.value.code == ExitCode.INTEGRITY


def test_shared_models_load(shared_model: Path) -> None:
    checkpoint = load_checkpoint(shared_model)
    assert checkpoint.config.vocab_size == 8192
    assert checkpoint.tokenizer_path == shared_model / "tokenizer.json"
    assert checkpoint.eos_token_id == 0
