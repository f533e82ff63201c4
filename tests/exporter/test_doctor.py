"""`doctor`: what it says of a machine that has nothing, of old packages, a GPU and a plugin library."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomllib
from fake_cuda import FakeCuda, at, fake_argmax
from fake_export import write_fake_export
from refusals import refused
from tiny_flow import Flow

from quamba_export.exporter.doctor import checks as doctor_checks
from quamba_export.exporter.doctor import gpu as doctor_gpu
from quamba_export.exporter.doctor.checks import PACKAGES, Check, check_headers, check_package, numbers
from quamba_export.exporter.doctor.doctor import Diagnosis, diagnose, require_ready
from quamba_export.exporter.doctor.gpu import LIBRARY
from quamba_export.exporter.doctor.run import check_kernel, check_model
from quamba_export.exporter.plugin_build.library import find_tool
from quamba_export.plugins.common.registry import kernel_names
from quamba_export.runtime.device_argmax import Argmax
from quamba_export.runtime.engine import Ids, Logits, States
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.tensorrt_library import Plugins

ROOT = Path(__file__).parents[2]
TORCH = next(package for package in PACKAGES if package.name == "torch")
NOTHING = """
import importlib.metadata as metadata, sys
for name in ("numpy", "tokenizers", "onnxruntime", "torch", "onnx", "safetensors", "cuda", "tomllib"):
    sys.modules[name] = None
for name in ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"):
    sys.modules[name] = None
def version(name):
    raise metadata.PackageNotFoundError(name)
