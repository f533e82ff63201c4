"""The tensors that sequences have on the GPU, and the calls of a plan on them.

B batch, L length, V vocabulary (padded).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.cuda import Cuda, DeviceMemory, Graph
from quamba_export.runtime.device_argmax import Argmax
from quamba_export.runtime.engine import Ids
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.tensorrt_plan import Plan

Step = Literal["logits", "greedy"]  # what of a step comes to the host: logits, or the likeliest tokens


class StateMemory:
    """The tensors of B sequences on the device, with the ids and logits of a call and the captured step."""

    def __init__(
        self, cuda: Cuda, table: tuple[StateTensor, ...], batch: int, vocab_size: int, longest: int
    ) -> None:
        """longest: tokens of the longest call."""
        self._cuda, self.table, self.batch = cuda, table, batch
        self.tensors: dict[str, DeviceMemory] = {s.past: cuda.allocate(batch * s.nbytes) for s in table}
        self.host_ids = cuda.pinned((batch * longest,), np.int64)
        self.host_logits = cuda.pinned((batch, 1, vocab_size), np.float32)
        self.host_tokens = cuda.pinned((batch,), np.int64)
        self.ids = cuda.allocate(self.host_ids.nbytes)
        self.logits = cuda.allocate(self.host_logits.nbytes)
        self.chosen: Ids | None = None  # (B,): what the device chose and holds as the next ids
        self.steps: dict[Step, Graph] = {}  # captured

    def clear(self) -> None:
        for memory in self.tensors.values():
            self._cuda.clear(memory)

    def copy(self, other: StateMemory) -> None:
        """Take over the values of states of the same batch."""
        for name, tensor in other.tensors.items():
            self._cuda.copy(self.tensors[name].address, tensor.address, tensor.nbytes)
        self._cuda.synchronize()

    def read(self, name: str) -> NDArray[Any]:
        (state,) = (state for state in self.table if state.past == name)
        array = np.empty((self.batch, *state.shape), state.dtype)
        self._cuda.copy(array.ctypes.data, self.tensors[name].address, array.nbytes)
        self._cuda.synchronize()
        return array

    def write(self, name: str, array: NDArray[Any]) -> None:
        array = np.ascontiguousarray(array)
        self._cuda.copy(self.tensors[name].address, array.ctypes.data, array.nbytes)
        self._cuda.synchronize()

    def bind(self, plan: Plan, length: int) -> None:
        """Bind a plan to this memory for calls of `length` tokens."""
        shapes = {s.past: (self.batch, *s.shape) for s in self.table}
        addresses = {s.past: self.tensors[s.past].address for s in self.table}
        addresses |= {s.present: self.tensors[s.past].address for s in self.table}
        addresses |= {"input_ids": self.ids.address, "logits": self.logits.address}
        plan.bind({"input_ids": (self.batch, length), **shapes}, addresses)

    def take_ids(self, ids: Ids) -> None:
        """Hold ids (B, L) for the next call; the device's are no longer what it chose."""
        self.host_ids.array[: ids.size], self.chosen = ids.ravel(), None

    def queue_ids(self, length: int) -> None:
        self._cuda.copy(self.ids.address, self.host_ids.address, self.batch * length * 8)

    def queue_logits(self) -> None:
        self._cuda.copy(self.host_logits.address, self.logits.address, self.host_logits.nbytes)

    def queue(self, plan: Plan, length: int) -> None:
        """Put a whole call on the stream: ids in, the plan, logits out."""
        self.queue_ids(length)
        plan.queue()
        self.queue_logits()

    def queue_greedy(self, plan: Plan, argmax: Argmax) -> None:
        """Put a step on the stream whose ids are there: the plan, the next ids, and these out."""
        plan.queue()
        argmax(self.logits.address, self.batch, self.host_logits.array.shape[-1], self.ids.address)
        self._cuda.copy(self.host_tokens.address, self.ids.address, self.host_tokens.nbytes)
