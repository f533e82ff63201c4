"""TensorRT's plugin registry on this machine or, under qemu, on a Jetson's CPU; both from the lean wheels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from quamba_export.exporter.kept_folder import kept_folder
from quamba_export.exporter.plugin_build.cross_build import (
    TARGET,
    cross_toolchain,
    fetch_wheels,
    find_cross_compiler,
)
from quamba_export.exporter.plugin_build.library import (
    Toolchain,
    find_headers,
    find_nvcc,
    find_tool,
    native_toolchain,
    plugin_library,
)
from quamba_export.runtime.errors import QuambaError

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "plugins"  # kept for the next run
PROCESS = ROOT / "tests/plugins/registry_process.cpp"
LEAN_AARCH64 = "tensorrt-lean-cu13-libs==10.16.1.11"
Field = tuple[str, str, list[float]]  # name, type, values


@dataclass(frozen=True)
class Answers:
    """What a registry says of a library and of requests to create plugins."""

    contracts: str
    creators: dict[str, tuple[str, list[tuple[str, str]]]]  # version, names and types of the fields
    errors: list[str]  # one a request, "" where the plugin was created


@dataclass(frozen=True)
class Registry:
    """A process with a registry in it. command: starts registry_process.cpp, as it is told there."""

    command: list[str]
    environment: dict[str, str]
    library: Path

    def ask(self, requests: list[tuple[str, list[Field]]]) -> Answers:
        """Load the library, create every (op, fields). Raises AssertionError where the process fails."""
        words = []
        for op, fields in requests:
            words += [op, len(fields)]
            for name, kind, values in fields:
                words += [name, kind, len(values), *values]
        done = subprocess.run(
            [*self.command, str(self.library)],
            input=" ".join(map(str, words)),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return parse_answers(done.stdout, done.stderr)


def parse_answers(out: str, said: str) -> Answers:
    """The two streams of registry_process.cpp."""
    lines = [line.split() for line in out.splitlines()]
    creators: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for kind, *rest in lines:
        if kind == "creator":
            fields: list[tuple[str, str]] = []
            creators[rest[0]] = (rest[1], fields)
        elif kind == "field":
            fields.append((rest[0], rest[1]))
    errors = [text.strip() for text in said.split("\x1e")[:-1]]
    created = [kind == "created" for kind, *_ in lines if kind in ("created", "refused")]
    assert created == [not text for text in errors], said  # a refusal says why, nothing else speaks
    return Answers(lines[0][1], creators, errors)


@contextmanager
def skipping_what_is_missing() -> Iterator[None]:
    """Skip for a tool or a download that the machine lacks, with the words of tests/skip_policy.py."""
    try:
        yield
    except QuambaError as error:
        if not error.message.startswith(("cannot build the TensorRT plugins without", "cannot fetch")):
            raise
        pytest.skip(f"{error.message}: {error.fix}")


def optimized() -> bool:
    """Whether the libraries are to be as users have them (`make plugin-test`)."""
    return os.environ.get("QUAMBA_OPTIMIZED") == "1"


def quickly(tools: Toolchain) -> Toolchain:
    """The same tools, optimizing little: every kernel is compiled and linked in a fraction of the time.

    Left as they are where the libraries are to be `optimized`.
    """
    if optimized():
        return tools
    cuda = f"{tools.options.get('CMAKE_CUDA_FLAGS', '')} --Ofast-compile=max".strip()
    little = {"CMAKE_CUDA_FLAGS": cuda, "CMAKE_CXX_FLAGS_RELEASE": "-O1"}  # of nvcc, of clang
    return replace(tools, options={**tools.options, **little})


def native_tools() -> Toolchain:
    """For this machine. Raises QuambaError where a tool is missing."""
    return native_toolchain(find_headers(CACHE))


def native_registry(architectures: Sequence[int], tools: Toolchain, folder: Path) -> Registry:
    """folder: where the process is compiled. Raises QuambaError where a tool is missing."""
    libraries = importlib.util.find_spec("tensorrt_lean_libs")
    if libraries is None or libraries.origin is None:
        pytest.skip("no tensorrt_lean_libs: pip install tensorrt-lean-cu12-libs")
    compiled(find_tool("g++"), folder)
    library = plugin_library(architectures, cache=CACHE, tools=tools)
    command = [str(folder / "registry"), "libnvinfer_lean.so.10"]
    return Registry(command, {"LD_LIBRARY_PATH": str(Path(libraries.origin).parent)}, library)


def jetson_registry(jetpack: int, folder: Path) -> Registry:
    """The same of the aarch64 library of one JetPack."""
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("no qemu-aarch64-static: apt-get install qemu-user-static")
    tools = quickly(cross_toolchain(jetpack, CACHE))
    lean = kept_folder(
        CACHE / LEAN_AARCH64.replace("==", "-"), lambda new: fetch_wheels([LEAN_AARCH64], "aarch64", new)
    )
    compiled(find_cross_compiler(), folder)
    library = plugin_library([87], cache=CACHE, tools=tools)
    places = (
        f"{lean}/tensorrt_lean_libs:{tools.options.get('CLANG_CUDA', '')}/lib"  # where libcudart.so.12 is
    )
    command = [qemu, "-L", f"/usr/{TARGET}", "-E", f"LD_LIBRARY_PATH={places}", str(folder / "registry")]
    return Registry([*command, "libnvinfer_lean.so.10"], dict(os.environ), library)


def compiled(compiler: Path, folder: Path) -> None:
    """registry_process.cpp, at folder/registry."""
    includes = [find_headers(CACHE), find_nvcc().resolve().parents[1] / "include"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", *(f"-isystem{path}" for path in includes)]
    subprocess.run([compiler, *flags, PROCESS, "-o", folder / "registry", "-ldl"], check=True)


def device_code(library: Path) -> list[list[tuple[str, int]]]:
    """For each compiled file of kernels: the kind ("ptx" or "elf") and the architecture of each image.

    The layout of a fat binary, little endian: 16 bytes of header (magic, version, header size, bytes of all
    images), then images, each with its own header (kind, version, header size, bytes, ..., architecture).
    """
    content, units, at = library.read_bytes(), [], 0
    magic = struct.pack("<IHH", 0xBA55ED50, 1, 16)
    while (at := content.find(magic, at)) >= 0:
        end = at + 16 + struct.unpack_from("<Q", content, at + 8)[0]
        at, images = at + 16, []
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", content, at)
            (architecture,) = struct.unpack_from("<I", content, at + 28)
            images.append(({1: "ptx", 2: "elf"}[kind], architecture))
            at += header + size
        units.append(sorted(images))
    return units
