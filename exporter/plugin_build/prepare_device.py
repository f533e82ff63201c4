"""export/ with a Jetson's plugin library, made on another machine; `build` on the device makes the bundle."""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.artefacts import copy_checked, verified_bytes
from quamba_export.exporter.console import say
from quamba_export.exporter.plugin_build.cross_build import JETPACKS, cross_library
from quamba_export.exporter.plugin_build.elf_header import AARCH64_LIBRARY, elf_kind
from quamba_export.exporter.plugin_build.sources import sources_of
from quamba_export.runtime.engine_record import PreparedRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest, files_of, read_manifest
from quamba_export.targets.target_file import Target

LIBRARY = "libquamba_plugins.so"


def prepare_for_device(
    export: Path, target: Target, jetpack: int, out: Path, library: Path | None = None
) -> Manifest:
    """Write the verified export/ at `out` once more, with the library for the target's GPU and JetPack.

    It is still an export: whatever reads one reads it. library: one that was compiled before. Raises
    QuambaError, exit 5 where a tool is missing, or the library is not a Jetson's.
    """
    source = read_manifest(export)
    if library is not None:
        check_library(library, target)
    else:
        say(f"plugins: compiling for sm_{target.sm}, JetPack {jetpack}; half a minute the first time")
        with sources_of(export, source) as sources:
            library = cross_library(jetpack, [target.sm], sources=sources)
    with written_directory(out, "export") as folder:
        copy_checked(export, source, folder, source.files)
        shutil.copyfile(library, folder / LIBRARY)
        record = json.loads(verified_bytes(export / "export.json", source.digest))
        record["prepared"] = asdict(PreparedRecord(target.name, target.sm, jetpack, source.export_digest))
        record["files"] = files_of(folder)
        (folder / "export.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return read_manifest(out)


def check_library(library: Path, target: Target) -> None:
    """Refuse (exit 5) a file that the processor of a Jetson cannot load."""
    if (found := elf_kind(library)) != AARCH64_LIBRARY:
        raise QuambaError(
            f"{library} is no library for {target.name}",
            found=found,
            allowed=AARCH64_LIBRARY,
            fix="leave out --plugins: it is compiled here",
            code=ExitCode.INCOMPATIBLE,
        )


def is_prepared(export: Path, source: Manifest, target: Target) -> bool:
    """Whether a verified export/ holds the library for this target on this machine.

    Raises QuambaError (exit 5) where it is for another GPU or another CUDA than this machine's.
    """
    if source.prepared is None or target.backend != "tensorrt":
        return False
    if source.prepared.sm != target.sm:
        raise QuambaError(
            f"the plugins in {export} are not for {target.name}",
            found=f"compiled for {source.prepared.target}, sm_{source.prepared.sm}",
            allowed=f"sm_{target.sm}: {target.description}",
            fix="build from the export/ that it was prepared from",
            code=ExitCode.INCOMPATIBLE,
        )
    _check_driver(source.prepared)
    return True


def _check_driver(prepared: PreparedRecord) -> None:
    """CUDA 13's runtime, which is inside, wants its driver; CUDA 12's comes with JetPack 6 only."""
    found = driver_cuda()
    if found.split(".")[0] != JETPACKS[prepared.jetpack].split(".")[0]:
        other = next(n for n in JETPACKS if n != prepared.jetpack)
        raise QuambaError(
            f"the plugins were compiled for JetPack {prepared.jetpack}",
            found=f"a driver of CUDA {found}",
            allowed=f"CUDA {JETPACKS[prepared.jetpack]}",
            fix=f"prepare the export again: quamba-export build ... --jetpack {other}",
            code=ExitCode.INCOMPATIBLE,
        )


def driver_cuda() -> str:
    """The CUDA version of this machine's driver, "12.6". Raises QuambaError (exit 5) where there is none."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError as error:
        status = str(error)
    if status != 0:
        raise QuambaError(
            "no CUDA driver answers here",
            found=str(status),
            allowed="libcuda.so.1",
            fix="build on the device itself",
            code=ExitCode.INCOMPATIBLE,
        )
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
