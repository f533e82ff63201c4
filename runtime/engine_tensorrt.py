"""The engine on TensorRT: one plan for prefill, one for single tokens, states updated in place on the GPU.

Both plans read one copy of the weights, which they take as inputs. A state's input and output are the same
memory, so nothing of a state is copied or allocated in a run. A decode step (ids to the device, the plan,
logits to pinned host memory) is captured in a CUDA graph the second time that it runs with the same states,
and launched from then on. A greedy one chooses the token on the device, where the next step reads it as its
id: 8 bytes a sequence come to the host, logits never.

B batch, L length, V vocabulary (padded).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.device_argmax import Argmax, argmax_of
from quamba_export.runtime.device_weights import DeviceWeights
from quamba_export.runtime.engine import Engine, Ids, Logits, States, batch_of_states
from quamba_export.runtime.engine_checks import check_contracts, check_machine, tensors_of
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import WEIGHTS
from quamba_export.runtime.held_files import Locate
from quamba_export.runtime.manifest import Manifest, StateTensor
from quamba_export.runtime.sampling import likeliest
from quamba_export.runtime.state_memory import StateMemory, Step
from quamba_export.runtime.tensorrt_library import import_tensorrt, is_lean, load_plugins, plugin_functions
from quamba_export.runtime.tensorrt_plan import Plan

DECODE, PREFILL, PLUGINS = "decode.engine", "prefill.engine", "libquamba_plugins.so"
WHOLE = 64  # tokens of a whole chunk of Mamba-2's scan: prompts cut there leave the states of the uncut one


class TrtStates(States):
    """States in device memory. `memory` is None once a run has consumed them."""

    def __init__(self, memory: StateMemory, engine: TrtEngine) -> None:
        self.batch, self._engine = memory.batch, engine
        self._memory: StateMemory | None = memory

    def __del__(self) -> None:
        if self._memory is not None:
            self._engine.keep_spare(self._memory)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._current().read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._current().tensors)

    def __len__(self) -> int:
        return len(self._current().tensors)

    def fork(self) -> TrtStates:
        return self._engine.copy_states(self._current())

    def take(self) -> StateMemory:
        """The memory, to be written to; these states cannot be used again."""
        memory, self._memory = self._current(), None
        return memory

    def _current(self) -> StateMemory:
        if self._memory is None:
            raise RuntimeError(
                "these states were consumed by Engine.run: use those it returned, or fork() first"
            )
        return self._memory


class TrtEngine(Engine):
    """A bundle's two plans on one GPU; not for use by several threads at once."""

    def __init__(
        self,
        decode: Plan,
        prefill: Plan,
        weights: DeviceWeights,
        cuda: Cuda,
        record: EngineRecord,
        states: tuple[StateTensor, ...],
        vocab_size: int,
        argmax: Argmax,
    ) -> None:
        self.vocab_size, self.states, self.record = vocab_size, states, record
        self._decode, self._prefill, self._weights, self._cuda = decode, prefill, weights, cuda
        self._argmax = argmax
        for plan in (decode, prefill):
            plan.bind({}, weights.addresses)
        self._bound: weakref.ref[StateMemory] | None = None  # whose tensors the decode plan is bound to
        self._spare: StateMemory | None = None  # memory of states that are gone, with its captured step

    def zero_states(self, batch: int) -> TrtStates:
        memory = self._allocate(batch)
        memory.clear()
        return TrtStates(memory, self)

    def load_states(self, arrays: Mapping[str, NDArray[Any]]) -> TrtStates:
        memory = self._allocate(batch_of_states(arrays, self.states))
        for name, array in arrays.items():
            memory.write(name, array)
        return TrtStates(memory, self)

    def copy_states(self, memory: StateMemory) -> TrtStates:
        """States of their own memory with the values of `memory`."""
        twin = self._allocate(memory.batch)
        twin.copy(memory)
        return TrtStates(twin, self)

    def keep_spare(self, memory: StateMemory) -> None:
        """Keep the memory of states that are gone for the next ones of this batch: capturing takes long."""
        self._spare = memory

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, TrtStates]:
        """See `Engine.run`; each of several logits is what a prompt that ends at its token gives.

        The plans give one position's logits: each of the others costs a call, of at most WHOLE tokens.
        """
        memory, length = taken(states, input_ids), input_ids.shape[1]
        if num_logits == 1:
            return self._advance(memory, input_ids), TrtStates(memory, self)
        longest, twin, logits = self.record.prefill_length, self._allocate(memory.batch), []
        read = 0  # tokens that `memory` has seen
        for end in range(length - num_logits + 1, length + 1):
            whole = end - 1 - (end - 1) % longest % WHOLE  # where _advance cuts, and behind whole chunks
            if whole > read:
                self._advance(memory, input_ids[:, read:whole])
                read = whole
            reader = memory
            if end < length:
                reader = twin
                twin.copy(memory)
            logits.append(self._advance(reader, input_ids[:, read:end]))
        self.keep_spare(twin)
        return np.concatenate(logits, axis=1), TrtStates(memory, self)

    def next_tokens(self, input_ids: Ids, states: States) -> tuple[Ids, States]:
        """See `Engine.next_tokens`; several tokens are fed by `run`, whose logits come to the host."""
        if input_ids.shape[1] > 1:
            return super().next_tokens(input_ids, states)
        memory = taken(states, input_ids)
        if memory.chosen is None or not np.array_equal(memory.chosen, input_ids[:, 0]):
            memory.take_ids(input_ids)
            memory.queue_ids(1)
        memory.chosen = None  # until the step is over
        self._launch(memory, "greedy", lambda: memory.queue_greedy(self._decode, self._argmax))
        tokens: Ids = memory.host_tokens.array.copy()
        if (tokens < 0).any():  # some logits are not finite: they are fetched to say so
            memory.queue_logits()
            self._cuda.synchronize()
            return likeliest(memory.host_logits.array[:, 0]), TrtStates(memory, self)
        memory.chosen = tokens.copy()
        return tokens, TrtStates(memory, self)

    def _advance(self, memory: StateMemory, ids: Ids) -> Logits:
        """Feed ids (B, L); the logits of the last position (B, 1, V)."""
        if ids.shape[1] == 1:
            self._step(memory, ids)
        else:
            for start in range(0, ids.shape[1], self.record.prefill_length):
                self._chunk(memory, ids[:, start : start + self.record.prefill_length])
        logits: Logits = memory.host_logits.array.copy()
        return logits

    def _chunk(self, memory: StateMemory, ids: Ids) -> None:
        memory.take_ids(ids)
        memory.bind(self._prefill, ids.shape[1])
        memory.queue(self._prefill, ids.shape[1])
        self._cuda.synchronize()

    def _step(self, memory: StateMemory, ids: Ids) -> None:
        memory.take_ids(ids)
        self._launch(memory, "logits", lambda: memory.queue(self._decode, 1))

    def _launch(self, memory: StateMemory, step: Step, queue: Callable[[], None]) -> None:
        """One token: TensorRT wants one plain run after a change of shapes, then a capture is allowed."""
        if step not in memory.steps and self._is_bound(memory) and self._cuda.has_graphs:
            memory.steps[step] = self._cuda.capture(queue)
        if step in memory.steps:
            memory.steps[step].launch()
        else:
            self._bound = None  # until it has run: what is captured is what the plan is bound to
            memory.bind(self._decode, 1)
            queue()
            self._bound = weakref.ref(memory)
        self._cuda.synchronize()

    def _is_bound(self, memory: StateMemory) -> bool:
        return self._bound is not None and self._bound() is memory

    def _allocate(self, batch: int) -> StateMemory:
        if not 1 <= batch <= self.record.max_batch:
            raise QuambaError(
                "wrong batch size for this bundle",
                found=str(batch),
                allowed=f"1 to {self.record.max_batch}",
                fix="`quamba-export build --max-batch` with a larger one",
                code=ExitCode.USAGE,
            )
        spare, self._spare = self._spare, None
        if spare is not None and spare.batch == batch:
            return spare
        del spare  # before the new one is allocated: both may be more than there is
        longest = self.record.prefill_length
        return StateMemory(self._cuda, self.states, batch, self.vocab_size, longest)


