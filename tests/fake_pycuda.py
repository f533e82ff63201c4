"""pycuda's driver on host memory, as far as runtime/cuda_pycuda.py calls it, and as strict about directions.

Names and arguments are those of pycuda 2026.1. Device memory is poisoned when it is new and when it is freed.
"""

from __future__ import annotations

import ctypes
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import Work
from numpy.typing import NDArray


class Error(Exception):
    pass


class OutOfMemory(Error):
    pass


class Allocation:
    """A DeviceAllocation."""

    def __init__(self, driver: FakePycuda, nbytes: int) -> None:
        self.driver, self.nbytes = driver, nbytes
        self.block = (ctypes.c_char * nbytes)(*([b"\x55"] * nbytes))
        driver.allocated[int(self)] = nbytes

    def __int__(self) -> int:
        return ctypes.addressof(self.block)

    def free(self) -> None:
        del self.driver.allocated[int(self)]
        ctypes.memset(int(self), 0x77, self.nbytes)


class Stream:
    def __init__(self, flags: int) -> None:
        assert flags == 1  # CU_STREAM_NON_BLOCKING
        self.handle, self.waits = 7, 0

    def synchronize(self) -> None:
        self.waits += 1


class Device:
    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def name(self) -> str:
        return "Fake Orin"

    def get_attribute(self, which: str) -> int:
        return {"integrated": 0}[which]


class FakePycuda:
    """Stands for pycuda.driver, and for pycuda.autoprimaryctx; FakePlan takes it for the device."""

    Error, MemoryError, Stream = Error, OutOfMemory, Stream
    device_attribute = SimpleNamespace(INTEGRATED="integrated")

    def __init__(self, memory: int = 1 << 24) -> None:
        self.memory, self.device = memory, Device()
        self.allocated: dict[int, int] = {}
        self.handed_out: list[weakref.ref[Any]] = []  # allocations and pinned arrays
        self.capturing = None  # pycuda captures nothing

    def submit(self, work: Work) -> None:
        work()

    def mem_get_info(self) -> tuple[int, int]:
        return self.memory - sum(self.allocated.values()), self.memory

    def mem_alloc(self, nbytes: int) -> Allocation:
        if nbytes > self.memory - sum(self.allocated.values()):
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        return self.keep(Allocation(self, nbytes))

    def pagelocked_empty(self, shape: int, dtype: Any, order: str, mem_flags: int) -> NDArray[Any]:
        assert (order, mem_flags) == ("C", 0)
        return self.keep(np.full(shape, 0x55, dtype))

    def keep(self, memory: Any) -> Any:
        self.handed_out.append(weakref.ref(memory))
        return memory

    def memcpy_htod_async(self, dest: int, src: Any, stream: Stream) -> None:
        source = np.frombuffer(src, np.uint8)
        self.check(dest, source.size)
        ctypes.memmove(dest, source.ctypes.data, source.size)

    def memcpy_dtoh_async(self, dest: Any, src: int, stream: Stream) -> None:
        target = np.frombuffer(dest, np.uint8)
        self.check(src, target.size)
        ctypes.memmove(target.ctypes.data, src, target.size)

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: Stream) -> None:
        self.check(dest, size)
        self.check(src, size)
        ctypes.memmove(dest, src, size)

    def memset_d8_async(self, dest: int, data: int, count: int, stream: Stream) -> None:
        self.check(dest, count)
        ctypes.memset(dest, data, count)

    def check(self, address: int, size: int) -> None:
        """These bytes are device memory."""
        if not any(start <= address <= address + size <= start + n for start, n in self.allocated.items()):
            raise Error("cuMemcpy failed: invalid argument")
