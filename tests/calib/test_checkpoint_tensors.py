"""Bad weights: every rule has a file that breaks it, and a message that names file and tensor."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2, random_tensors, write_hugging_face, write_mamba_ssm
from refusals import refused
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint

X_PROJ = "backbone.layers.1.mixer.x_proj.weight"


def bad_mamba1(directory: Path, **changes: Tensor | None) -> Path:
    """A mamba-ssm directory whose layer 1 x_proj, or any tensor by its full name, is replaced or dropped."""
    tensors = random_tensors(MAMBA1)
    for name, tensor in changes.items():
        name = {"x_proj": X_PROJ}.get(name, name)
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    return write_mamba_ssm(directory, MAMBA1, tensors)


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with refused(f"no checkpoint at {tmp_path / 'absent'}", "found: nothing", "or a hub id owner/name"):
        load_checkpoint(tmp_path / "absent")
    (tmp_path / "model.bin").touch()
    with refused(
        "no checkpoint at", "found: a file", "allowed: a directory", f"give its directory, {tmp_path}"
    ):
        load_checkpoint(tmp_path / "model.bin")
    (tmp_path / "mamba-kjv").mkdir()
    with refused("found: nothing", f"did you mean {tmp_path / 'mamba-kjv'}?"):
        load_checkpoint(tmp_path / "mamba-kj")


def test_no_weights(tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path)
    (directory / "pytorch_model.bin").rename(directory / "weights.pt")
    with refused(f"{directory} has no weights", "found: config.json, weights.pt", "model.safetensors or"):
        load_checkpoint(directory)


def test_missing_tensors(tmp_path: Path) -> None:
    with refused(f"lacks 1 tensor that config.json asks for: {X_PROJ}", "found: 21 tensors, 21 of the 22"):
        load_checkpoint(bad_mamba1(tmp_path, x_proj=None))


def test_fewer_layers_than_the_config_says(tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"n_layer": 5}))
    with refused(
        "lacks 30 tensors that config.json asks for: backbone.layers.2.", ", ...", "correct n_layer"
    ):
        load_checkpoint(directory)


def test_extra_tensors(tmp_path: Path) -> None:
    extra = {"backbone.layers.2.norm.weight": torch.ones(32)}
    with refused("has 1 tensor that config.json does not ask for: backbone.layers.2.norm.weight"):
        load_checkpoint(bad_mamba1(tmp_path, **extra))


def test_untied_without_a_head(tmp_path: Path) -> None:
    config = replace(MAMBA1, tie_embeddings=False)
    with refused("lacks 1 tensor that config.json asks for: lm_head.weight", "tie switches"):
        load_checkpoint(write_mamba_ssm(tmp_path, config, random_tensors(MAMBA1)))


def test_tied_with_another_head(tmp_path: Path) -> None:
    with refused(
        "tensor 'lm_head.weight' differs from 'backbone.embedding.weight'", "config.json ties the two"
    ):
        load_checkpoint(bad_mamba1(tmp_path, **{"lm_head.weight": torch.zeros(64, 32)}))


def test_biases_that_the_config_denies(tmp_path: Path) -> None:
    tensors = random_tensors(replace(MAMBA2, proj_bias=True))
    with refused("has 4 tensors that config.json does not ask for: backbone.layers.0.mixer.in_proj.bias"):
        load_checkpoint(write_mamba_ssm(tmp_path, MAMBA2, tensors))


@pytest.mark.parametrize("shape", [(34, 63), (64, 34), (34 * 64,), ()])
def test_wrong_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    with refused(
        f"pytorch_model.bin: tensor '{X_PROJ}' has the wrong shape", f"found: {shape}", "allowed: (34, 64)"
    ):
        load_checkpoint(bad_mamba1(tmp_path, x_proj=torch.zeros(shape)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_wrong_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    name = str(dtype).removeprefix("torch.")
    with refused(f"tensor '{X_PROJ}' has the wrong dtype", f"found: {name}", "bfloat16, float16 or float32"):
        load_checkpoint(bad_mamba1(tmp_path, x_proj=torch.zeros(34, 64).to(dtype)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_that_are_not_finite(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    weight = torch.zeros(34, 64, dtype=dtype)
    weight[5, 7] = weight[33, 63] = value
    with refused(f"'{X_PROJ}' holds NaN or Inf", "found: 2 of 2176 values, the first at [5, 7]"):
        load_checkpoint(bad_mamba1(tmp_path, x_proj=weight))


def test_a_name_in_the_error_is_the_stored_one(tmp_path: Path) -> None:
    tensors = random_tensors(MAMBA1) | {"backbone.embedding.weight": torch.zeros(63, 32)}
    with refused("model.safetensors: tensor 'backbone.embeddings.weight' has the wrong shape"):
        load_checkpoint(write_hugging_face(tmp_path, MAMBA1, tensors))


def test_a_tensor_under_two_names(tmp_path: Path) -> None:
    twice = {"backbone.embeddings.weight": torch.zeros(64, 32)}
    with refused(
        "tensor 'backbone.embeddings.weight' is stored twice", "also as 'backbone.embedding.weight'"
    ):
        load_checkpoint(bad_mamba1(tmp_path, **twice))


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("write", [write_mamba_ssm, write_hugging_face])
def test_truncated_file(write, keep: float, tmp_path: Path) -> None:
    directory = write(tmp_path, MAMBA1, random_tensors(MAMBA1))
    file = next(path for path in directory.iterdir() if path.name != "config.json")
    os.truncate(file, int(file.stat().st_size * keep))
    size = file.stat().st_size
    with refused(f"{file} cannot be read: cut off", f"found: {size} bytes", "fix: fetch the file again"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>" * 9, b"version https://git-lfs\n" * 5, b"\xff" * 200]
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_file_that_holds_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path)
    (directory / "pytorch_model.bin").unlink()
    (directory / name).write_bytes(content)
    with refused(f"{name} cannot be read: cut off, damaged, or no weight file"):
        load_checkpoint(directory)


class Payload:
    """Unpickled without weights_only, this would make a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.directory),))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_pickle_does_not_run(save, tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path / "checkpoint")
    save({"weights": Payload(tmp_path / "executed")}, directory / "pytorch_model.bin")
    with refused("pytorch_model.bin cannot be read", "tensors only"):
        load_checkpoint(directory)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [[torch.zeros(2)], torch.zeros(2), {1: torch.zeros(2)}])
