"""The little of CUDA that an engine needs: memory, one stream, captured graphs.

Through cuda-python, or through pycuda and then without graphs, as the environment variable
QUAMBA_CUDA_BACKEND says. Every call is checked. Memory belongs to the object that stands for it and is given
back with that object.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
MEMINFO = Path("/proc/meminfo")
BACKEND, BACKENDS = "QUAMBA_CUDA_BACKEND", ("cuda-python", "pycuda")


class Cuda:
    """The current device, one stream of it that blocks on no other, and what is allocated there."""

    def __init__(self) -> None:
        self.api: Any = runtime_api()
        self.device: int = self.call("cudaGetDevice")
        self.stream: int = int(self.call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking))

    def call(self, name: str, *arguments: Any) -> Any:
        """A function of the runtime API; its result, or results.

        Raises QuambaError: exit 6 where memory is short, else 5.
        """
        status, *results = getattr(self.api, name)(*arguments)
        if int(status) != 0:
            code = ExitCode.OUT_OF_SPACE if int(status) == OUT_OF_MEMORY else ExitCode.INCOMPATIBLE
            raise QuambaError(
                f"CUDA: {name} failed",
                found=str(getattr(status, "name", status)),
                allowed="cudaSuccess",
                fix="a smaller batch, or end what else uses the GPU"
                if code is ExitCode.OUT_OF_SPACE
                else "see the driver: nvidia-smi",
                code=code,
            )
        return tuple(results) if len(results) > 1 else results[0] if results else None

    @property
    def sm(self) -> int:
        """Compute capability of the device, 90 for 9.0."""
        attribute = self.api.cudaDeviceAttr
        major = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, self.device)
        minor = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, self.device)
        return int(major) * 10 + int(minor)

    @property
    def name(self) -> str:
        """The device's, as the driver gives it: "NVIDIA H200"."""
        properties = self.call("cudaGetDeviceProperties", self.device)
        return bytes(properties.name).partition(b"\0")[0].decode()

    @property
    def shares_host_memory(self) -> bool:
        """Whether the device has no memory of its own: a Jetson's."""
        attribute = self.api.cudaDeviceAttr.cudaDevAttrIntegrated
        return bool(self.call("cudaDeviceGetAttribute", attribute, self.device))

    def memory(self) -> tuple[int, int]:
        """Free bytes of the device's memory, and all.

        Of memory shared with the host what Linux can make free: CUDA counts the page cache there as used.
        """
        free, total = self.call("cudaMemGetInfo")
        return available_host_bytes() if self.shares_host_memory else int(free), int(total)

    @property
    def has_graphs(self) -> bool:
        """Whether `capture` can be called."""
        return hasattr(self.api, "cudaGraphLaunch")

    def allocate(self, nbytes: int) -> DeviceMemory:
        return DeviceMemory(self, int(self.call("cudaMalloc", nbytes)), nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> PinnedArray:
        """Host memory that the device copies to and from directly, uninitialised."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self.call("cudaHostAlloc", nbytes, self.api.cudaHostAllocDefault))
        return PinnedArray(self, address, shape, np.dtype(dtype))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy between any two addresses, host or device."""
        self.call(
            "cudaMemcpyAsync", target, source, nbytes, self.api.cudaMemcpyKind.cudaMemcpyDefault, self.stream
        )

    def clear(self, memory: DeviceMemory) -> None:
        self.call("cudaMemsetAsync", memory.address, 0, memory.nbytes, self.stream)

    def synchronize(self) -> None:
        self.call("cudaStreamSynchronize", self.stream)

    def capture(self, queue: Callable[[], None]) -> Graph:
        """What `queue` puts on the stream, as a graph; nothing of it runs.

        No garbage is collected meanwhile: memory that this thread frees would end the capture.
        """
        mode, collects = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal, gc.isenabled()
        gc.disable()
        try:
            self.call("cudaStreamBeginCapture", self.stream, mode)
            try:
                queue()
            finally:
                graph = self.call("cudaStreamEndCapture", self.stream)
        finally:
            if collects:
                gc.enable()
        try:
            return Graph(self, self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)


def available_host_bytes() -> int:
    """Bytes that programs can take without swapping, as Linux estimates them; QuambaError (exit 5)."""
    text = MEMINFO.read_text(encoding="utf-8")
    found = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise QuambaError(
            f"{MEMINFO} does not say how much memory is available",
            found=text[:200],
            allowed="a line MemAvailable (Linux 3.14 and later)",
            code=ExitCode.INCOMPATIBLE,
        )
    return 1024 * int(found[1])


def runtime_api() -> Any:
    """CUDA's runtime API in the backend that is asked for, cuda-python's where none is.

    Raises QuambaError: exit 2 for a backend that there is not, 5 for one that is not installed.
    """
    backend = os.environ.get(BACKEND, BACKENDS[0])
    if backend not in BACKENDS:
        raise QuambaError(
            f"{BACKEND} names no CUDA backend",
            found=backend,
            allowed=", ".join(BACKENDS),
            code=ExitCode.USAGE,
        )
    if backend == "pycuda":
        from quamba_export.runtime.cuda_pycuda import PycudaRuntime

        return PycudaRuntime()
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise QuambaError(
            "a TensorRT bundle needs cuda-bindings",
            found=str(error),
            allowed="cuda-bindings 12.6 or later",
            fix=install_command("runtime-gpu"),
            code=ExitCode.INCOMPATIBLE,
        ) from error


class DeviceMemory:
    """Bytes of device memory."""

    def __init__(self, cuda: Cuda, address: int, nbytes: int) -> None:
        self._cuda, self.address, self.nbytes = cuda, address, nbytes

    def __del__(self) -> None:
        self._cuda.call("cudaFree", self.address)


class PinnedArray:
    """A numpy array in pinned memory; `array` may not outlive it."""

    def __init__(self, cuda: Cuda, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._cuda, self.address = cuda, address
        self.nbytes = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * self.nbytes).from_address(address)
        self.array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype).reshape(shape)

    def __del__(self) -> None:
        self._cuda.call("cudaFreeHost", self.address)


class Graph:
    """A captured graph, ready to launch."""

    def __init__(self, cuda: Cuda, executable: Any) -> None:
        self._cuda, self._executable = cuda, executable

    def launch(self) -> None:
        self._cuda.call("cudaGraphLaunch", self._executable, self._cuda.stream)

    def __del__(self) -> None:
        self._cuda.call("cudaGraphExecDestroy", self._executable)
