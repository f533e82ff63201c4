"""What `doctor` asks the GPU's side: the device, TensorRT, and the plugin library in TensorRT's registry."""

from __future__ import annotations

import re
from pathlib import Path

from quamba_export.exporter.doctor.checks import BUILD, Check, Use, numbers
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.tensorrt_library import (
    INSTALL,
    import_builder,
    import_tensorrt,
    is_lean,
    load_plugins,
)

GPU: tuple[Use, ...] = ("gpu-run", "gpu-build")
PLUGIN_SOURCES = Path(__file__).resolve().parents[2] / "plugins"
LIBRARY, NAMESPACE = "libquamba_plugins.so", "quamba"
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
OLDEST_TENSORRT = (10, 3)
GIB = 1 << 30


def check_gpu() -> Check:
    """The current device: name, SM, free and all memory, driver."""
    purpose = "TensorRT bundles"
    try:
        from quamba_export.runtime.cuda import Cuda

        cuda = Cuda()
        free, total = cuda.memory()
        memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
        found = f"{cuda.name}, sm_{cuda.sm} ({target_of(cuda.sm)}), {memory}, {driver_version()}"
    except QuambaError as error:
        return Check("GPU", "missing", f"{error.message}: {error.found}", GPU, purpose, error.fix)
    except ImportError as error:  # numpy's: without it there are no cuda-bindings here either
        return Check("GPU", "missing", str(error), GPU, purpose, install_command("runtime-gpu"))
    except (OSError, RuntimeError) as error:  # cuda-bindings', where libcuda is not
        fix = "install NVIDIA's driver: nvidia-smi must name the GPU"
        return Check("GPU", "missing", str(error), GPU, purpose, fix)
    return Check("GPU", "ok", found, GPU, purpose, "")


def target_of(sm: int) -> str:
    """What `build` takes for a GPU of this architecture."""
    from quamba_export.targets.target import targets

    names = [target.name for target in targets() if target.sm == sm]
    return f"--target {' or '.join(names)}" if names else "no target: see docs/targets.md"


def driver_version() -> str:
    """The kernel module's, as it gives it itself: "driver 580.95.05"."""
    try:
        text = DRIVER_VERSION.read_text(encoding="utf-8")
    except OSError as error:
        return f"driver of unknown version ({error.strerror}: {DRIVER_VERSION})"
    number = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return f"driver {number.group()}" if number else f"driver of unknown version ({text.strip()})"


def check_tensorrt() -> Check:
    """The Python module that a bundle would be run with."""
    purpose = "running engines"
    try:
        trt = import_tensorrt()
    except QuambaError as error:
        return Check("TensorRT", "missing", error.found, GPU, purpose, INSTALL)
    found = f"{trt.__name__} {trt.__version__}"
    if numbers(trt.__version__) < OLDEST_TENSORRT:
        return Check("TensorRT", "wrong", f"{found}, older than 10.3", GPU, purpose, INSTALL)
    kind = " (lean: runs version-compatible plans only)" if is_lean(trt) else ""
    return Check("TensorRT", "ok", f"{found}{kind}", GPU, purpose, "")


def check_builder() -> Check:
    """Whether that module builds engines."""
    name, purpose = "TensorRT builder", "building engines"
    try:
        trt = import_builder()
    except QuambaError as error:
        return Check(name, "missing", f"{error.message}: {error.found}", BUILD, purpose, INSTALL)
    return Check(name, "ok", f"{trt.__name__} {trt.__version__}", BUILD, purpose, "")


def check_plugins(library: Path) -> Check:
    """Whether the library loads into TensorRT's registry and makes every op that has a kernel."""
    purpose = "the ops in engines"
    fix = "make it anew: quamba-export build export/ --target TARGET -o bundle/"
    try:
        contracts = load_plugins(library).contracts
        creators = import_tensorrt().get_plugin_registry().all_creators
    except QuambaError as error:
        return Check("plugins", "wrong", f"{error.message}: {error.found}", GPU, purpose, error.fix)
    ops = {path.parent.name for path in PLUGIN_SOURCES.glob("*/launch.cu")}
    made = {creator.name for creator in creators if creator.plugin_namespace == NAMESPACE}
    if lacking := sorted(ops - made):
        found = f"{library} registers no creator of {', '.join(lacking)}"
        return Check("plugins", "wrong", found, GPU, purpose, fix)
    found = f"{library}: creators of all {len(ops)} ops, contracts {contracts}"
    return Check("plugins", "ok", found, GPU, purpose, "")


def library_of(plugins: Path | None, bundle: Path | None) -> Path | None:
    """The library that is to be loaded, if one is named; a bundle's files are verified first.

    Raises QuambaError: exit 2 where both are named, 3 for what is neither, 4 for a changed bundle.
    """
    if plugins is not None and bundle is not None:
        raise QuambaError(
            "doctor loads one plugin library",
            found="--plugins and --bundle",
            allowed="one of the two",
            code=ExitCode.USAGE,
        )
    if bundle is not None:
        return bundle / LIBRARY if LIBRARY in read_manifest(bundle).files else None
    if plugins is not None and not plugins.is_file():
        raise QuambaError(f"{plugins} is no plugin library", found="no such file", allowed=LIBRARY)
    return plugins
