"""Weight files of a checkpoint directory -> the tensors in them as stored, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quamba_export.calib.json_fields import JsonFields
from quamba_export.runtime.errors import QuambaError

# in the order in which they are looked for, as transformers does
LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a weight file under the name it has there."""

    file: Path
    name: str
    tensor: Tensor


def stored_tensors(directory: Path) -> Iterator[StoredTensor]:
    """Every tensor of the first layout in LAYOUTS that the directory has; shards in name order.

    Raises QuambaError for no weights, a missing shard, or a file that is cut off or no weight file.
    """
    for file in _files(directory):
        stored = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        for name, tensor in stored.items():
            yield StoredTensor(file, name, tensor)


def _files(directory: Path) -> list[Path]:
    for layout in LAYOUTS:
        file = directory / layout
        if file.is_file():
            return _shards(file) if file.suffix == ".json" else [file]
    present = sorted(entry.name for entry in directory.iterdir())
    raise QuambaError(
        f"{directory} has no weights",
        found=", ".join(present[:10]) if present else "an empty directory",
        allowed=" or ".join(LAYOUTS),
    )


def _shards(index: Path) -> list[Path]:
    weight_map = JsonFields.from_file(index).section("weight_map").values
    names = sorted({str(name) for name in weight_map.values()})
    if not names:
        raise QuambaError(
            f"{index}: key 'weight_map' is missing or empty", allowed="{tensor name: shard file}"
        )
    shards = [index.parent / name for name in names]
    for shard, name in zip(shards, names, strict=True):
        if Path(name).name != name or shard.suffix not in (".safetensors", ".bin"):
            raise QuambaError(
                f"{index}: key 'weight_map' names no shard beside it",
                found=name,
                allowed="file names ending in .safetensors or .bin",
            )
        if not shard.is_file():
            raise QuambaError(
                f"{index.parent} lacks the shard {name}",
                found=f"{sum(other.is_file() for other in shards)} of {len(shards)} shards",
                fix="fetch the missing file",
            )
    return shards


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _unreadable(file, str(error)) from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ) as error:  # a cut or hostile pickle may raise anything; torch's advice on it is wrong here
        raise _unreadable(file, f"{type(error).__name__} in torch.load(weights_only=True)") from error
    if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored):
        raise QuambaError(
            f"{file} holds no state dict", found=type(stored).__name__, allowed="a dict of name to tensor"
        )
    for name, tensor in stored.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise QuambaError(
                f"{file}: '{name}' is no dense tensor", found=type(tensor).__name__, allowed="tensors only"
            )
    return stored


def _unreadable(file: Path, reason: str) -> QuambaError:
    return QuambaError(
        f"{file} cannot be read: cut off, damaged, or no weight file",
        found=f"{file.stat().st_size} bytes; {reason}",
        allowed="a safetensors file, or a state dict that torch.save wrote (zip format, tensors only)",
        fix="fetch the file again, or write it anew with safetensors",
    )
