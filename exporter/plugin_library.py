"""libquamba_plugins.so for this machine: finds the compilers and TensorRT's headers, builds once, keeps it.

The library goes to `$XDG_CACHE_HOME/quamba-export/plugins/<digest>/`, the digest being over everything that
decides its bytes: contracts, sources, compilers, headers, architectures.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quamba_export.plugins.common.c_header import header
from quamba_export.runtime.errors import ExitCode, QuambaError

NAME = "libquamba_plugins.so"
SOURCES = Path(__file__).resolve().parent.parent / "plugins"
SOURCE_ENDINGS = {".cu", ".cuh", ".cpp", ".h", ".map", ".txt"}
ARCHITECTURES = (80, 86, 87, 89, 90)  # of the GPU; newer ones take the PTX of the last
HEADER_PLACES = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
)
HEADERS_CRATE = 'trtx-sys = { version = "=0.5.0", default-features = false }'  # TensorRT 10.16, Apache-2.0
TESTED_HEADERS = ((10, 3), (11, 0))  # from, below


@dataclass(frozen=True)
class Toolchain:
    """Paths of the tools of one build; `headers` holds NvInfer.h."""

    nvcc: Path
    cmake: Path
    ninja: Path
    headers: Path

    def describe(self) -> str:
        """What of the tools decides the library's bytes."""
        nvcc = subprocess.run([self.nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        major, minor = tensorrt_version(self.headers)
        return f"{nvcc}TensorRT {major}.{minor}"


def plugin_library(
    architectures: Sequence[int] = ARCHITECTURES, *, headers: Path | None = None, cache: Path | None = None
) -> Path:
    """Path of the library for these GPU architectures (sm_90 is 90), built where the cache has none.

    headers: folder of TensorRT's NvInfer.h, by default the system's, else a public copy that cargo fetches.
    Raises QuambaError where a tool is missing or the build fails.
    """
    cache = cache or _cache_folder()
    tools = Toolchain(find_nvcc(), find_tool("cmake"), find_tool("ninja"), headers or find_headers(cache))
    contracts = header()
    digest = _digest(contracts, tools.describe(), ",".join(map(str, architectures)))
    library = cache / digest / NAME
    if not library.exists():
        _build(tools, contracts, architectures, library)
    return library


def find_tool(name: str) -> Path:
    """A program beside this Python (pip installs it there) or on PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise _missing(
            name, f"nothing of that name beside {sys.executable} or on PATH", f"pip install {name}"
        )
    return Path(found)


def find_nvcc() -> Path:
    """$CUDACXX, nvcc on PATH, /usr/local/cuda, or the one of the wheels in this environment."""
    if "CUDACXX" in os.environ:
        return Path(os.environ["CUDACXX"])
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    on_path = shutil.which("nvcc")
    for candidate in (*([Path(on_path)] if on_path else []), Path("/usr/local/cuda/bin/nvcc"), *wheels):
        if candidate.exists():
            return candidate
    raise _missing("nvcc", "none in $CUDACXX, PATH, /usr/local/cuda", "pip install 'quamba-export[cuda]'")


def find_headers(cache: Path) -> Path:
    """The folder of NvInfer.h: $TENSORRT_INCLUDE, the system's, else a public copy fetched once by cargo."""
    named = os.environ.get("TENSORRT_INCLUDE")
    for place in (named,) if named else HEADER_PLACES:
        if (Path(place) / "NvInfer.h").exists():
            return Path(place)
    if named:
        raise _missing("NvInfer.h", f"none in TENSORRT_INCLUDE={named}", "name the folder that holds it")
    fetched = cache / "tensorrt-headers"
    if not (fetched / "NvInfer.h").exists():
        _fetch_headers(fetched)
    return fetched


def tensorrt_version(headers: Path) -> tuple[int, int]:
    """Major and minor version of the headers. Raises QuambaError for those that the plugins do not fit."""
    text = (headers / "NvInferVersion.h").read_text(encoding="utf-8")
    numbers = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text))
    version = int(numbers["MAJOR"]), int(numbers["MINOR"])
    if not TESTED_HEADERS[0] <= version < TESTED_HEADERS[1]:
        raise QuambaError(
            f"TensorRT headers in {headers} are of another version",
            found=f"{version[0]}.{version[1]}",
            allowed="10.3 or later, below 11",
            fix="name a folder with other headers in TENSORRT_INCLUDE",
            code=ExitCode.INCOMPATIBLE,
        )
    return version


def _fetch_headers(target: Path) -> None:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise _missing(
            "NvInfer.h", f"none in {', '.join(HEADER_PLACES)}", "install TensorRT, or cargo to fetch it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        package = '[package]\nname = "headers"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
        (Path(work) / "src").mkdir()
        (Path(work) / "src/lib.rs").touch()
        (Path(work) / "Cargo.toml").write_text(f"{package}{HEADERS_CRATE}\n", encoding="utf-8")
        _run([cargo, "vendor", "--quiet"], Path(work), "cannot fetch TensorRT's headers")
        found = sorted(Path(work).glob("vendor/trtx-sys/TensorRT-Headers/TRT-Enterprise-*"))
        found[0].rename(target)


def _build(tools: Toolchain, contracts: str, architectures: Sequence[int], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        work = Path(folder)
        (work / "contracts.h").write_text(contracts, encoding="utf-8")
        real = [f"{architecture}-real" for architecture in architectures[:-1]]
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": tools.ninja,
            "CMAKE_CUDA_COMPILER": tools.nvcc,
            "CMAKE_CUDA_ARCHITECTURES": ";".join([*real, str(architectures[-1])]),
            "CONTRACTS": work,
            "TENSORRT_INCLUDE": tools.headers,
        }
        defined = [f"-D{name}={value}" for name, value in options.items()]
        configure = [str(tools.cmake), "-S", str(SOURCES), "-B", str(work / "build"), "-G", "Ninja", *defined]
        _run(configure, work, "cannot configure the plugin library")
        _run([str(tools.cmake), "--build", str(work / "build")], work, "cannot compile the plugin library")
        os.replace(work / "build" / NAME, library)


def _run(command: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise QuambaError(
            what,
            found=done.stdout[-2000:].strip(),
            allowed="exit status 0",
            fix=f"see what it says: {' '.join(command)}",
            code=ExitCode.INCOMPATIBLE,
        )


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in SOURCES.rglob("*") if p.suffix in SOURCE_ENDINGS):
        digest.update(f"{path.relative_to(SOURCES)}\0".encode())
        digest.update(path.read_bytes())
    for text in texts:
        digest.update(f"\0{text}".encode())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quamba-export" / "plugins"


def _missing(name: str, found: str, fix: str) -> QuambaError:
    return QuambaError(
        f"cannot build the TensorRT plugins without {name}",
        found=found,
        allowed=name,
        fix=fix,
        code=ExitCode.INCOMPATIBLE,
    )
