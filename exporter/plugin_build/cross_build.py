"""libquamba_plugins.so for a Jetson, compiled on an x86-64 machine without a GPU.

JetPack 7 has CUDA 13: nvcc with an aarch64 g++; the CUDA runtime goes into the library. JetPack 6 has CUDA
12.6, of which no wheel brings an nvcc: clang compiles the kernels too, with that version's headers, ptxas and
libdevice, and the library takes libcudart.so.12 from the device. Both round every fp32 operation by itself,
as the contracts do.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from quamba_export.exporter.kept_folder import kept_folder
from quamba_export.exporter.plugin_build.library import (
    Toolchain,
    cache_folder,
    find_headers,
    find_nvcc,
    find_tool,
    missing_tool,
    plugin_library,
    run_tool,
    tool_version,
)
from quamba_export.exporter.plugin_build.sources import PluginSources
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

JETPACKS = {6: "12.6", 7: "13"}  # the CUDA of each
CLANGS = ("clang++-19", "clang++-20", "clang++-21", "clang++")  # the first one is the one tried
TARGET = "aarch64-linux-gnu"
CUDA_12_X86 = ("nvidia-cuda-nvcc-cu12==12.6.85", "nvidia-cuda-cccl-cu12==12.6.77")
CUDA_12_DEVICE = ("nvidia-cuda-runtime-cu12==12.6.77",)
# clang 19 calls fatbinary as CUDA 12 had it; only CUDA 13's comes as a wheel, and it names images anew
FATBINARY = """#!/bin/sh
for word; do
    shift
    word=$(echo "$word" | sed -E 's/^--image=profile=sm_([0-9]+),file=/--image3=kind=elf,sm=\\1,file=/')
    set -- "$@" "$word"
