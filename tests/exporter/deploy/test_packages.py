"""The packages for a device: wheels for another processor and Python, here without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused
from ssh_device import ORIN

from quamba_export.exporter.deploy import packages
from quamba_export.exporter.deploy.packages import requirements, site_folder
from quamba_export.exporter.deploy.unused import UNUSED
from quamba_export.runtime.errors import ExitCode

NEEDS = {
    "tokenizers": ("huggingface-hub>=0.16", "shared ; extra == 'testing'"),
    "huggingface_hub": ("Only_Its.Own", "shared"),
    "typer": ("shared>=1",),
}
CPU = replace(ORIN, tensorrt=None, cuda=None, sm=None)


def write_wheel(folder: Path, name: str, tag: str, needs: tuple[str, ...] = ()) -> None:
    """A wheel with one module, of a version that is new enough for everybody."""
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    information = f"{name}-9999.dist-info"
    with zipfile.ZipFile(folder / f"{name}-9999-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"TAG = {tag!r}\n")
        wheel.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n{required}"
        )
        wheel.writestr(f"{information}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{information}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """numpy for the device and for this machine, the rest for any."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "wheels"
    folder.mkdir()
    for requirement in requirements("onnxruntime", CPU):
        name = re.split(r"[<>=\[]", requirement)[0].replace("-", "_")
        tags = ["py3-none-any"]
        if name == "numpy":
            tags = ["cp310-cp310-manylinux_2_27_aarch64", "cp311-cp311-manylinux_2_17_x86_64"]
        for tag in tags:
            write_wheel(folder, name, tag, NEEDS.get(name, ()))
    for name in ("huggingface_hub", "only_its_own", "shared"):
        write_wheel(folder, name, "py3-none-any", NEEDS.get(name, ()))
    return folder


def test_what_a_backend_and_a_python_want() -> None:
    names = " ".join(requirements("onnxruntime", CPU))
    assert {"typer", "rich", "numpy", "tokenizers", "onnxruntime"} <= set(re.findall(r"\w+", names))
    assert not re.search("torch|cuda|onnx[^r]", names)
    assert "exceptiongroup" in names
    assert "exceptiongroup" not in requirements("onnxruntime", replace(CPU, python="3.12.3"))
    building = " ".join(requirements("tensorrt", ORIN, builds=True))
    assert "onnx>=" in building
    assert not re.search("torch|quamba", building)
    jetson = requirements("tensorrt", ORIN)
    assert "cuda-bindings<13" in jetson  # of a driver for CUDA 12
    assert not any("onnxruntime" in name for name in jetson)


def test_the_device_s_wheels_are_unpacked_beside_quamba_export(wheels: Path) -> None:
    site = site_folder(CPU, "onnxruntime", "ship", wheels)
    assert "aarch64" in (site / "numpy.py").read_text()
    assert (site / "quamba_export/runtime/self_test.py").is_file()
    assert (site / "quamba_export/exporter/cli.py").is_file()
    assert "Name: quamba-export" in next(site.glob("quamba_export-*.dist-info/METADATA")).read_text()
    assert not list(site.rglob("__pycache__"))
    assert not list(site.rglob("RECORD"))  # pip's, with digests of scripts that name this machine's Python
    assert os.stat(site_folder(CPU, "onnxruntime", "ship", wheels)).st_ino == os.stat(site).st_ino
    own = site_folder(CPU, "onnxruntime", "device")
    assert not (own / "numpy.py").exists()
    assert own.name != site.name


def test_other_packages_are_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, or later, pip finds other versions; under one name their release would look damaged."""
    names = []
    for cache, version in (("here", "1"), ("there", "1"), ("later", "2")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        monkeypatch.setattr(
            packages, "_fetch", lambda *asked, version=version: (asked[-1] / "numpy.py").write_text(version)
        )
        names.append(site_folder(CPU, "onnxruntime", "ship").name)
    assert names[0] == names[1] != names[2]


def test_what_nothing_here_imports_is_not_sent(wheels: Path) -> None:
    """tokenizers requires the hub's client, and only that what it requires alone."""
    site = site_folder(CPU, "onnxruntime", "ship", wheels)
    assert (site / "tokenizers.py").is_file()
    assert (site / "shared.py").is_file()  # typer's too
    assert not [path for path in site.iterdir() if re.search("hugging|only_its", path.name)]


def test_a_bundle_runs_without_them(bundles: tuple[Path, Path, Path]) -> None:
    names = [name.replace("-", "_") for unused in UNUSED.values() for name in unused]
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({names}))\n"  # to import one of them is an error now
        "runpy.run_module('quamba_export.runtime.self_test', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, str(bundles[0])]
    assert "digest" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_wheels_that_are_not_there_are_named(wheels: Path) -> None:
    with refused(
        "cannot fetch wheels for aarch64, Python 3.12", "No matching distribution", code=ExitCode.INCOMPATIBLE
    ):
        site_folder(replace(CPU, python="3.12.3"), "onnxruntime", "ship", wheels)
