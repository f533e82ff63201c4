"""How fast a token cannot be beaten on a target: predicted from its memory's bandwidth, never measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from quamba_export.exporter.model_sizes import CONFIGS, IntegerForm, token_bytes
from quamba_export.targets.target_file import Target

FORMULA = "predicted TPOT floor [ms] = (weight bytes + 2 x batch x state bytes) / (1e6 x bandwidth [GB/s])"
WORKING_BYTES = 512 << 20  # what TensorRT takes besides, as exporter/tensorrt/memory.py estimates it


@dataclass(frozen=True)
class PredictedFloor:
    """One model size on one target. Predicted: TPOT is this or more, whatever the kernels."""

    size: str  # a name of exporter/model_sizes.py
    qformat: IntegerForm
    weight_bytes: int
    state_bytes: int  # of one sequence
    tpot_ms: float  # one sequence
    batch_tpot_ms: float  # as many sequences as the target's max_batch
    fits: bool  # weights, states of max_batch and TensorRT's own, in the target's memory


def predicted_floors(target: Target) -> list[PredictedFloor]:
    """FORMULA for every published size by width; none for a target without a bandwidth, such as "cpu"."""
    if not target.bandwidth_gb_per_s:
        return []
    return [_floor(size, qformat, target) for qformat in get_args(IntegerForm) for size in CONFIGS]


def _floor(size: str, qformat: IntegerForm, target: Target) -> PredictedFloor:
    config = CONFIGS[size]
    found = token_bytes(config, qformat)
    one, several = (
        (found.weights + 2 * batch * found.state) / (1e6 * target.bandwidth_gb_per_s)
        for batch in (1, target.max_batch)
    )
    embedding = 0 if config.tie_embeddings else 2 * config.vocab_size * config.d_model  # beside the head
    taken = found.weights + embedding + target.max_batch * found.state + WORKING_BYTES
    fits = taken <= 1e9 * target.memory_gb
    return PredictedFloor(size, qformat, found.weights, found.state, one, several, fits)