done
exec {fatbinary} "$@"
"""


def cross_library(
    jetpack: int,
    architectures: Sequence[int],
    *,
    cache: Path | None = None,
    sources: PluginSources | None = None,
) -> Path:
    """Path of the aarch64 library for these GPU architectures, built where the cache has none.

    jetpack: 6 or 7. Raises QuambaError (exit 5) where a tool is missing, or a wheel cannot be fetched.
    """
    cache = (cache or cache_folder()).resolve()
    return plugin_library(architectures, cache=cache, tools=cross_toolchain(jetpack, cache), sources=sources)


def cross_toolchain(jetpack: int, cache: Path) -> Toolchain:
    """The tools for one JetPack; what is no system package is fetched into `cache`. Errors: cross_library."""
    if platform.machine() != "x86_64" or jetpack not in JETPACKS:
        raise QuambaError(
            f"cannot cross-compile the TensorRT plugins for JetPack {jetpack}",
            found=f"JetPack {jetpack}, and this machine is {platform.machine()}",
            allowed=" or ".join(f"JetPack {n} (CUDA {cuda})" for n, cuda in JETPACKS.items()) + ", on x86_64",
            fix="run `quamba-export build` on the device itself",
            code=ExitCode.INCOMPATIBLE,
        )
    compiler, options = (_clang if jetpack == 6 else _nvcc)(cache)
    system = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64"}
    headers = find_headers(cache)
    return Toolchain(compiler, find_tool("cmake"), find_tool("ninja"), headers, {**system, **options})


def _nvcc(cache: Path) -> tuple[Path, dict[str, str]]:
    """JetPack 7."""
    cxx, nvcc = find_cross_compiler(), find_nvcc()
    release = _release(nvcc)
    wheels = (f"nvidia-cuda-runtime=={release}.*",)
    kit = kept_folder(cache / _kit_name("jetpack7", wheels), lambda new: fetch_wheels(wheels, "aarch64", new))
    return nvcc, {
        "CMAKE_CXX_COMPILER": str(cxx),
        "CMAKE_CUDA_COMPILER": str(nvcc),
        "CMAKE_CUDA_HOST_COMPILER": str(cxx),
        "CMAKE_CUDA_FLAGS": quoted(f"-L{kit}/nvidia/cu13/lib"),  # of libcudart_static.a
    }


def _clang(cache: Path) -> tuple[Path, dict[str, str]]:
    """JetPack 6. clang takes libstdc++ and libc from the aarch64 g++."""
    clang = find_clang()
    find_cross_compiler()
    fatbinary = find_nvcc().with_name("fatbinary")
    name = _kit_name("jetpack6", (*CUDA_12_X86, *CUDA_12_DEVICE, str(fatbinary), FATBINARY))
    kit = kept_folder(cache / name, lambda new: _cuda_12(new, fatbinary))
    return clang, {
        "CMAKE_CXX_COMPILER": str(clang),
        "CMAKE_CXX_COMPILER_TARGET": TARGET,
        "CLANG_CUDA": str(kit),
    }


def _cuda_12(new: Path, fatbinary: Path) -> None:
    """The parts of CUDA 12.6 that clang wants, laid out as it looks for them."""
    fetch_wheels(CUDA_12_X86, "x86_64", new / "x86_64")
    fetch_wheels(CUDA_12_DEVICE, "aarch64", new / "aarch64")
    for part in ("x86_64/nvidia/cuda_nvcc", "x86_64/nvidia/cuda_cccl", "aarch64/nvidia/cuda_runtime"):
        shutil.copytree(new / part, new, dirs_exist_ok=True)
    shutil.rmtree(new / "x86_64")
    shutil.rmtree(new / "aarch64")
    (new / "lib/libcudart.so").symlink_to("libcudart.so.12")
    (new / "include/curand_mtgp32_kernel.h").touch()  # clang includes it into every kernel; none uses it
    wrapper = new / "bin/fatbinary"
    wrapper.write_text(FATBINARY.format(fatbinary=shlex.quote(str(fatbinary))), encoding="utf-8")
    wrapper.chmod(0o755)


def fetch_wheels(requirements: Sequence[str], machine: str, new: Path) -> None:
    """Unpack wheels for another machine into `new`. Raises QuambaError where pip fails."""
    platforms = [f"--platform={tag}_{machine}" for tag in ("manylinux2014", "manylinux_2_35")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run_tool(
        [*pip, "--only-binary=:all:", *platforms, "--target", str(new), *requirements],
        new.parent,
        f"cannot fetch wheels for {machine}",
    )


def find_clang() -> Path:
    """The first of CLANGS that is on PATH. Raises QuambaError (exit 5) where there is none."""
    found = next((found for name in CLANGS if (found := shutil.which(name))), None)
    if found is None:
        raise missing_tool("clang", f"none of {', '.join(CLANGS)} on PATH", "apt-get install clang-19")
    return Path(found)


def find_cross_compiler() -> Path:
    """The aarch64 g++. Raises QuambaError (exit 5) where there is none."""
    name = f"{TARGET}-g++"
    found = shutil.which(name)
    if found is None:
        raise missing_tool(name, "nothing of that name on PATH", f"apt-get install g++-{TARGET}")
    return Path(found)


def quoted(word: str) -> str:
    """One word of compiler flags, for the shell and for CMake, which knows no quotes side by side."""
    escaped = re.sub(r'(["\\\\$`])', r"\\\1", word)
    return f'"{escaped}"'


def _release(nvcc: Path) -> str:
    """Of CUDA, "13.2". Raises QuambaError (exit 5) for another CUDA than JetPack 7's."""
    said = tool_version(nvcc)
    found = re.search(r"release (\d+\.\d+)", said)
    if found is None or not found[1].startswith("13."):
        raise QuambaError(
            "this nvcc cannot compile for JetPack 7",
            found=said.strip(),
            allowed="CUDA 13",
            fix=f"name another one in CUDACXX, or {install_command('cuda')}",
            code=ExitCode.INCOMPATIBLE,
        )
    return found[1]


def _kit_name(name: str, parts: Sequence[str]) -> str:
    return f"{name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"
