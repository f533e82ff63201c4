"""Whether a bundle can run on a device, decided by its manifest and the probe, before any copy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quamba_export.exporter.plugin_build.elf_header import elf_kind
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest
from quamba_export.targets.target_file import Target

MIB, GIB = 1 << 20, 1 << 30
PYTHON = (3, 10)
LIBRARY = "libquamba_plugins.so"
ELF_MACHINE = {"x86_64": "x86-64", "aarch64": "aarch64"}
# Resident size beside the model: interpreter, numpy, tokenizers and ONNX Runtime, or TensorRT's code.
PROCESS_BYTES = {"onnxruntime": 256 * MIB, "tensorrt": 768 * MIB}
CPU_COPIES = 2  # of the weights: as read, and as ONNX Runtime packs them
DISK_MARGIN = 64 * MIB


@dataclass(frozen=True)
class Device:
    """What the probe found. None: not there, or not found out."""

    machine: str
    python: str
    glibc: str | None
    user: str
    rsync: str | None
    l4t: str | None  # Jetson Linux, "36.4.3"
    jetpack: str | None
    tensorrt: str | None
    cuda: str | None  # the driver's
    sm: int | None
    memory_bytes: int
    memory_free_bytes: int
    gpu_free_bytes: int | None  # of a GPU with memory of its own
    disk_free_bytes: int
    power_mode: str | None

    def __str__(self) -> str:
        parts = [
            self.machine,
            f"JetPack {self.jetpack}" if self.jetpack else "",
            f"TensorRT {self.tensorrt}" if self.tensorrt else "",
            f"CUDA {self.cuda}" if self.cuda else "",
            f"sm_{self.sm}" if self.sm else "",
            f"{self.memory_free_bytes / GIB:.1f} GiB free",
            f"power mode {self.power_mode}" if self.power_mode else "",
        ]
        return ", ".join(filter(None, parts))


def device_from(answer: Any) -> Device:
    """The agent's answer, every field of its kind. Raises QuambaError (exit 8) for another one."""
    kinds = {"sm": int, "rsync": str} | {
        name: int for name in Device.__annotations__ if name.endswith("_bytes")
    }
    needed = ("machine", "python", "user", "memory_bytes", "memory_free_bytes", "disk_free_bytes")
    for name in Device.__annotations__:
        value = answer.get(name) if isinstance(answer, dict) else None
        if type(value) is not kinds.get(name, str) and (value is not None or name in needed):
            raise QuambaError(
                "the device's answer makes no sense",
                found=f"{name} = {value!r}"[:200],
                allowed=kinds.get(name, str).__name__,
                code=ExitCode.REMOTE,
            )
    return Device(**{name: answer[name] for name in Device.__annotations__})


def check_device(device: Device, manifest: Manifest, bundle: Path, target: Target | None = None) -> None:
    """Refuse (exit 5) a device that cannot run the bundle, naming all that is wrong, or (8) has no rsync.

    target: what the device is to build for, of an export/ instead of a bundle.
    """
    wrong = [
        *_wrong_software(device),
        *_wrong_engine(device, manifest, bundle),
        *_wrong_target(device, target),
    ]
    if wrong:
        raise QuambaError(
            f"a bundle for {target.name if target else manifest.target} cannot run on this device",
            found="; ".join(found for found, _ in wrong),
            allowed="; ".join(allowed for _, allowed in wrong),
            fix="build the bundle for this device: quamba-export build export/ --target ... -o bundle/",
            code=ExitCode.INCOMPATIBLE,
        )
    if device.rsync is None:
        raise QuambaError(
            "the device has no rsync",
            found="nothing of that name on its PATH",
            allowed="rsync",
            fix="on the device: sudo apt-get install rsync",
            code=ExitCode.REMOTE,
        )


def _wrong_software(device: Device) -> Iterable[tuple[str, str]]:
    """Pairs of what was found and what is allowed."""
    if _numbers(device.python)[:2] < PYTHON:
        yield f"Python {device.python}", f"Python {PYTHON[0]}.{PYTHON[1]} or later"
    if device.machine not in ELF_MACHINE:
        yield f"a processor {device.machine}", " or ".join(ELF_MACHINE)