metadata.version = version
sys.argv = ["quamba-export", "doctor", *sys.argv[1:]]
from quamba_export.exporter.cli import main
main()
"""


def on_a_bare_machine(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-c", NOTHING, *arguments], {**os.environ, "COLUMNS": "150"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def on_this_machine(*arguments: object) -> Any:
    command = [sys.executable, "-m", "quamba_export.exporter.cli", "doctor", "--json", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_building_engines_asks_for_no_torch() -> None:
    """As tests/exporter/test_portable.py builds them."""
    assert TORCH.needed_for == ("calibrate",)
    done = on_a_bare_machine("--json", "--for", "gpu-build")
    assert "gpu-build" in done.stderr
    assert not re.search(r"\btorch", done.stderr)


def test_it_answers_where_nothing_is_installed() -> None:
    done = on_a_bare_machine("--json")
    assert done.returncode == ExitCode.INCOMPATIBLE
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    packages = {package.name: "missing" for package in PACKAGES}
    assert states.items() >= {**packages, "GPU": "missing", "TensorRT": "missing", "Python": "ok"}.items()
    assert "[runtime]'" in done.stdout.replace("\\", "")
    assert "this machine is not ready for cpu" in done.stderr


@pytest.mark.parametrize("use", ["cpu", "gpu-run", "gpu-build", "calibrate"])
def test_people_see_a_fix_for_all_that_is_missing(use: str) -> None:
    done = on_a_bare_machine("--for", use)
    assert done.returncode == ExitCode.INCOMPATIBLE
    for fix in ("[runtime]'", "[calibrate]'", "[runtime-gpu]'"):
        assert fix in done.stdout
    assert f"not ready for {use}" in done.stderr


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_bounds_are_pyproject_s(package: Any) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"{package.name}>={package.oldest}" in [need.split(";")[0] for need in extras[package.extra]]


@pytest.mark.parametrize(
    ("found", "state", "says", "fix"),
    [
        (None, "missing", "not installed", "[calibrate]'"),
        ("2.9.1+cu130", "wrong", "older than 2.10", "--upgrade"),
        ("2.10.0+cu130", "ok", "torch 2.10.0+cu130", ""),
        ("nightly", "wrong", "older than 2.10", "--upgrade"),
    ],
)
def test_a_package_by_its_version(
    monkeypatch: pytest.MonkeyPatch, found: str | None, state: str, says: str, fix: str
) -> None:
    monkeypatch.setattr(doctor_checks, "installed_version", lambda name: found)
    check = check_package(TORCH)
    assert check.state == state
    assert says in check.found
    assert (fix in check.fix) if fix else not check.fix


def test_a_package_that_does_not_load_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = check_package(TORCH)
    assert (check.state, check.fix) == ("wrong", "pip install --force-reinstall torch")
    assert "does not load" in check.found


def test_versions_compare_as_numbers() -> None:
    assert numbers("2.10.0+cu130") == (2, 10, 0) > numbers("2.9")
    assert numbers("2.10") >= numbers("2.10")


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(sm=87, memory=8 << 30))
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n")
    monkeypatch.setattr(doctor_gpu, "DRIVER_VERSION", driver)
    check = doctor_gpu.check_gpu()
    assert check.state == "ok"
    assert check.found == (
        "Fake GPU, sm_87 (--target agx-orin or orin-nano or orin-nx), 8.0 of 8.0 GiB free, driver 540.4.0"
    )


def test_a_gpu_without_a_target_is_told_of_one_s_own() -> None:
    assert doctor_gpu.target_of(75) == "no target: see docs/targets.md"
    assert doctor_gpu.target_of(90) == "--target h100 or h200"


def test_a_driver_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: FakeCuda) -> tuple[int, int]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(FakeCuda, "cudaGetDevice", fails)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    check = doctor_gpu.check_gpu()
    assert (check.state, check.found) == ("missing", "Failed to dlopen libcuda.so.1")


def plugins_in_a_registry(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> Check:
    creators = [SimpleNamespace(name=name, plugin_namespace="quamba") for name in names]
    creators += [SimpleNamespace(name=kernel_names()[0], plugin_namespace="another")]
    registry = SimpleNamespace(all_creators=creators)
    trt = SimpleNamespace(get_plugin_registry=lambda: registry)
    monkeypatch.setattr(doctor_gpu, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(doctor_gpu, "load_plugins", lambda library: Plugins("abc", "13.0", ctypes.CDLL(None)))
    return doctor_gpu.check_plugins(Path("libquamba_plugins.so"))


def test_every_op_needs_its_creator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugins_in_a_registry(monkeypatch, list(kernel_names())).state == "ok"
    check = plugins_in_a_registry(monkeypatch, list(kernel_names())[1:])
    assert check.state == "wrong"
    assert f"no creator of {kernel_names()[0]}" in check.found


def test_a_file_that_is_no_library_is_wrong(tmp_path: Path) -> None:
    library = tmp_path / "libquamba_plugins.so"
    library.write_bytes(b"not ELF")
    check = doctor_gpu.check_plugins(library)
    assert check.state == "wrong"
    assert "does not load" in check.found


def test_a_library_of_kernels_without_plugins_is_wrong(tmp_path: Path) -> None:
    library = tmp_path / "libquamba_plugins.so"
    code = b"""extern "C" { const char *quamba_plugins_version() { return ""; }
    int quamba_plugins_cuda() { return 12060; } int quamba_plugins_driver() { return 0; } }"""
    words = [find_tool("g++"), "-shared", "-fPIC", "-x", "c++", "-", "-o", library]
    subprocess.run(words, input=code, check=True)
    check = doctor_gpu.check_plugins(library)
    assert check.state == "wrong"
    assert "compiled without TensorRT's headers" in check.found


@pytest.mark.parametrize(
    ("version", "state"), [("8.6.1", "wrong"), ("10.2.0", "wrong"), ("10.3.0", "ok"), ("10.16.1.11", "ok")]
)
def test_tensorrt_by_its_version(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    trt = SimpleNamespace(__name__="tensorrt", __version__=version)
    monkeypatch.setattr(doctor_gpu, "import_tensorrt", lambda: trt)
    assert doctor_gpu.check_tensorrt().state == state


def test_a_named_folder_without_headers_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORRT_INCLUDE", str(tmp_path))
    assert check_headers().state == "wrong"


def test_only_what_the_use_needs_decides() -> None:
    gpu = Check("GPU", "missing", "none", ("gpu-run",), "TensorRT bundles", "buy one")
    require_ready(Diagnosis("cpu", True, (gpu,)))
    with refused("not ready for gpu-run", "GPU missing", "buy one", code=ExitCode.INCOMPATIBLE):
        require_ready(Diagnosis("gpu-run", False, (gpu,)))


def test_a_library_is_named_once_and_must_be_there(tmp_path: Path) -> None:
    export = write_fake_export(tmp_path / "export")
    with refused("one plugin library", code=ExitCode.USAGE):
        diagnose("cpu", tmp_path, tmp_path)
    with refused("is no plugin library"):
        diagnose("cpu", tmp_path / "libquamba_plugins.so")
    (export / "config.json").write_bytes(b"{ }")
    with pytest.raises(QuambaError) as caught:
        diagnose("cpu", bundle=export)
    assert caught.value.code is ExitCode.INTEGRITY


@dataclass
class FakeLibrary:
    """quamba_argmax in the place of a library's, as tests/fake_cuda.py has it or wrongly."""

    api: FakeCuda
    right: bool = True

    def argmax_of(self, functions: object, cuda: object) -> Argmax:
        def clear(logits: int, batch: int, vocabulary: int, tokens: int) -> None:
            at(tokens, (batch,), np.int64)[:] = 0

        return fake_argmax(self.api) if self.right else clear


