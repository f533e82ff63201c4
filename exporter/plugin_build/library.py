"""libquamba_plugins.so: finds the compilers and TensorRT's headers, builds once, keeps it.

For this machine; exporter/plugin_build/cross_build.py has the toolchains for another one. The library goes to
`$XDG_CACHE_HOME/quamba-export/plugins/<digest>/`, the digest being over everything that decides its bytes:
contracts, sources, compilers, headers, architectures.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quamba_export.exporter.kept_folder import kept_folder
from quamba_export.exporter.plugin_build.sources import HEADER, PluginSources, own_sources
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

NAME = "libquamba_plugins.so"
ARCHITECTURES = (80, 86, 87, 89, 90)  # of the GPU; newer ones take the PTX of the last
HEADER_PLACES = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
)
HEADERS_CRATE = 'trtx-sys = { version = "=0.5.0", default-features = false }'  # TensorRT 10.16, Apache-2.0
HEADERS_KEPT = "tensorrt-headers"  # in the cache
TESTED_HEADERS = ((10, 3), (12, 0))  # from, below


@dataclass(frozen=True)
class Toolchain:
    """The tools of one build. headers: the folder of NvInfer.h; options: what CMake is told of the rest."""

    compiler: Path  # of the kernels
    cmake: Path
    ninja: Path
    headers: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """What of the tools decides the library's bytes. QuambaError where the compiler does not run."""
        version = tool_version(self.compiler)
        major, minor = tensorrt_version(self.headers)
        options = "".join(f"{name}={value}\n" for name, value in sorted(self.options.items()))
        return f"{version}{options}TensorRT {major}.{minor}"


def plugin_library(
    architectures: Sequence[int] = ARCHITECTURES,
    *,
    headers: Path | None = None,
    cache: Path | None = None,
    tools: Toolchain | None = None,
    sources: PluginSources | None = None,
) -> Path:
    """Path of the library for these GPU architectures (sm_90 is 90), built where the cache has none.

    headers: folder of TensorRT's NvInfer.h, by default the system's, else a public copy that cargo fetches;
    tools: by default those for this machine. Raises QuambaError where a tool is missing or the build fails.
    """
    sources = sources or own_sources()
    cache = (cache or cache_folder()).resolve()
    tools = tools or native_toolchain(headers or find_headers(cache))
    digest = _digest(sources, tools.describe(), ",".join(map(str, architectures)))
    return kept_folder(cache / digest, lambda new: _build(sources, tools, architectures, new)) / NAME


def native_toolchain(headers: Path) -> Toolchain:
    """For this machine, with nvcc. Raises QuambaError where a tool is missing."""
    nvcc = find_nvcc()
    return Toolchain(
        nvcc, find_tool("cmake"), find_tool("ninja"), headers, {"CMAKE_CUDA_COMPILER": str(nvcc)}
    )


def find_tool(name: str) -> Path:
    """A program beside this Python (pip installs it there) or on PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise missing_tool(
            name, f"nothing of that name beside {sys.executable} or on PATH", f"pip install {name}"
        )
    return Path(found)


def find_nvcc() -> Path:
    """$CUDACXX, nvcc on PATH, /usr/local/cuda, or the one of the wheels in this environment."""
    if named := os.environ.get("CUDACXX"):
        if found := shutil.which(named):
            return Path(found)
        raise missing_tool("nvcc", f"none in CUDACXX={named}", "name nvcc itself, or unset the variable")
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    on_path = shutil.which("nvcc")
    for candidate in (*([Path(on_path)] if on_path else []), Path("/usr/local/cuda/bin/nvcc"), *wheels):
        if candidate.exists():
            return candidate
    raise missing_tool("nvcc", "none in $CUDACXX, PATH, /usr/local/cuda", install_command("cuda"))


def tool_version(program: Path) -> str:
    """What it says of itself. Raises QuambaError (exit 5) where it does not run: there, and of no use."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True)
        failure = f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}"
    except OSError as error:
        failure = str(error.strerror)
    else:
        if done.returncode == 0:
            return done.stdout
    raise QuambaError(
        f"{program} --version fails",
        found=failure,
        allowed="a program of this machine that runs",
        fix="install it anew, or name another compiler in CUDACXX",
        code=ExitCode.INCOMPATIBLE,
    )


