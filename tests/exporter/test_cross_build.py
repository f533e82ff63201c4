"""The compilers that a Jetson's plugins are cross-compiled with, and what is said of others."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from plugin_registry import CACHE
from refusals import refused

from quamba_export.exporter.doctor.checks import found_tool
from quamba_export.exporter.plugin_build import cross_build
from quamba_export.exporter.plugin_build.cross_build import cross_toolchain
from quamba_export.exporter.plugin_build.library import Toolchain, find_nvcc
from quamba_export.runtime.errors import ExitCode


@pytest.fixture(autouse=True)
def desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize(("machine", "jetpack"), [("riscv64", 6), ("x86_64", 5)])
def test_what_cannot_be_cross_compiled_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: str, jetpack: int
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with refused(f"for JetPack {jetpack}", f"this machine is {machine}", "JetPack 6 (CUDA 12.6)", code=5):
        cross_toolchain(jetpack, CACHE)


@pytest.mark.parametrize(
    ("jetpack", "name", "package"),
    [(6, "clang", "clang-19"), (7, "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")],
)
def test_a_missing_compiler_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jetpack: int, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDACXX", "nvcc")
    with refused(f"without {name}", f"apt-get install {package}", code=5):
        cross_toolchain(jetpack, CACHE)


@pytest.mark.parametrize(
    ("program", "says"),
    [("#!/bin/sh\necho no licence >&2\nexit 3\n", "no licence"), ("no program", "Exec format error")],
)
def test_a_compiler_that_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, says: str
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(program)
    nvcc.chmod(0o755)
    tools = Toolchain(nvcc, nvcc, nvcc, tmp_path)
    with refused(f"{nvcc} --version", says, "CUDACXX", code=ExitCode.INCOMPATIBLE):
        tools.describe()
    monkeypatch.setenv("CUDACXX", str(nvcc))
    monkeypatch.setattr(cross_build, "find_cross_compiler", lambda: Path("aarch64-linux-gnu-g++"))
    with refused(f"{nvcc} --version", says, "CUDACXX", code=ExitCode.INCOMPATIBLE):
        cross_toolchain(7, tmp_path)
    check = found_tool("nvcc", lambda: nvcc, "compiling")
    assert (check.state, says in check.found) == ("wrong", True)


@pytest.mark.parametrize("jetpack", [6, 7])
def test_a_cache_whose_path_has_spaces_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jetpack: int
) -> None:
    """Compiler flags are words of a shell's line; the folders of this Python may be odd too."""
    folder = tmp_path / "it's a cache"
    nvcc = folder / "cuda/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho release 13.2\n")
    fatbinary = nvcc.with_name("fatbinary")
    fatbinary.write_text('#!/bin/sh\necho "$@"\n')
    for program in (nvcc, fatbinary):
        program.chmod(0o755)

    def fetch_wheels(requirements: Sequence[str], machine: str, new: Path) -> None:
        for part in ("cuda_nvcc/bin", "cuda_cccl/include", "cuda_runtime/lib"):
            (new / "nvidia" / part).mkdir(parents=True)

    monkeypatch.setenv("CUDACXX", str(nvcc))
    monkeypatch.setattr(cross_build, "fetch_wheels", fetch_wheels)
    monkeypatch.setattr(cross_build, "find_cross_compiler", lambda: Path("aarch64-linux-gnu-g++"))
    monkeypatch.setattr(cross_build, "find_headers", lambda cache: cache)
    monkeypatch.setattr(cross_build, "find_clang", lambda: Path("clang++"))
    options = cross_toolchain(jetpack, folder).options
    if jetpack == 7:
        (word,) = shlex.split(options["CMAKE_CUDA_FLAGS"])
        assert word.startswith(f"-L{folder}/jetpack7-")
    else:
        wrapper = Path(options["CLANG_CUDA"]) / "bin/fatbinary"
        said = subprocess.run([wrapper, "--image=profile=sm_87,file=a b"], capture_output=True, text=True)
        assert said.stdout.strip() == "--image3=kind=elf,sm=87,file=a b"


def test_a_compiler_that_is_not_where_it_is_said_to_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    with refused("without nvcc", f"none in CUDACXX={tmp_path}/nvcc", code=5):
        find_nvcc()
    (tmp_path / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "nvcc").chmod(0o755)
    assert find_nvcc() == tmp_path / "nvcc"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDACXX", "nvcc")
    assert find_nvcc() == tmp_path / "nvcc"
