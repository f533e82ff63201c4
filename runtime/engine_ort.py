"""The engine on plain ONNX Runtime: one session, states in tensors bound to it (ort_states.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.engine import Engine, Ids, Logits, States, batch_of_states, checked_batch
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.held_files import shown
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.ort_session import (
    Provider,
    check_active,
    execution_providers,
    import_onnxruntime,
    session_options,
)
from quamba_export.runtime.ort_states import OrtStates, StateBuffers
from quamba_export.runtime.vnni_probe import probe_int8_products

REFUSALS = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
)
ONNX_DTYPE = {
    "tensor(int8)": "int8",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
}


class OrtEngine(Engine):
    """`model.onnx` of an export or CPU bundle in ONNX Runtime, on the CPU or in CUDA. Implements `Engine`."""

    def __init__(
        self,
        model_path: Path | str,
        states: tuple[StateTensor, ...],
        vocab_size: int,
        *,
        threads: int = 0,
        provider: Provider = "cpu",
        profile: Path | None = None,
    ) -> None:
        """states: the manifest's table. profile: how the files that record every node's runs are to begin.

        Raises QuambaError where the file does not load or does not fit, or the provider is not to be had.
        """
        self.vocab_size, self.states, self.provider = vocab_size, states, provider
        self.session = open_session(Path(model_path), threads, provider, profile)
        check_graph(self.session, states, vocab_size, Path(model_path).name)

    def zero_states(self, batch: int) -> OrtStates:
        shape = (checked_batch(batch),)
        zeros = {state.past: np.zeros(shape + state.shape, state.dtype) for state in self.states}
        return OrtStates(StateBuffers(zeros, self.provider))

    def load_states(self, arrays: Mapping[str, NDArray[Any]]) -> OrtStates:
        checked_batch(batch_of_states(arrays, self.states))
        return OrtStates(StateBuffers({s.past: arrays[s.past] for s in self.states}, self.provider))

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, OrtStates]:
        if not isinstance(states, OrtStates):
            raise TypeError(f"states of another engine: {type(states).__name__}")
        if input_ids.shape[0] != states.batch:
            raise ValueError(f"{input_ids.shape[0]} sequences of ids for the states of {states.batch}")
        buffers = states.take()
        buffers.bind(self.session, self.states)
        buffers.bind_call(input_ids.shape[1], num_logits, self.vocab_size)
        buffers.run(self.session, input_ids)
        return buffers.take_logits(), OrtStates(buffers)


def open_session(model_path: Path, threads: int, provider: Provider, profile: Path | None) -> Any:
    """A session. Raises QuambaError (exit 3) for a file that ONNX Runtime refuses, with its own words."""
    onnxruntime = import_onnxruntime()
    native = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = tuple(getattr(native, name) for name in REFUSALS)
    options = session_options(threads, wide_products=not probe_int8_products().exact_by_default)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    providers = execution_providers(provider)
    try:
        session = onnxruntime.InferenceSession(
            str(model_path), options, providers=providers, enable_fallback=0
        )
    except refusals as error:
        raise QuambaError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {shown(model_path)}",
            found=str(error).splitlines()[0],
            fix="make it anew with `quamba-export export`, or install a newer onnxruntime",
        ) from error
    check_active(session, provider)
    return session


def check_graph(session: Any, states: tuple[StateTensor, ...], vocab_size: int, name: str) -> None:
    """Compare the graph's inputs and outputs with the state table; None stands for an open dimension.

    Raises QuambaError (exit 3) naming the first tensor that is missing, left over or of another type.
    """
    past = {state.past: (state.dtype, (None, *state.shape)) for state in states}
    present = {state.present: (state.dtype, (None, *state.shape)) for state in states}
    ids, count = ("int64", (None, None)), ("int64", ())
    for kind, found, wanted in (
        ("input", session.get_inputs(), {"input_ids": ids, "num_logits_to_keep": count, **past}),
        ("output", session.get_outputs(), {"logits": ("float32", (None, None, vocab_size)), **present}),
    ):
        tensors = {tensor.name: signature(tensor) for tensor in found}
        for key in (*wanted, *tensors):
            if tensors.get(key) != wanted.get(key):
                raise QuambaError(
                    f"{name} does not fit its manifest: {kind} '{key}'",
                    found=str(tensors.get(key, "no such tensor")),
                    allowed=str(wanted.get(key, "no such tensor")),
                    fix="make the directory anew with `quamba-export export`",
                )


def signature(tensor: Any) -> tuple[str, tuple[int | None, ...]]:
    """Dtype and shape of a graph input or output, symbolic dimensions as None."""
    dims = tuple(dim if isinstance(dim, int) else None for dim in tensor.shape)
    return ONNX_DTYPE.get(tensor.type, tensor.type), dims
