"""A random quantized model, its reference and its graph in ONNX Runtime, for tests that compare them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.model.state_dtype import SsmStateDtype
from quamba_export.calib.model.states import States
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.exporter.graph.onnx_export import onnx_from_model, state_table
from quamba_export.exporter.graph.onnx_session import open_session
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

CONFIGS = {
    "mamba1": MAMBA1,
    "mamba1 with biases": replace(MAMBA1, proj_bias=True, tie_embeddings=False, d_conv=3),
    "mamba2": MAMBA2,
    "mamba2 in groups": MAMBA2_GROUPS,
    "mamba2 with dt limits": replace(MAMBA2, time_step_limit=(0.01, 0.1), proj_bias=True, conv_bias=False),
}


def calibrated(
    config: MambaConfig, seed: int = 0, recipe: Recipe | None = None
) -> tuple[Checkpoint, Calibration]:
    """A random checkpoint and a calibration whose scales fit what the model really computes."""
    checkpoint = random_checkpoint(config, seed=seed)
    calibration = random_calibration(config, recipe, digest=checkpoint.digest, seed=seed)
    peaks: dict[str, float] = {}

    def observe(site: str, tensor: torch.Tensor) -> None:
        peaks[site] = max(peaks.get(site, 0.0), float(tensor.abs().max()))

    ids = torch.randint(config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rewrite(checkpoint, calibration)(ids, observe=observe)
    scales = {
        site: torch.full_like(scale, peaks[site] / 127) * (0.75 + 0.25 * scale / scale.max())
        for site, scale in calibration.scales.items()
    }
    return checkpoint, replace(calibration, scales=scales)


def quantized(
    config: MambaConfig, state_dtype: SsmStateDtype = "float16", qformat: str = "w8a8"
) -> QuantizedModel:
    return quantize_model(*calibrated(config), qformat=qformat, ssm_state_dtype=state_dtype)


class Graph:
    """The exported graph in ONNX Runtime; sites of the reference are extra outputs."""

    def __init__(self, model: QuantizedModel, folder: Path, sites: tuple[str, ...] = ()) -> None:
        proto = onnx_from_model(model)
        names = {info.name: info for info in proto.graph.value_info}
        proto.graph.output.extend(names[site] for site in sites)
        onnx.checker.check_model(proto, full_check=True)
        self.session = open_session(proto.SerializeToString(), folder)
        self.table = state_table(model)

    def zeros(self, batch: int) -> dict[str, np.ndarray]:
        return {s["past"]: np.zeros((batch, *s["shape"]), s["dtype"]) for s in self.table}

    def run(
        self, ids: torch.Tensor, states: dict[str, np.ndarray] | None = None, count: int | None = None
    ) -> dict[str, np.ndarray]:
        feed = {"input_ids": ids.numpy(), "num_logits_to_keep": np.array(count or ids.shape[1])}
        feed |= states or self.zeros(ids.shape[0])
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))

    def next_states(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {s["past"]: outputs[s["present"]] for s in self.table}


def tapped(model: QuantizedModel, ids: torch.Tensor, states: States | None = None) -> dict[str, torch.Tensor]:
    """Every site, the logits and the next states of the reference, by the graph's names."""
    sites: dict[str, torch.Tensor] = {}
    logits, after = model.run(ids, states, tap=lambda site, tensor: sites.update({site: tensor}))
    present = {f"present_conv_states.{i}": state for i, state in enumerate(after.conv)}
    present |= {f"present_ssm_states.{i}": state for i, state in enumerate(after.ssm)}
    present |= {f"present_ssm_scales.{i}": scale for i, scale in enumerate(after.row_scales)}
    sites = {site: tensor for site, tensor in sites.items() if not site.endswith(".ssm_state")}
    return sites | present | {"logits": logits}


def tokens(config: MambaConfig, batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))
