"""ONNX Runtime over an exported graph whose intermediate tensors are wanted as outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.ort_session import session_options
from quamba_export.runtime.vnni_probe import probe_int8_products

States = dict[str, NDArray[Any]]


def open_session(model: bytes | Path, data_folder: Path) -> onnxruntime.InferenceSession:
    """A session with the engine's options; a model given as bytes has its external data in `data_folder`."""
    options = session_options(threads=0, wide_products=not probe_int8_products().exact_by_default)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data_folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def zero_states(table: Sequence[StateTensor], batch: int) -> States:
    """The states before the first token, by their input names."""
    return {state.past: np.zeros((batch, *state.shape), dtype=state.dtype) for state in table}
