"""CUDA's runtime API on host memory, as far as runtime/cuda.py calls it, and a plan that runs there.

What is queued runs at once, unless the stream is being captured: then it runs at every launch of the graph.
Freed memory is poisoned, and counted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_recurrent import NumpyEngine, V, state_table

from quamba_export.runtime.device_argmax import Argmax

Work = Callable[[], object]


class FakeCuda:
    """Stands for the module cuda.bindings.runtime."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major",
        cudaDevAttrComputeCapabilityMinor="minor",
        cudaDevAttrIntegrated="integrated",
    )

    def __init__(self, sm: int = 90, memory: int = 1 << 30, *, integrated: bool = False) -> None:
        self.sm, self.free_bytes, self.total_bytes = sm, memory, memory
        self.integrated = integrated  # the GPU of a Jetson, whose memory is the host's
        self.blocks: dict[int, Any] = {}
        self.capturing: list[Work] | None = None
        self.invalidated = False  # by a call that a capture forbids
        self.launches = 0
        self.copies: list[tuple[int, int]] = []  # target and bytes of what was copied

    def submit(self, work: Work) -> None:
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return 0, 7

    def cudaDeviceGetAttribute(self, which: str, device: int) -> tuple[int, int]:
        major, minor = divmod(self.sm, 10)
        return 0, {"major": major, "minor": minor, "integrated": int(self.integrated)}[which]

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, SimpleNamespace]:
        return 0, SimpleNamespace(name=b"Fake GPU\0\0")

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.free_bytes, self.total_bytes

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:
        if nbytes > self.free_bytes:
            return 2, 0
        self.free_bytes -= nbytes
        block = (ctypes.c_char * nbytes)(*([b"\x55"] * nbytes))
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[int, int]:
        return self.cudaMalloc(nbytes)

    def cudaFree(self, address: int) -> tuple[int]:
        if self.capturing is not None:
            self.invalidated = True
            return (900,)  # cudaErrorStreamCaptureUnsupported
        block = self.blocks.pop(address)
        self.free_bytes += len(block)
        ctypes.memset(address, 0x77, len(block))
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[int]:
        def copy() -> None:
            self.copies.append((target, nbytes))
            ctypes.memmove(target, source, nbytes)

        self.submit(copy)
        return (0,)

    def cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[int]:
        self.submit(lambda: ctypes.memset(address, value, nbytes))
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.capturing, self.invalidated = [], False
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Work] | None]:
        graph, self.capturing = self.capturing, None
        return (901, None) if self.invalidated else (0, graph)  # cudaErrorStreamCaptureInvalidated

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[int, list[Work]]:
        return 0, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[int]:
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: list[Work], stream: int) -> tuple[int]:
        self.launches += 1
        for work in graph:
            work()
        return (0,)


class FakePlan:
    """The tiny recurrent model at the addresses it is bound to; `calls` are the (B, L) it really ran."""

    def __init__(self, api: FakeCuda, longest: int) -> None:
        self.api, self.longest, self.model = api, longest, NumpyEngine()
        self.calls: list[tuple[int, ...]] = []
        self.shapes: Mapping[str, tuple[int, ...]] = {}
        self.addresses: Mapping[str, int] = {}
        self.weights: Mapping[str, int] = {}

    def bind(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        assert self.api.capturing is None
        if not shapes:
            self.weights = dict(addresses)
            return
        assert 1 <= shapes["input_ids"][1] <= self.longest
        for state in state_table():
            assert addresses[state.past] == addresses[state.present]
        self.shapes, self.addresses = dict(shapes), dict(addresses)

    def queue(self) -> None:
        shapes, addresses = self.shapes, self.addresses
        self.api.submit(lambda: self.execute(shapes, addresses))

    def execute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        self.calls.append(shapes["input_ids"])
        ids = at(addresses["input_ids"], shapes["input_ids"], np.int64)
        memory = {s.past: at(addresses[s.past], shapes[s.past], s.dtype) for s in state_table()}
        arrays = {name: array.copy() for name, array in memory.items()}
        logits = [self.model.token(ids[:, t], arrays) for t in range(ids.shape[1])][-1]
        for name, array in arrays.items():
            memory[name][:] = array
        at(addresses["logits"], logits.shape, np.float32)[:] = logits
        assert logits.shape[1] == V


def fake_argmax(api: FakeCuda) -> Argmax:
    """quamba_argmax on the fake device: numpy's, -1 - index where the largest logit is not finite."""

    def choose(logits: int, batch: int, vocab_size: int, tokens: int) -> None:
        rows = at(logits, (batch, vocab_size), np.float32)
        found = rows.argmax(-1)
        at(tokens, (batch,), np.int64)[:] = np.where(np.isfinite(rows.max(-1)), found, -1 - found)

    return lambda *arguments: api.submit(lambda: choose(*arguments))


def at(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The array in memory at an address."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * nbytes).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)
