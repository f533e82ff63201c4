"""Energy while something runs: a Jetson's power rails, or the counter of a GPU's driver.

A Jetson measures its rails with INA3221 chips, which Linux shows as hwmon: `in{n}_input` in mV,
`curr{n}_input` in mA, `in{n}_label` with the rail's name. Power is read every few milliseconds and summed up.
NVIDIA's driver counts a desktop GPU's energy itself, in mJ since it was loaded (NVML). Both count what is
drawn, idle power too.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Protocol

HWMON = "sys/bus/i2c/devices/*/hwmon/hwmon*"
CHIP = "ina3221"
WHOLE_BOARD = "VDD_IN"  # Orin Nano and NX have this rail; an AGX Orin's are summed
PERIOD_SECONDS = 0.005


class Energy(Protocol):
    """A counter."""

    source: str  # what is measured, in words

    def joules(self) -> float:
        """Since some moment."""

    def close(self) -> None:
        """Stop measuring."""


class Rail:
    """One channel of an INA3221."""

    def __init__(self, folder: Path, channel: int, name: str) -> None:
        self.name = name
        self._volts, self._amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"

    def watts(self) -> float:
        return int(self._volts.read_text()) * int(self._amperes.read_text()) / 1e6


def find_rails(root: Path = Path("/")) -> list[Rail]:
    """The rails that together feed a Jetson's module; none elsewhere. root: where sys/ is."""
    rails = []
    for folder in sorted(root.glob(HWMON)):
        if (folder / "name").read_text().strip() != CHIP:
            continue
        for label in sorted(folder.glob("in*_label")):
            channel, name = int(label.name[2:-6]), label.read_text().strip()
            if name != "NC" and (folder / f"curr{channel}_input").exists():  # not the sum of shunt voltages
                rails.append(Rail(folder, channel, name))
    return [rail for rail in rails if rail.name == WHOLE_BOARD] or rails


class RailEnergy:
    """Sums up the power of rails in a thread of its own."""

    def __init__(self, rails: list[Rail], period: float = PERIOD_SECONDS) -> None:
        self.source = f"rails {', '.join(rail.name for rail in rails)}"
        self._rails, self._period, self._sum = rails, period, 0.0
        self._error: OSError | ValueError | None = None
        self._lock, self._over = threading.Lock(), threading.Event()
        self._at, self._watts = time.perf_counter(), self._power()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """Raises what reading a rail raised."""
        self._add()
        if self._error is not None:
            raise self._error
        return self._sum

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._period):
                self._add()
        except (OSError, ValueError) as error:
            self._error = error  # joules() raises it

    def _add(self) -> None:
        """The area under the power since it was last read, as a trapezium."""
        with self._lock:
            now, watts = time.perf_counter(), self._power()
            self._sum += (now - self._at) * (watts + self._watts) / 2
            self._at, self._watts = now, watts

    def _power(self) -> float:
        return sum(rail.watts() for rail in self._rails)


class DriverEnergy:
    """NVML's counter of the only GPU of this machine."""

    source = "the GPU's own counter (NVML)"

    def __init__(self, nvml: ctypes.CDLL, device: ctypes.c_void_p) -> None:
        self._nvml, self._device = nvml, device

    def joules(self) -> float:
        counted = ctypes.c_ulonglong()
        if status := self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(counted)):
            raise OSError(f"NVML does not give the energy any more: status {status}")
        return counted.value / 1e3

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def driver_energy(library: str = "libnvidia-ml.so.1") -> DriverEnergy | None:
    """None where there is no driver, more than one GPU (whose would it be?), or one that does not count."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    count, device, counted = ctypes.c_uint(), ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml.nvmlInit_v2():
        return None
    failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or count.value != 1
    failed = failed or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    if failed or nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(counted)):
        nvml.nvmlShutdown()
        return None
    return DriverEnergy(nvml, device)


def find_energy(*, gpu: bool, root: Path = Path("/")) -> Energy | None:
    """What measures here: a Jetson's rails, for a GPU else its driver; None where nothing does."""
    if rails := find_rails(root):
        return RailEnergy(rails)
    return driver_energy() if gpu else None
