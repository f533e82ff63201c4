"""A model id on the Hugging Face hub -> a local directory with the files a checkpoint needs."""

from __future__ import annotations

import re
from pathlib import Path

from quamba_export.calib.nearest_path import nearest_path
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DESCRIPTION = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]
SAFETENSORS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


def is_hub_id(source: str) -> bool:
    """Whether the text has the form owner/name."""
    return HUB_ID.fullmatch(source) is not None


def download(hub_id: str) -> Path:
    """The snapshot's directory in the local cache. Pickles are fetched only where there are no safetensors.

    Raises QuambaError (exit code 8) where the hub refuses or cannot be reached and nothing is cached.
    """
    directory = _snapshot(hub_id, DESCRIPTION + SAFETENSORS)
    if any(directory.glob("model*.safetensors")):
        return directory
    return _snapshot(hub_id, DESCRIPTION + PICKLES)


def _snapshot(hub_id: str, patterns: list[str]) -> Path:
    near = nearest_path(Path(hub_id), Path.is_dir)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise QuambaError(
            f"no directory {hub_id}, and for a hub id huggingface_hub is not installed",
            fix=near or f"{install_command('hub')}, or give a directory",
        ) from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # the hub's own errors and whatever its transport raises
        raise QuambaError(
            f"no directory {hub_id}, and the hub gave no checkpoint {hub_id}",
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            allowed="a directory, or the owner/name of a model that this account may read",
            fix=near or "fetch it where there is a network, and give the directory",
            code=ExitCode.REMOTE,
        ) from error
