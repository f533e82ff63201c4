"""export/ with a Jetson's plugin library, made on another machine; `build` on the device makes the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.console import say
from quamba_export.exporter.cross_build import cross_library
from quamba_export.runtime.engine_record import PreparedRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest, files_of, read_manifest
from quamba_export.targets.target import Target

LIBRARY = "libquamba_plugins.so"


def prepare_for_device(
    export: Path, target: Target, jetpack: int, out: Path, library: Path | None = None
) -> Manifest:
    """Write the verified export/ at `out` once more, with the library for the target's GPU and JetPack.

    It is still an export: whatever reads one reads it. library: one that was compiled before. Raises
    QuambaError, exit 5 where a tool is missing.
    """
    source = read_manifest(export)
    if library is None:
        say(f"plugins: compiling for sm_{target.sm}, JetPack {jetpack}; half a minute the first time")
        library = cross_library(jetpack, [target.sm])
    with written_directory(out, "export") as folder:
        for name in source.files:
            shutil.copyfile(export / name, folder / name)
        shutil.copyfile(library, folder / LIBRARY)
        record = json.loads((export / "export.json").read_bytes())
        record["prepared"] = asdict(PreparedRecord(target.name, target.sm, jetpack))
        record["files"] = files_of(folder)
        (folder / "export.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return read_manifest(out)


def prepared_library(export: Path, source: Manifest, target: Target) -> Path | None:
    """The library in a verified export/, None where it holds none or the target takes none.

    Raises QuambaError (exit 5) where it is for another GPU.
    """
    if source.prepared is None or target.backend != "tensorrt":
        return None
    if source.prepared.sm != target.sm:
        raise QuambaError(
            f"the plugins in {export} are not for {target.name}",
            found=f"compiled for {source.prepared.target}, sm_{source.prepared.sm}",
            allowed=f"sm_{target.sm}: {target.description}",
            fix="build from the export/ that it was prepared from",
            code=ExitCode.INCOMPATIBLE,
        )
    return export / LIBRARY
