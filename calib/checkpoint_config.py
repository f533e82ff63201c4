"""config.json of a checkpoint -> MambaConfig."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from quamba_export.calib.config import MambaConfig
from quamba_export.runtime.errors import QuambaError


def read_config(path: Path) -> MambaConfig:
    """Sizes and switches from a mamba-ssm config.json, with mamba-ssm's defaults."""
    if not path.is_file():
        raise QuambaError(f"{path} is missing", allowed="a mamba-ssm or Hugging Face config.json")
    return _from_mamba_ssm(json.loads(path.read_text()))


def _from_mamba_ssm(raw: dict[str, Any]) -> MambaConfig:
    ssm = raw.get("ssm_cfg", {})
    mamba2 = ssm.get("layer", "Mamba1") == "Mamba2"
    d_model, multiple = raw["d_model"], raw.get("pad_vocab_size_multiple", 8)
    dt_rank = ssm.get("dt_rank", "auto")
    return MambaConfig(
        kind="mamba2" if mamba2 else "mamba1",
        d_model=d_model,
        n_layer=raw["n_layer"],
        vocab_size=math.ceil(raw["vocab_size"] / multiple) * multiple,
        d_inner=int(d_model * ssm.get("expand", 2)),
        d_state=ssm.get("d_state", 128 if mamba2 else 16),
        d_conv=ssm.get("d_conv", 4),
        dt_rank=0 if mamba2 else math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank,
        headdim=ssm.get("headdim", 64) if mamba2 else 0,
        n_groups=ssm.get("ngroups", 1) if mamba2 else 0,
        tie_embeddings=raw.get("tie_embeddings", True),
        conv_bias=ssm.get("conv_bias", True),
        proj_bias=ssm.get("bias", False),
        norm_epsilon=1e-5,
    )
