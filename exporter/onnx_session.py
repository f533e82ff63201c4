"""ONNX Runtime sessions over an exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from quamba_export.runtime.manifest import Manifest, StateTensor

SsmStateDtype = Literal["float16", "float32", "int8"]
States = dict[str, NDArray[Any]]


def open_session(model: bytes | Path, data_folder: Path) -> onnxruntime.InferenceSession:
    """A CPU session; a model given as bytes has its external data in `data_folder`.

    x64quantprecision: exact integer products on x86-64 without VNNI, no effect elsewhere.
    allow_spinning: off, because threads that wait busily take the machine from whoever else scores on it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data_folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ssm_state_dtype(manifest: Manifest) -> SsmStateDtype:
    """How the graph stores the scan state."""
    dtypes = {state.dtype for state in manifest.states if state.past.startswith("past_ssm_states.")}
    return cast(SsmStateDtype, dtypes.pop())


def zero_states(table: Sequence[StateTensor], batch: int) -> States:
    """The states before the first token, by their input names."""
    return {state.past: np.zeros((batch, *state.shape), dtype=state.dtype) for state in table}


class OnnxForward:
    """A call of the exported graph: ids (B, L) and states -> logits (B, L, V) fp32 and states."""

    def __init__(self, model_path: Path, table: Sequence[StateTensor]) -> None:
        self.session = open_session(model_path, model_path.parent)
        self.table = table

    def __call__(
        self, input_ids: NDArray[np.int64], states: States | None
    ) -> tuple[NDArray[np.float32], States]:
        batch, length = input_ids.shape
        states = states or zero_states(self.table, batch)
        feed = {"input_ids": input_ids, "num_logits_to_keep": np.array(length), **states}
        logits, *present = self.session.run(["logits", *(state.present for state in self.table)], feed)
        return logits, {state.past: array for state, array in zip(self.table, present, strict=True)}
