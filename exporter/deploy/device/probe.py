"""What the device is: processor, JetPack, TensorRT, CUDA, memory, disk, power mode. Looks, changes nothing.

What cannot be found out is None: the workstation decides which of it a bundle needs.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

JETPACK_OF_L4T = {
    32: "4",
    34: "5",
    35: "5",
    36: "6",
    38: "7",
    39: "7",
}  # NVIDIA's Jetson Linux, major release
TENSORRT_PACKAGES = ("libnvinfer10", "libnvinfer11")
TENSORRT_WHEELS = ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings", "tensorrt")
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
SECONDS = 20.0  # for a program that is asked


def probe(folder: Path, system: Path = Path("/")) -> dict[str, Any]:
    """Everything, as JSON takes it. folder: where releases go (its disk counts); system: of a test."""
    driver, sm = _cuda()
    memory = _memory(system)
    l4t = _l4t(system)
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "glibc": platform.libc_ver()[1] or None,
        "user": os.environ.get("USER") or str(os.getuid()),
        "rsync": shutil.which("rsync"),
        "l4t": l4t,
        "jetpack": _debian_version("nvidia-jetpack") or JETPACK_OF_L4T.get(int((l4t or "0").split(".")[0])),
        "tensorrt": _tensorrt(),
        "cuda": driver,
        "sm": sm,
        "memory_bytes": memory.get("MemTotal"),
        "memory_free_bytes": memory.get("MemAvailable"),
        "gpu_free_bytes": None if l4t else _gpu_free(),
        "disk_free_bytes": _disk_free(folder),
        "power_mode": _power_mode(),
    }


def _memory(system: Path) -> dict[str, int]:
    """Lines of /proc/meminfo, in bytes. A Jetson's GPU has no memory of its own: it is this one."""
    lines = (system / "proc/meminfo").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3}


def _l4t(system: Path) -> str | None:
    """Jetson Linux, "36.4.3": the first line is "# R36 (release), REVISION: 4.3, GCID: ..."."""
    path = system / "etc/nv_tegra_release"
    found = re.match(r"# R(\d+) .*?REVISION: ([\d.]+)", path.read_text()) if path.exists() else None
    return f"{found[1]}.{found[2]}" if found else None


def _tensorrt() -> str | None:
    """ "10.3.0": of the system's package, else of the wheel that this Python sees."""
    if found := next(filter(None, map(_debian_version, TENSORRT_PACKAGES)), None):
        return found.split("-")[0]
    for name in TENSORRT_WHEELS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _cuda() -> tuple[str | None, int | None]:
    """The driver's CUDA version, "12.6", and the GPU's compute capability, 87 for 8.7."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, None
    number, device, part, parts = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), []
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None, None
    release = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return release, None
    for attribute in COMPUTE_CAPABILITY:
        if driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device) != 0:
            return release, None
        parts.append(part.value)
    return release, 10 * parts[0] + parts[1]


def _gpu_free() -> int | None:
    """Bytes that are free on the first GPU that has memory of its own."""
    said = _said("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    found = re.match(r"\s*(\d+)", said or "")
    return int(found[1]) << 20 if found else None


def _power_mode() -> str | None:
    """ "15W", as nvpmodel names it."""
    found = re.search(r"NV Power Mode:\s*(\S+)", _said("nvpmodel", "-q") or "")
    return found[1] if found else None


def _debian_version(package: str) -> str | None:
    return _said("dpkg-query", "--show", "--showformat=${Version}", package) or None


def _disk_free(folder: Path) -> int:
    """Bytes that this user may still write where `folder` is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def _said(*command: str) -> str | None:
    """What a program prints; None where there is none of the name, or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
