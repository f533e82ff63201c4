"""States of the ONNX Runtime engine: two sets of tensors that take turns, on the device that computes.

A run reads one set and writes the other (IO binding), so a decode step copies and allocates no state. ONNX
Runtime does not promise that an input may share memory with an output, hence two sets, not one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.engine import Ids, Logits, States
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.ort_session import Provider, import_onnxruntime


class OrtStates(States):
    """States in the memory of the provider. `buffers` is None once a run has consumed them."""

    def __init__(self, buffers: StateBuffers) -> None:
        self.batch = buffers.batch
        self._buffers: StateBuffers | None = buffers

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = self._current().front[name].numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._current().front)

    def __len__(self) -> int:
        return len(self._current().front)

    def fork(self) -> OrtStates:
        return OrtStates(StateBuffers(dict(self.items()), self._current().provider))

    def take(self) -> StateBuffers:
        """The buffers, to be written to; these states cannot be used again."""
        buffers, self._buffers = self._current(), None
        return buffers

    def _current(self) -> StateBuffers:
        if self._buffers is None:
            raise RuntimeError(
                "these states were consumed by Engine.run: use those it returned, or fork() first"
            )
        return self._buffers


class StateBuffers:
    """Two sets of state tensors, the arrays of a call, and the two bindings that join them to a session.

    On a CPU all are bound once and again only when a call's shape changes: binding costs 5 to 9 us a tensor.
    With CUDA the inputs are bound for every run: ONNX Runtime moves an input to where its reader was placed
    when it is bound, not when it is run. A state that is read on the GPU is there already.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], provider: Provider) -> None:
        """Copies the arrays (B, ...)."""
        self.provider, self._make = provider, import_onnxruntime().OrtValue
        self.front: dict[str, Any] = {
            name: self._make.ortvalue_from_numpy(np.array(array, order="C"), provider, 0)
            for name, array in arrays.items()
        }
        self.back: dict[str, Any] = {}
        self.batch = next(iter(arrays.values())).shape[0]
        self.bindings: list[Any] = []  # [0] reads front and writes back, [1] the other way
        self.ids = np.empty((self.batch, 0), dtype=np.int64)  # (B, L)
        self.logits = np.empty((self.batch, 0, 0), dtype=np.float32)  # (B, num_logits, V)
        self.count = np.array(0, dtype=np.int64)

    def bind(self, session: Any, table: tuple[StateTensor, ...]) -> None:
        """Make the second set and the bindings, at the first run."""
        if self.bindings:
            return
        for state in table:
            shape = (self.batch, *state.shape)
            dtype = np.dtype(state.dtype).type
            self.back[state.past] = self._make.ortvalue_from_shape_and_type(shape, dtype, self.provider, 0)
        self.bindings = [
            bind_states(session, table, self.front, self.back),
            bind_states(session, table, self.back, self.front),
        ]

    def bind_call(self, length: int, num_logits: int, vocab_size: int) -> None:
        """Make arrays for a call of this shape, unless the last one had it."""
        if self.ids.shape[1] == length and self.logits.shape[1] == num_logits:
            return
        self.ids = np.empty((self.batch, length), dtype=np.int64)
        self.logits = np.empty((self.batch, num_logits, vocab_size), dtype=np.float32)
        self.count = np.array(num_logits, dtype=np.int64)
        for binding in self.bindings:
            self.bind_arrays(binding)
            bind_array(binding.bind_output, "logits", self.logits)

    def bind_arrays(self, binding: Any) -> None:
        bind_array(binding.bind_input, "input_ids", self.ids)
        bind_array(binding.bind_input, "num_logits_to_keep", self.count)

    def run(self, session: Any, input_ids: Ids) -> None:
        """Run the bound call on these ids (B, L), then make what it wrote the current states."""
        self.ids[:] = input_ids
        binding = self.bindings[0]
        if self.provider != "cpu":
            self.bind_arrays(binding)
            for name, tensor in self.front.items():
                binding.bind_ortvalue_input(name, tensor)
        session.run_with_iobinding(binding)
        self.front, self.back = self.back, self.front
        self.bindings.reverse()

    def take_logits(self) -> Logits:
        """The logits of the last run, the caller's own: one position is copied, more are given away."""
        if self.logits.shape[1] == 1:
            return self.logits.copy()
        logits, self.logits = self.logits, np.empty((self.batch, 0, 0), dtype=np.float32)
        return logits


def bind_array(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Bind a graph input or output to an array's memory; whoever binds keeps the array alive."""
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def bind_states(
    session: Any, table: tuple[StateTensor, ...], source: dict[str, Any], target: dict[str, Any]
) -> Any:
    binding = session.io_binding()
    for state in table:
        binding.bind_ortvalue_input(state.past, source[state.past])
        binding.bind_ortvalue_output(state.present, target[state.past])
    return binding