def find_headers(cache: Path) -> Path:
    """The folder of NvInfer.h: $TENSORRT_INCLUDE, the system's, else a public copy fetched once by cargo."""
    return installed_headers(cache) or kept_folder(cache / HEADERS_KEPT, _fetch_headers)


def installed_headers(cache: Path) -> Path | None:
    """The same where nothing has to be fetched, else None."""
    named = os.environ.get("TENSORRT_INCLUDE")
    for place in (named,) if named else (*HEADER_PLACES, cache / HEADERS_KEPT):
        if (Path(place) / "NvInfer.h").exists():
            return Path(place)
    if named:
        raise missing_tool("NvInfer.h", f"none in TENSORRT_INCLUDE={named}", "name the folder that holds it")
    return None


def tensorrt_version(headers: Path) -> tuple[int, int]:
    """Major and minor version of the headers. Raises QuambaError for those that the plugins do not fit."""
    text = (headers / "NvInferVersion.h").read_text(encoding="utf-8")
    numbers = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text))
    version = int(numbers["MAJOR"]), int(numbers["MINOR"])
    if not TESTED_HEADERS[0] <= version < TESTED_HEADERS[1]:
        raise QuambaError(
            f"TensorRT headers in {headers} are of another version",
            found=f"{version[0]}.{version[1]}",
            allowed="10.3 or later, below 12",
            fix="name a folder with other headers in TENSORRT_INCLUDE",
            code=ExitCode.INCOMPATIBLE,
        )
    return version


def _fetch_headers(new: Path) -> None:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise missing_tool(
            "NvInfer.h", f"none in {', '.join(HEADER_PLACES)}", "install TensorRT, or cargo to fetch it"
        )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        package = '[package]\nname = "headers"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
        (work / "src").mkdir()
        (work / "src/lib.rs").touch()
        (work / "Cargo.toml").write_text(f"{package}{HEADERS_CRATE}\n", encoding="utf-8")
        run_tool([cargo, "vendor", "--quiet"], work, "cannot fetch TensorRT's headers")
        found = sorted(work.glob("vendor/trtx-sys/TensorRT-Headers/TRT-Enterprise-*"))
        shutil.copytree(found[0], new, dirs_exist_ok=True)


def configured(
    tools: Toolchain, architectures: Sequence[int], work: Path, sources: PluginSources | None = None
) -> Path:
    """A build folder in `work` from which CMake makes the library. Raises QuambaError where it refuses."""
    sources = sources or own_sources()
    (work / HEADER).write_text(sources.contracts, encoding="utf-8")
    real = [f"{architecture}-real" for architecture in architectures[:-1]]
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_CUDA_ARCHITECTURES": ";".join([*real, str(architectures[-1])]),
        "CONTRACTS": work,
        "TENSORRT_INCLUDE": tools.headers,
        **tools.options,
    }
    defined = [f"-D{name}={value}" for name, value in options.items()]
    build = work / "build"
    command = [str(tools.cmake), "-S", str(sources.folder), "-B", str(build), "-G", "Ninja", *defined]
    run_tool(command, work, "cannot configure the plugin library")
    return build


def _build(sources: PluginSources, tools: Toolchain, architectures: Sequence[int], new: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        build = configured(tools, architectures, Path(work), sources)
        run_tool([str(tools.cmake), "--build", str(build)], build, "cannot compile the plugin library")
        shutil.copyfile(build / NAME, new / NAME)


def run_tool(command: list[str], folder: Path, what: str) -> None:
    """Run it in `folder`. Raises QuambaError (exit 5), `what` being its message, where it fails."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise QuambaError(
            what,
            found=done.stdout[-2000:].strip(),
            allowed="exit status 0",
            fix=f"see what it says: {' '.join(command)}",
            code=ExitCode.INCOMPATIBLE,
        )


def _digest(sources: PluginSources, *texts: str) -> str:
    digest = hashlib.sha256()
    sources.update(digest)
    for text in texts:
        digest.update(f"\0{text}".encode())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where libraries and what they are made with are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quamba-export" / "plugins"


def missing_tool(name: str, found: str, fix: str) -> QuambaError:
    """The refusal that says what is missing and how to get it."""
    return QuambaError(
        f"cannot build the TensorRT plugins without {name}",
        found=found,
        allowed=name,
        fix=fix,
        code=ExitCode.INCOMPATIBLE,
    )
