"""The calls of CUDA's runtime API that cuda.py makes, through pycuda: memory, copies and one stream.

pycuda knows no CUDA graphs, so every kernel of a decode step is launched anew: the slower of the two. Each
call gives (status, result) as cuda-python's do. pycuda copies by direction, not between any two addresses:
what was not allocated here as device memory is taken for the host's.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from quamba_export.runtime.errors import ExitCode, QuambaError

OUT_OF_MEMORY, UNKNOWN = 2, 999  # cudaErrorMemoryAllocation, cudaErrorUnknown


class Status(int):
    """A cudaError_t with the driver's words as its name."""

    def __new__(cls, value: int, name: str) -> Status:
        status = super().__new__(cls, value)
        status.name = name
        return status

    name: str


SUCCESS = Status(0, "cudaSuccess")


class PycudaRuntime:
    """Stands for the module cuda.bindings.runtime, on the primary context: the one that TensorRT uses."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1, cudaDevAttrIntegrated=2
    )

    def __init__(self) -> None:
        """Raises QuambaError (exit 5) where pycuda cannot be imported or finds no GPU."""
        try:
            self._driver: Any = importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise QuambaError(
                "QUAMBA_CUDA_BACKEND is pycuda, which cannot be imported",
                found=str(error),
                allowed="pycuda 2021.1 or later",
                fix="pip install pycuda (compiled here: needs the CUDA toolkit), or unset the variable",
                code=ExitCode.INCOMPATIBLE,
            ) from error
        try:
            self._device: Any = importlib.import_module("pycuda.autoprimaryctx").device
        except (self._driver.Error, RuntimeError) as error:
            raise QuambaError(
                "pycuda finds no GPU",
                found=str(error),
                fix="see the driver: nvidia-smi",
                code=ExitCode.INCOMPATIBLE,
            ) from error
        self._memory: dict[int, tuple[Any, int]] = {}  # device allocations and their bytes by address
        self._pinned: dict[int, Any] = {}  # arrays by address
        self._streams: dict[int, Any] = {}

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return SUCCESS, 0  # the primary context is current: there is nothing to choose by number

    def cudaDeviceGetAttribute(self, which: int, device: int) -> tuple[Any, ...]:
        def ask() -> int:
            integrated = self._device.get_attribute(self._driver.device_attribute.INTEGRATED)
            return int((*self._device.compute_capability(), integrated)[which])

        return self._status(ask)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._status(lambda: SimpleNamespace(name=self._device.name().encode()))

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        status, *found = self._status(self._driver.mem_get_info)
        return (status, *found[0]) if found else (status,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        def create() -> int:
            stream = self._driver.Stream(flags)
            self._streams[stream.handle] = stream
            return int(stream.handle)

        return self._status(create)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._status(self._streams[stream].synchronize)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, ...]:
        def allocate() -> int:
            allocation = self._driver.mem_alloc(nbytes)
            self._memory[int(allocation)] = allocation, nbytes
            return int(allocation)

        return self._status(allocate)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._status(self._memory.pop(address)[0].free)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        def allocate() -> int:
            array = self._driver.pagelocked_empty(nbytes, np.uint8, "C", flags)
            self._pinned[array.ctypes.data] = array
            return int(array.ctypes.data)

        return self._status(allocate)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self._pinned[address]  # pycuda frees it with the array
        return (SUCCESS,)

    def cudaMemcpyAsync(
        self, target: int, source: int, nbytes: int, kind: int, stream: int
    ) -> tuple[Any, ...]:
        queue = self._streams[stream]
        to_device, from_device = self._on_device(target), self._on_device(source)
        if to_device and from_device:
            return self._status(lambda: self._driver.memcpy_dtod_async(target, source, nbytes, queue))
        if to_device:
            return self._status(lambda: self._driver.memcpy_htod_async(target, host(source, nbytes), queue))
        return self._status(lambda: self._driver.memcpy_dtoh_async(host(target, nbytes), source, queue))

    def cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        return self._status(
            lambda: self._driver.memset_d8_async(address, value, nbytes, self._streams[stream])
        )

    def _on_device(self, address: int) -> bool:
        return any(start <= address < start + size for start, (_, size) in self._memory.items())

    def _status(self, work: Callable[[], Any]) -> tuple[Any, ...]:
        try:
            return SUCCESS, work()
        except self._driver.MemoryError as error:
            return (Status(OUT_OF_MEMORY, str(error)),)
        except self._driver.Error as error:
            return (Status(UNKNOWN, str(error)),)


def host(address: int, nbytes: int) -> Any:
    """Host memory at an address as a buffer."""
    return (ctypes.c_char * nbytes).from_address(address)
