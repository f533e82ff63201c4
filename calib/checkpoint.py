"""A checkpoint on disk or on the hub -> one `Checkpoint` record: sizes, fp32 weights, digest, tokenizer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from quamba_export.calib.checkpoint_config import read_config
from quamba_export.calib.checkpoint_tensors import read_tensors
from quamba_export.calib.config import MambaConfig
from quamba_export.runtime.errors import QuambaError


@dataclass(frozen=True)
class Checkpoint:
    """A Mamba language model as it was trained.

    tensors: fp32, under mamba-ssm's names, whatever format they were stored in.
    digest:  sha256 hex over config and tensors; the same model in another format has the same digest.
    """

    path: Path
    config: MambaConfig
    tensors: dict[str, Tensor]
    digest: str
    tokenizer_path: Path | None
    eos_token_id: int


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Read a mamba-ssm directory.

    Raises QuambaError naming the file, tensor or key that is wrong.
    """
    path = Path(source)
    if not path.is_dir():
        raise QuambaError(
            f"no checkpoint directory at {path}",
            found="a file" if path.exists() else "nothing",
            allowed="a directory with config.json and weights",
        )
    config = read_config(path / "config.json")
    tensors = read_tensors(path, config)
    tokenizer = path / "tokenizer.json"
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        digest=checkpoint_digest(config, tensors),
        tokenizer_path=tokenizer if tokenizer.is_file() else None,
        eos_token_id=0,
    )


def checkpoint_digest(config: MambaConfig, tensors: dict[str, Tensor]) -> str:
    """sha256 hex of the config as sorted JSON, then of every tensor's name, shape and fp32 bytes, by name."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
