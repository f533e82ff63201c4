"""The probe on the files of a Jetson, and which devices a bundle is refused to, before anything is copied."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_records import engine_record
from refusals import refused
from ssh_device import ORIN
from tiny_recurrent import write_tiny_export

from quamba_export.exporter.deploy.device import probe as probe_module
from quamba_export.exporter.deploy.device.probe import probe
from quamba_export.exporter.deploy.preflight import (
    check_device,
    check_disk,
    check_memory,
    device_from,
    needs_of,
)
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.targets.target import load_target

GIB = 1 << 30
ENGINE = engine_record(tensorrt="10.3.0", sm=87, prefill_length=256, device_bytes=2 * GIB)
AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (183).to_bytes(2, "little")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "libquamba_plugins.so").write_bytes(AARCH64)
    return tmp_path


@pytest.fixture
def cpu(tmp_path: Path) -> Manifest:
    return read_manifest(write_tiny_export(tmp_path / "export"))


@pytest.fixture
def orin(cpu: Manifest) -> Manifest:
    return replace(cpu, kind="bundle", target="orin-nano", backend="tensorrt", engine=ENGINE)


def test_the_files_of_a_jetson_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"),
        (
            "proc/meminfo",
            "MemTotal: 7802312 kB\nMemFree: 100 kB\nMemAvailable: 5000000 kB\nHugePages_Total: 0\n",
        ),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    said = {
        "nvpmodel": "NV Power Mode: 15W\n0",
        "libnvinfer10": "10.3.0.30-1+cuda12.5",
    }
    monkeypatch.setattr(probe_module, "_said", lambda *words: said.get(words[0]) or said.get(words[-1]))
    found = probe(tmp_path / "not/yet/there", tmp_path)
    wanted = {"l4t": "36.4.3", "jetpack": "6", "tensorrt": "10.3.0.30", "power_mode": "15W"}
    assert {name: found[name] for name in wanted} == wanted
    assert (found["memory_bytes"], found["memory_free_bytes"]) == (7802312 * 1024, 5000000 * 1024)
    assert found["disk_free_bytes"] > 0
    assert device_from(found).jetpack == "6"


def test_this_machine_is_probed() -> None:
    device = device_from(probe(Path.home()))
    assert device.machine
    assert device.memory_free_bytes <= device.memory_bytes
    assert "GiB free" in str(device)


@pytest.mark.parametrize("change", [{"memory_bytes": "8"}, {"machine": None}, {"sm": "87"}, {"python": 3}])
def test_an_answer_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with refused("makes no sense", next(iter(change)), code=ExitCode.REMOTE):
        device_from({**ORIN.__dict__, **change})
    with refused("makes no sense", code=ExitCode.REMOTE):
        device_from("nothing")


def test_a_device_that_fits_is_taken(orin: Manifest, bundle: Path) -> None:
    check_device(ORIN, orin, bundle)
    check_memory(ORIN, needs_of(orin, "tensorrt"))


@pytest.mark.parametrize(
    ("change", "found", "allowed"),
    [
        ({"sm": 90}, "a GPU of sm_90", "sm_87"),
        ({"sm": None}, "no GPU that CUDA's driver knows", "sm_87"),
        ({"tensorrt": "10.4.0"}, "TensorRT 10.4.0", "TensorRT 10.3.0"),
        ({"tensorrt": None}, "TensorRT not found", "TensorRT 10.3.0"),
        ({"cuda": "11.8"}, "a driver of CUDA 11.8", "CUDA 12 or later"),
        ({"python": "3.8.10"}, "Python 3.8.10", "Python 3.10 or later"),
        ({"machine": "riscv64"}, "a processor riscv64", "aarch64"),
        ({"machine": "x86_64"}, "a processor x86_64", "aarch64 shared library"),
    ],
)
def test_a_device_that_cannot_run_it_is_refused_with_what_was_found(
    orin: Manifest, bundle: Path, change: dict[str, Any], found: str, allowed: str
) -> None:
    with refused("cannot run on this device", found, allowed, code=ExitCode.INCOMPATIBLE):
        check_device(replace(ORIN, **change), orin, bundle)


@pytest.mark.parametrize(
    ("version", "taken"), [("10.3.0", True), ("10.9.0", True), ("10.2.0", False), ("11.0", False)]
)
def test_version_compatible_plans_want_a_later_release_of_the_major_version(
    orin: Manifest, bundle: Path, version: str, taken: bool
) -> None:
    manifest = replace(orin, engine=replace(ENGINE, version_compatible=True))
    device = replace(ORIN, tensorrt=version)
    if taken:
        check_device(device, manifest, bundle)
    else:
        with refused(f"TensorRT {version}", code=ExitCode.INCOMPATIBLE):
            check_device(device, manifest, bundle)


def test_engines_are_built_on_the_target_itself(cpu: Manifest, bundle: Path) -> None:
    target = load_target("orin-nano")
    check_device(ORIN, cpu, bundle, target)
    with refused(
        "for orin-nano cannot run", "a GPU of sm_90; no TensorRT", "sm_87", code=ExitCode.INCOMPATIBLE
    ):
        check_device(replace(ORIN, sm=90, tensorrt=None), cpu, bundle, target)


def test_a_cpu_bundle_wants_neither_gpu_nor_tensorrt(cpu: Manifest, bundle: Path) -> None:
    check_device(replace(ORIN, sm=None, tensorrt=None, cuda=None), cpu, bundle)


def test_rsync_is_wanted_there(cpu: Manifest, bundle: Path) -> None:
    with refused("the device has no rsync", "apt-get install rsync", code=ExitCode.REMOTE):
        check_device(replace(ORIN, rsync=None), cpu, bundle)


def test_a_jetson_s_gpu_takes_the_same_memory(orin: Manifest) -> None:
    needs = needs_of(orin, "tensorrt")
    assert (needs.gpu, needs.host) == (2 * GIB, 768 << 20)
    check_memory(replace(ORIN, memory_free_bytes=needs.gpu + needs.host), needs)
    with refused("device's memory", "2.75 GiB, and 2.00 GiB free", code=ExitCode.OUT_OF_SPACE):
        check_memory(replace(ORIN, memory_free_bytes=2 * GIB), needs)
    with refused("device's GPU memory", "2.00 GiB, and 1.00 GiB free", code=ExitCode.OUT_OF_SPACE):
        check_memory(replace(ORIN, gpu_free_bytes=GIB), needs)
    check_memory(replace(ORIN, memory_free_bytes=GIB, gpu_free_bytes=2 * GIB), needs)


def test_what_has_arrived_needs_no_more_disk() -> None:
    device = replace(ORIN, disk_free_bytes=164 << 20)
    check_disk(device, 300 << 20, 200 << 20)
    with refused("300 MiB to copy, and 164 MiB free".replace("300", "165"), code=ExitCode.OUT_OF_SPACE):
        check_disk(device, 301 << 20, 200 << 20)


def imported(path: Path) -> set[str]:
    """Modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_the_device_s_part_imports_the_standard_library_only() -> None:
    for path in Path(probe_module.__file__).parent.glob("*.py"):
        others = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
        device = {name for name in others if name.startswith("quamba_export.exporter.deploy.device")}
        assert others - device <= {"quamba_export.runtime.errors"}, path
