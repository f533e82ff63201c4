"""Records of engines as a bundle's manifest holds them."""

from __future__ import annotations

from typing import Any

from quamba_export.runtime.engine_record import EngineRecord, WeightTensor


def engine_record(weights: tuple[WeightTensor, ...] = (), **fields: Any) -> EngineRecord:
    """Of TensorRT 10.6 on an sm_90, but for what `fields` say."""
    usual = {
        "tensorrt": "10.6.0",
        "version_compatible": False,
        "sm": 90,
        "contracts": "c0ffee",
        "max_batch": 4,
        "prefill_length": 8,
        "cuda": "12.6",
        "device_bytes": 1 << 30,
    }
    return EngineRecord(**{**usual, "weights": weights, **fields})
