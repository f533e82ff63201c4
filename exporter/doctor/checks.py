"""What `doctor` looks at without a GPU: packages, the CPU's integer products, the tools of a build.

Nothing beyond the standard library is imported before it is looked for: each check answers on a machine where
what it looks for is not installed. None installs or fetches anything.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from quamba_export.runtime.errors import QuambaError, install_command

State = Literal["ok", "missing", "wrong"]
Use = Literal["cpu", "gpu-run", "gpu-build", "calibrate"]
ALL: tuple[Use, ...] = ("cpu", "gpu-run", "gpu-build", "calibrate")
BUILD: tuple[Use, ...] = ("gpu-build",)
PYTHON = (3, 10)


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    state: State
    found: str
    needed_for: tuple[Use, ...]  # () where it is only good to know
    purpose: str
    fix: str  # a command where there is one; "" for what is ok


@dataclass(frozen=True)
class Package:
    """A Python package that some uses need."""

    name: str
    module: str
    oldest: str  # pyproject.toml's bound
    needed_for: tuple[Use, ...]
    purpose: str
    extra: str  # "" for what none of them brings
    distributions: tuple[str, ...]  # whichever is installed has the version


PACKAGES = (
    Package("numpy", "numpy", "1.26", ALL, "states and sampling", "runtime", ("numpy",)),
    Package("tokenizers", "tokenizers", "0.20", ALL, "text to ids", "runtime", ("tokenizers",)),
    Package(
        "onnxruntime",
        "onnxruntime",
        "1.20",
        ("cpu", "gpu-build"),
        "CPU bundles; what new engines are compared with",
        "runtime",
        ("onnxruntime", "onnxruntime-gpu"),
    ),
    Package(
        "pycuda",
        "pycuda",
        "2021.1",
        ("gpu-run", "gpu-build"),
        "GPU memory and streams, as QUAMBA_CUDA_BACKEND asks",
        "",
        ("pycuda",),
    )
    if os.environ.get("QUAMBA_CUDA_BACKEND") == "pycuda"
    else Package(
        "cuda-bindings",
        "cuda.bindings.runtime",
        "12.6",
        ("gpu-run", "gpu-build"),
        "GPU memory, streams and graphs",
        "runtime-gpu",
        ("cuda-bindings",),
    ),
    Package(
        "torch",
        "torch",
        "2.10",
        ("calibrate",),
        "calibration; engines of an export/ that is not portable",
        "calibrate",
        ("torch",),
    ),
    Package(
        "safetensors", "safetensors", "0.5", ("calibrate",), "checkpoints", "calibrate", ("safetensors",)
    ),
    Package("onnx", "onnx", "1.18", BUILD, "reading export/", "export", ("onnx",)),
    Package(
        "cryptography", "cryptography", "42", (), "verifying signed bundles", "verify", ("cryptography",)
    ),
)


def check_python() -> Check:
    """The interpreter, and what runs it."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    right = tuple(map(int, platform.python_version_tuple()[:2])) >= PYTHON
    fix = "" if right else "install Python 3.10 or later"
    return Check("Python", "ok" if right else "wrong", found, ALL, "everything", fix)


def check_itself() -> Check:
    """The installed distribution; a checkout on the path has none."""
    try:
        return Check("quamba-export", "ok", version("quamba-export"), ALL, "everything", "")
    except PackageNotFoundError:
        fix = "pip install -e . in the checkout"
        return Check("quamba-export", "missing", "not installed", ALL, "everything", fix)


