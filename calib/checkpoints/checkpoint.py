"""A checkpoint on disk or on the hub -> one `Checkpoint` record: sizes, fp32 weights, digest, tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from quamba_export.calib.checkpoints.config_json import read_config
from quamba_export.calib.checkpoints.hub import download, is_hub_id
from quamba_export.calib.checkpoints.tensors import read_tensors
from quamba_export.calib.checkpoints.tokenizer import read_eos_token_id, read_tokenizer
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.nearest_path import nearest_path
from quamba_export.calib.output_directory import kind_of
from quamba_export.runtime.errors import QuambaError


@dataclass(frozen=True)
class Checkpoint:
    """A Mamba language model as it was trained.

    tensors: fp32, under mamba-ssm's names, whatever format they were stored in; of a directory each is read
        whenever it is asked for, so that memory holds those in use.
    digest:  sha256 hex over config and tensors; the same model in another format has the same digest.
    """

    path: Path
    config: MambaConfig
    tensors: Mapping[str, Tensor]
    digest: str
    tokenizer_path: Path | None
    eos_token_id: int


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Read a mamba-ssm or Hugging Face directory, or fetch a hub id ('owner/name') and read that.

    Raises QuambaError naming the file, tensor or key that is wrong, what was found and what is allowed.
    """
    path = _directory(source)
    config = read_config(path / "config.json")
    tensors = read_tensors(path, config)
    tokenizer = read_tokenizer(path, config.vocab_size)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        digest=checkpoint_digest(config, tensors),
        tokenizer_path=tokenizer.path if tokenizer else None,
        eos_token_id=read_eos_token_id(path, config.vocab_size, tokenizer),
    )


def _directory(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        _require_checkpoint(path)
        return path
    if not path.exists() and is_hub_id(str(source)):
        return download(str(source))
    raise QuambaError(
        f"no checkpoint at {source}",
        found="a file" if path.exists() else "nothing there",
        allowed="a directory with config.json and weights, or a hub id owner/name",
        fix=f"give its directory, {path.parent}" if path.exists() else nearest_path(path, Path.is_dir),
    )


def _require_checkpoint(folder: Path) -> None:
    """Raise QuambaError for a folder of another kind, or with none of a checkpoint's files."""
    kind = kind_of(folder)
    if kind is None and (folder / "config.json").exists():
        return
    inside = sorted(path.parent for path in folder.glob("*/config.json") if kind_of(path.parent) is None)
    raise QuambaError(
        f"{folder} is no checkpoint",
        found=f"{'an' if kind == 'export' else 'a'} {kind}" if kind else "no config.json in it",
        allowed="a directory with config.json and weights, or a hub id owner/name",
        fix=f"did you mean {' or '.join(map(str, inside[:5]))}?" if inside else "",
    )


def checkpoint_digest(config: MambaConfig, tensors: Mapping[str, Tensor]) -> str:
    """sha256 hex of the config as sorted JSON, then of every tensor's name, shape and fp32 bytes, by name."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
