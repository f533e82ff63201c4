"""ONNX Runtime sessions over an exported graph: for scoring, and with every site as an extra output for comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

States = dict[str, NDArray[Any]]


def open_session(model: bytes | Path, data_folder: Path) -> onnxruntime.InferenceSession:
    """A CPU session; `data_folder` is where a model given as bytes finds its external data."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data_folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def zero_states(table: list[dict[str, Any]], batch: int) -> States:
    """The states before the first token, by their input names; `table` is export.json's."""
    return {entry["past"]: np.zeros((batch, *entry["shape"]), dtype=entry["dtype"]) for entry in table}


class OnnxForward:
    """A call of the exported graph: ids (B, L) and states -> logits (B, L, V) fp32 and states."""

    def __init__(self, model_path: Path, table: list[dict[str, Any]]) -> None:
        self.session = open_session(model_path, model_path.parent)
        self.table = table
        self.ssm_state_dtype = next(entry["dtype"] for entry in table if "ssm" in entry["past"])

    def __call__(
        self, input_ids: NDArray[np.int64], states: States | None
    ) -> tuple[NDArray[np.float32], States]:
        batch, length = input_ids.shape
        states = states or zero_states(self.table, batch)
        feed = {"input_ids": input_ids, "num_logits_to_keep": np.int64(length), **states}
        outputs = ["logits", *(entry["present"] for entry in self.table)]
        logits, *present = self.session.run(outputs, feed)
        return logits, {entry["past"]: state for entry, state in zip(self.table, present, strict=True)}
