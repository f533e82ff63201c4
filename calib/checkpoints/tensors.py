"""Weight files of a checkpoint -> fp32 tensors under mamba-ssm's names, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quamba_export.calib.checkpoints.weight_files import StoredTensor, stored_tensors
from quamba_export.calib.config import MambaConfig
from quamba_export.runtime.errors import ExitCode, QuambaError

STORED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


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


class StoredWeights(Mapping[str, Tensor]):
    """Weights by mamba-ssm's names. The files stay where they are, mapped: `weights[name]` is a new fp32 copy
    of one tensor, and nobody holds the others.

    Reading one raises QuambaError for a wrong shape or dtype, for values that are not finite, and (exit 4)
    for a file that has changed since.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._stored, self._shapes = stored, shapes
        self._finite: set[str] = set()  # names whose values were looked at
        self._files = {file: _stamp(file) for file in {item.file for item in stored.values()}}

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        if _stamp(stored.file) != self._files[stored.file]:
            raise QuambaError(
                f"{stored.file} changed while it was in use",
                fix="run the command again when nobody writes to it",
                code=ExitCode.INTEGRITY,
            )
        tensor = _widened(stored, self._shapes[name])
        if name not in self._finite:
            _check_finite(stored, tensor)
            self._finite.add(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when somebody writes to a file."""
    facts = file.stat()
    return facts.st_mtime_ns, facts.st_size


def read_tensors(directory: Path, config: MambaConfig) -> StoredWeights:
    """The directory's weights, their names checked against the config.

    Raises QuambaError for weights that are missing, unknown or stored twice.
    """
    expected = tensor_shapes(config)
    stored: dict[str, StoredTensor] = {}
    for item in stored_tensors(directory):
        name = canonical_name(item.name)
        if name in stored:
            other = stored[name]
            raise QuambaError(
                f"{item.file}: tensor '{item.name}' is stored twice",
                found=f"also as '{other.name}' in {other.file.name}",
            )
        stored[name] = item
    if config.tie_embeddings and "lm_head.weight" in stored:
        _drop_tied_head(stored)
    _check_names(directory, stored, expected)
    return StoredWeights(stored, expected)


def canonical_name(name: str) -> str:
    """mamba-ssm's name of a tensor: Hugging Face's base model lacks 'backbone.', its embedding has an s."""
    if name.startswith(("layers.", "embeddings.", "embedding.", "norm_f.")):
        name = "backbone." + name
    return name.replace("backbone.embeddings.", "backbone.embedding.")


def _drop_tied_head(stored: dict[str, StoredTensor]) -> None:
    """A tied head may be stored as well (mamba-ssm does), but then it must be the embedding."""
    head, embedding = stored.pop("lm_head.weight"), stored.get("backbone.embedding.weight")
    if embedding is not None and not torch.equal(head.tensor, embedding.tensor):
        raise QuambaError(
            f"{head.file}: tensor 'lm_head.weight' differs from '{embedding.name}'",
            found="config.json ties the two",
            allowed="equal tensors, or tie_embeddings (tie_word_embeddings) false in config.json",
        )


def _check_names(
    directory: Path, stored: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise QuambaError(
            f"{directory} lacks {_count(missing)} that config.json asks for: {_listed(missing)}",
            found=f"{_count(stored)}, {len(expected) - len(missing)} of the {len(expected)} needed",
            fix="fetch the weights again, or correct n_layer and the bias and tie switches in config.json",
        )
    extra = sorted(item.name for name, item in stored.items() if name not in expected)
    if extra:
        raise QuambaError(
            f"{directory} has {_count(extra)} that config.json does not ask for: {_listed(extra)}",
            found=_count(stored),
            allowed=f"{_count(expected)}, as config.json says",
            fix="correct n_layer and the bias and tie switches in config.json",
        )


def _widened(stored: StoredTensor, shape: tuple[int, ...]) -> Tensor:
    """An fp32 copy of the tensor, in memory of its own."""
    where = f"{stored.file}: tensor '{stored.name}'"
    tensor = stored.tensor
    if tuple(tensor.shape) != shape:
        raise QuambaError(
            f"{where} has the wrong shape",
            found=str(tuple(tensor.shape)),
            allowed=f"{shape}, from the sizes in config.json",
        )
    if tensor.dtype not in STORED_DTYPES:
        raise QuambaError(
            f"{where} has the wrong dtype",
            found=str(tensor.dtype).removeprefix("torch."),
            allowed="bfloat16, float16 or float32",
        )
    return tensor.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _check_finite(stored: StoredTensor, tensor: Tensor) -> None:
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = tensor.numel() - int(finite.sum())
        raise QuambaError(
            f"{stored.file}: tensor '{stored.name}' holds NaN or Inf",
            found=f"{bad} of {tensor.numel()} values, the first at {(~finite).nonzero()[0].tolist()}",
            allowed="finite numbers",
        )


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor" + "s" * (len(names) != 1)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