def test_a_pickle_that_is_no_state_dict(value: object, tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path)
    torch.save(value, directory / "pytorch_model.bin")
    with refused("pytorch_model.bin holds no state dict", f"found: {type(value).__name__}", "name to tensor"):
        load_checkpoint(directory)


NOT_DENSE = {"nested": {"a": torch.zeros(2)}, "integer": 3, "sparse": torch.eye(2).to_sparse()}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("value", NOT_DENSE.values(), ids=NOT_DENSE)
def test_a_state_dict_with_something_else_in_it(value: object, tmp_path: Path) -> None:
    directory = bad_mamba1(tmp_path)
    torch.save(random_tensors(MAMBA1) | {"model": value}, directory / "pytorch_model.bin")
    with refused("pytorch_model.bin: 'model' is no dense tensor", "allowed: tensors only"):
        load_checkpoint(directory)


def with_index(directory: Path, weight_map: object) -> Path:
    write_hugging_face(directory, MAMBA1, random_tensors(MAMBA1))
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def test_missing_shard(tmp_path: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    with refused("lacks the shard model-00002-of-00002.safetensors", "found: 1 of 2 shards"):
        load_checkpoint(with_index(tmp_path, names))


@pytest.mark.parametrize(
    "weight_map", [{}, {"a": "../model.safetensors"}, {"a": "config.json"}, {"a": 3}, []]
)
def test_bad_index(weight_map: object, tmp_path: Path) -> None:
    with refused("model.safetensors.index.json", "key 'weight_map'"):
        load_checkpoint(with_index(tmp_path, weight_map))