def taken(states: States, input_ids: Ids) -> StateMemory:
    """The memory of states that are consumed with input_ids (B, L)."""
    if not isinstance(states, TrtStates):
        raise TypeError(f"states of another engine: {type(states).__name__}")
    if input_ids.shape[0] != states.batch:
        raise ValueError(f"{input_ids.shape[0]} sequences of ids for the states of {states.batch}")
    return states.take()


def open_engine(locate: Locate, manifest: Manifest) -> TrtEngine:
    """The engine of a verified bundle, on the current GPU; locate: where its files are read from.

    Raises QuambaError (exit 5) where the plans were built for another TensorRT, GPU or plugin library.
    """
    if manifest.engine is None:
        raise ValueError("a manifest without an engine record")
    record, cuda = manifest.engine, Cuda()
    trt = import_tensorrt()
    check_machine(record, trt.__version__, cuda.sm, lean=is_lean(trt))
    check_contracts(record, load_plugins(locate(PLUGINS)).contracts)
    return load_engine(locate, record, manifest.states, manifest.vocab_size, cuda)


def load_engine(
    locate: Locate, record: EngineRecord, states: tuple[StateTensor, ...], vocab_size: int, cuda: Cuda
) -> TrtEngine:
    """The engine of plans and weights whose plugins are loaded; locate: where they are read from.

    Raises QuambaError (exit 4) where a plan has other inputs or outputs than record, states and vocab_size
    say, or takes fewer sequences or tokens.
    """
    decode, prefill = (
        Plan(locate(name), cuda, version_compatible=record.version_compatible) for name in (DECODE, PREFILL)
    )
    for plan, longest in ((decode, 1), (prefill, record.prefill_length)):
        plan.check(tensors_of(record, states, vocab_size))
        plan.check_calls(record.max_batch, longest)
    weights = DeviceWeights(locate(WEIGHTS), record.weights, cuda)
    argmax = argmax_of(plugin_functions(), cuda)
    return TrtEngine(decode, prefill, weights, cuda, record, states, vocab_size, argmax)
