"""TensorRT as it is installed here, and the plugin library in its registry: for building and for running."""

from __future__ import annotations

import ctypes
import importlib
import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.held_files import shown

# TensorRT itself, then the lean runtime, which builds nothing; *_bindings: the wheels of the bindings alone
MODULES = ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings")
CHOICE = "QUAMBA_TENSORRT"  # environment variable: the module to take where several are installed
INSTALL = "install TensorRT: `pip install tensorrt-cu12`, JetPack's own on a Jetson"


@cache
def import_tensorrt() -> Any:
    """The Python module: $QUAMBA_TENSORRT, else the first of MODULES that loads.

    Raises QuambaError (exit 5) where there is none.
    """
    failures, chosen = [], os.environ.get(CHOICE)
    for name in (chosen,) if chosen else MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            failures.append(f"{name}: {error}")
    raise QuambaError(
        "TensorRT is not installed here",
        found="; ".join(failures),
        allowed="TensorRT 10.3 or later",
        fix=INSTALL,
        code=ExitCode.INCOMPATIBLE,
    )


def import_builder() -> Any:
    """The Python module of a TensorRT that builds engines. Raises QuambaError (exit 5) where it does not."""
    trt = import_tensorrt()
    if is_lean(trt):
        raise QuambaError(
            "the lean runtime of TensorRT builds no engines",
            found=f"{trt.__name__} {trt.__version__}",
            allowed="TensorRT 10.3 or later",
            fix=INSTALL,
            code=ExitCode.INCOMPATIBLE,
        )
    return trt


def is_lean(trt: Any) -> bool:
    """Whether the module is the lean runtime, which runs version-compatible plans only."""
    return "lean" in str(trt.__name__)


class Messages:
    """TensorRT's errors and warnings since they were last taken."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def take_errors(self) -> str:
        """The errors, one a line; forgotten after."""
        text, self.errors = "\n".join(self.errors), []
        return text


@cache
def logger() -> tuple[Any, Messages]:
    """The logger of this process: TensorRT keeps the first one it is given for everything global."""
    trt, messages = import_tensorrt(), Messages()
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                messages.errors.append(text)
            elif level == severity.WARNING:
                messages.warnings.append(text)

    return Logger(), messages


@dataclass(frozen=True)
class Plugins:
    """A plugin library in TensorRT's registry: contracts and CUDA it was compiled with, its C functions."""

    contracts: str
    cuda: str
    functions: ctypes.CDLL


_loaded: dict[bytes, Plugins] = {}  # by the library's sha256: a registry takes each creator once


def load_plugins(library: Path) -> Plugins:
    """Put the quamba plugins into TensorRT's registry, once a process.

    Raises QuambaError (exit 5) where the library does not load, is of a later CUDA than the driver's, or
    another one was loaded before.
    """
    digest = sha256(library.read_bytes()).digest()
    if digest in _loaded:
        return _loaded[digest]
    if _loaded:
        raise _refused(library, "another build of the plugins is loaded in this process")
    path = os.path.abspath(library)  # not resolved: behind /proc/self/fd/... may be no name
    try:
        functions = ctypes.CDLL(path)
        version, _ = functions.quamba_plugins_version, functions.quamba_plugins_driver
    except (OSError, AttributeError) as error:
        raise _refused(library, str(error)) from error
    check_driver(library, functions.quamba_plugins_cuda(), functions.quamba_plugins_driver())
    if not hasattr(functions, "getCreators"):
        raise _refused(library, "kernels and no plugins: it was compiled without TensorRT's headers")
    if import_tensorrt().get_plugin_registry().load_library(path) is None:
        raise _refused(library, "TensorRT's registry gives no reason")
    version.restype = ctypes.c_char_p
    _loaded[digest] = Plugins(
        bytes(version()).decode(), cuda_text(functions.quamba_plugins_cuda()), functions
    )
    return _loaded[digest]


def check_driver(library: Path, cuda: int, driver: int) -> None:
    """Refuse (exit 5) a library of a later major CUDA than the driver's; 12060 is 12.6, 0 is none."""
    if 0 < driver < cuda // 1000 * 1000:
        raise _refused(
            library, f"compiled with CUDA {cuda_text(cuda)}, and the driver is of {cuda_text(driver)}"
        )


def cuda_text(version: int) -> str:
    """12060 -> "12.6"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def plugin_functions() -> ctypes.CDLL:
    """The C functions of the library that load_plugins() loaded."""
    for plugins in _loaded.values():
        return plugins.functions
    raise RuntimeError("plugin_functions() before load_plugins()")


def _refused(library: Path, reason: str) -> QuambaError:
    return QuambaError(
        f"{shown(library)} does not load",
        found=reason,
        allowed="a library made of this release's plugins/ for this machine",
        fix="make it anew: `quamba-export build`, and a driver of its CUDA family",
        code=ExitCode.INCOMPATIBLE,
    )