def _wrong_engine(device: Device, manifest: Manifest, bundle: Path) -> Iterable[tuple[str, str]]:
    """The same of what TensorRT engines want: their GPU, their TensorRT, a library for the processor."""
    record = manifest.engine
    if record is None:
        return
    if device.sm != record.sm:
        found = f"a GPU of sm_{device.sm}" if device.sm else "no GPU that CUDA's driver knows"
        yield found, f"sm_{record.sm}, which the engines were built on"
    if not _reads_plan(device.tensorrt, record):
        later = " or later of that major version" if record.version_compatible else ""
        yield f"TensorRT {device.tensorrt or 'not found'}", f"TensorRT {record.tensorrt}{later}"
    if device.cuda and _numbers(device.cuda)[:1] < _numbers(record.cuda)[:1]:
        yield (
            f"a driver of CUDA {device.cuda}",
            f"CUDA {record.cuda.split('.')[0]} or later, of the plugin library",
        )
    kind = elf_kind(bundle / LIBRARY)
    if ELF_MACHINE.get(device.machine, "") not in kind:
        yield f"a processor {device.machine}", f"{kind}: {LIBRARY} of the bundle"


def _wrong_target(device: Device, target: Target | None) -> Iterable[tuple[str, str]]:
    """The same of what a build of TensorRT engines wants."""
    if target is None or target.backend != "tensorrt":
        return
    if device.sm != target.sm:
        yield f"a GPU of sm_{device.sm}" if device.sm else "no GPU", f"sm_{target.sm}: {target.description}"
    if device.tensorrt is None:
        yield "no TensorRT", "TensorRT 10, of JetPack or apt"


def _reads_plan(found: str | None, record: EngineRecord) -> bool:
    """Whether a TensorRT runs plans of the record's: the same release, or as version_compatible says."""
    have, built = _numbers(found or "0"), _numbers(record.tensorrt)
    return (have[0] == built[0] and have >= built) if record.version_compatible else have[:3] == built[:3]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:4])) or (0,)


@dataclass(frozen=True)
class Needs:
    """Bytes that a bundle takes while it runs."""

    host: int
    gpu: int


def needs_of(manifest: Manifest, backend: str) -> Needs:
    """An estimate. Of TensorRT what its build measured; of ONNX Runtime the weights CPU_COPIES times.

    A device that builds engines compares them with ONNX Runtime, and estimates the GPU's memory itself.
    """
    process = PROCESS_BYTES[backend]
    if manifest.engine:
        return Needs(process, manifest.engine.device_bytes)
    model = sum(entry.size for name, entry in manifest.files.items() if name.startswith("model.onnx"))
    return Needs(process + CPU_COPIES * model + sum(state.nbytes for state in manifest.states), 0)


def check_memory(device: Device, needs: Needs) -> None:
    """Refuse (exit 6) a bundle that would not fit into what is free. A Jetson's GPU takes the same memory."""
    shared = device.gpu_free_bytes is None
    wanted = {"memory": (needs.host + (needs.gpu if shared else 0), device.memory_free_bytes)}
    if device.gpu_free_bytes is not None:
        wanted["GPU memory"] = (needs.gpu, device.gpu_free_bytes)
    for name, (need, free) in wanted.items():
        if need > free:
            raise QuambaError(
                f"the bundle would not fit into the device's {name}",
                found=f"an estimate of {need / GIB:.2f} GiB, and {free / GIB:.2f} GiB free",
                allowed="an estimate below what is free",
                fix="end what else runs there, or build with a smaller --max-batch or --prefill-length",
                code=ExitCode.OUT_OF_SPACE,
            )


def check_disk(device: Device, wanted: int, there: int) -> None:
    """Refuse (exit 6) a copy that would fill the disk. there: bytes of an earlier, interrupted copy."""
    need = max(0, wanted - there) + DISK_MARGIN
    if need > device.disk_free_bytes:
        raise QuambaError(
            "the release would not fit onto the device's disk",
            found=f"{need / MIB:,.0f} MiB to copy, and {device.disk_free_bytes / MIB:,.0f} MiB free",
            allowed=f"{DISK_MARGIN // MIB} MiB more than the release",
            fix="free some space there, for example by --keep 2",
            code=ExitCode.OUT_OF_SPACE,
        )