def check_package(package: Package) -> Check:
    """Whether it is there, in a version that this release takes, and loads: broken ones are "wrong"."""
    installed = {name: found for name in package.distributions if (found := installed_version(name))}

    def line(state: State, found: str, fix: str) -> Check:
        return Check(package.name, state, found, package.needed_for, package.purpose, fix)

    fix = install_command(package.extra) if package.extra else f"pip install {package.name}"
    if not installed:
        return line("missing", "not installed", fix)
    found = ", ".join(f"{name} {number}" for name, number in installed.items())
    if max(map(numbers, installed.values())) < numbers(package.oldest):
        return line("wrong", f"{found}, older than {package.oldest}", f"{fix} --upgrade")
    try:
        module = importlib.import_module(package.module)
    except (ImportError, OSError) as error:
        again = f"pip install --force-reinstall {next(iter(installed))}"
        return line("wrong", f"{found} does not load: {error}", again)
    if package.name == "onnxruntime":
        found += f" with {', '.join(module.get_available_providers())}"
    return line("ok", found, "")


def check_int8_products() -> Check:
    """The VNNI probe: whether ONNX Runtime multiplies int8 exactly here, or can be made to."""
    name, purpose = "int8 products", "the same results as the reference"
    try:
        from quamba_export.runtime.vnni_probe import probe_int8_products

        products = probe_int8_products()
    except ImportError as error:
        fix = install_command("runtime")
        return Check(name, "missing", f"not probed: {error}", ("cpu",), purpose, fix)
    found = products.warning or f"exact ({products.cpu})"
    if products.exact_as_engine:
        return Check(name, "ok", found, ("cpu",), purpose, "")
    return Check(name, "wrong", found, ("cpu",), purpose, "use a CPU with VNNI, or an ARM one")


def check_build_tools() -> Iterator[Check]:
    """What compiles the plugin library, as exporter/plugin_build/library.py finds it."""
    from quamba_export.exporter.plugin_build.library import find_nvcc, find_tool

    yield found_tool("nvcc", find_nvcc, "compiling the kernels")
    yield found_tool("cmake", lambda: find_tool("cmake"), "compiling the plugins")
    yield found_tool("ninja", lambda: find_tool("ninja"), "compiling the plugins")
    yield found_tool("C++ compiler", find_compiler, "compiling the plugins")
    yield check_headers()


def find_compiler() -> Path:
    """$CXX or c++, as CMake looks for it."""
    from quamba_export.exporter.plugin_build.library import missing_tool

    name = os.environ.get("CXX", "c++")
    if found := shutil.which(name):
        return Path(found)
    raise missing_tool(name, f"no {name} on PATH", "apt-get install g++")


def found_tool(name: str, find: Callable[[], Path], purpose: str) -> Check:
    """Whether it is there, and runs."""
    from quamba_export.exporter.plugin_build.library import tool_version

    try:
        program = find()
    except QuambaError as error:
        return Check(name, "missing", error.found, BUILD, purpose, error.fix)
    try:
        number = re.search(r"\d+(\.\d+)+", tool_version(program))
    except QuambaError as error:
        return Check(name, "wrong", f"{error.message}: {error.found}", BUILD, purpose, error.fix)
    found = f"{number.group()} in {program}" if number else str(program)
    return Check(name, "ok", found, BUILD, purpose, "")


def check_headers() -> Check:
    """NvInfer.h: the system's, the copy kept from an earlier build, or cargo, which fetches it."""
    from quamba_export.exporter.plugin_build.library import cache_folder, installed_headers, tensorrt_version

    name, purpose = "TensorRT headers", "compiling the plugins"
    try:
        folder = installed_headers(cache_folder())
        if folder is not None:
            major, minor = tensorrt_version(folder)
            return Check(name, "ok", f"{major}.{minor} in {folder}", BUILD, purpose, "")
    except QuambaError as error:
        return Check(name, "wrong", f"{error.message}: {error.found}", BUILD, purpose, error.fix)
    if cargo := shutil.which("cargo"):
        return Check(name, "ok", f"none yet: `build` fetches them with {cargo}", BUILD, purpose, "")
    fix = "apt-get install libnvinfer-headers-dev (NVIDIA's repository), or install cargo"
    return Check(name, "missing", "no NvInfer.h, and no cargo to fetch it", BUILD, purpose, fix)


def installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """The release of a version, to compare: 2.10.0+cu130 -> (2, 10, 0)."""
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, release.group().split("."))) if release else ()