@pytest.mark.parametrize("right", [True, False])
def test_a_kernel_is_launched(monkeypatch: pytest.MonkeyPatch, right: bool) -> None:
    library = FakeLibrary(FakeCuda(), right)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", library.api)
    monkeypatch.setattr("quamba_export.runtime.device_argmax.argmax_of", library.argmax_of)
    for name in ("load_plugins", "plugin_functions"):
        monkeypatch.setattr(f"quamba_export.runtime.tensorrt_library.{name}", lambda *library: None)
    check = check_kernel(Path(LIBRARY), ())
    assert check.state == ("ok" if right else "wrong")
    assert ("is right" if right else "chose [0, 0, 0, 0] instead of [0, 1, 25145, 50287]") in check.found


def test_a_kernel_that_cannot_be_launched_is_not() -> None:
    gpu = Check("GPU", "missing", "none", ("gpu-run",), "TensorRT bundles", "buy one")
    check = check_kernel(Path(LIBRARY), (gpu,))
    assert (check.state, check.found, check.fix) == ("missing", "not run: GPU missing", "buy one")


def test_a_bundle_is_run(flow: Flow) -> None:
    done = on_this_machine("--bundle", flow.bundle)
    (model,) = (check for check in done["checks"] if check["name"] == "model")
    assert (model["state"], model["needed_for"]) == ("ok", ["cpu"])
    assert "at once and one by one" in model["found"]


class Forgetful(OrtEngine):
    """Leaves the states of a single token as they were."""

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, Any]:
        before = states.fork()
        logits, after = super().run(input_ids, states, num_logits)
        return logits, after if input_ids.shape[1] > 1 else before


def test_a_model_that_is_not_the_same_one_by_one_is_wrong(
    monkeypatch: pytest.MonkeyPatch, flow: Flow
) -> None:
    manifest = read_manifest(flow.bundle)
    engine = Forgetful(flow.bundle / "model.onnx", manifest.states, manifest.vocab_size)
    monkeypatch.setattr("quamba_export.runtime.bundle.open_model", lambda bundle: (manifest, engine))
    check = check_model(flow.bundle, ())
    assert (check.state, "at once against one by one: states" in check.found) == ("wrong", True)


def test_a_model_whose_package_is_missing_is_not_run(flow: Flow) -> None:
    ort = Check("onnxruntime", "missing", "not installed", ("cpu",), "CPU bundles", "pip install it")
    torch = Check("torch", "missing", "not installed", ("calibrate",), "calibration", "pip install torch")
    assert check_model(flow.bundle, (torch,)).state == "ok"
    check = check_model(flow.bundle, (torch, ort))
    assert (check.state, check.found, check.fix) == ("missing", "not run: onnxruntime missing", ort.fix)
