"""export/ -> bundle/: for CPU the graph itself, its tokenizer and configs, under a manifest of digests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.artefacts import artefact_kind
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.manifest import manifest_for, read_manifest, write_manifest
from quamba_export.targets.target import load_target


@dataclass(frozen=True)
class Build:
    """The `--json` object of `build`."""

    bundle: str
    target: str
    backend: str
    files: dict[str, int]  # bytes by name
    size: int  # bytes of all files


def build_bundle(export: Path, target_name: str, out: Path) -> Build:
    """Make a bundle of export/ for a target.

    Raises QuambaError: exit 5 for an unknown target, 4 for a changed export, 3 for what is no export.
    """
    target = load_target(target_name)
    if artefact_kind(export) != "export":
        raise QuambaError(
            f"{export} is not an export/ directory",
            found=f"a {artefact_kind(export)}" if export.is_dir() else "no such directory",
            allowed="a directory that `quamba-export export` wrote",
            fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
        )
    source = read_manifest(export)
    with written_directory(out, "bundle") as folder:
        for name in source.files:
            shutil.copyfile(export / name, folder / name)
        producer = f"quamba-export {version('quamba-export')}"
        manifest = manifest_for(folder, source, target=target.name, backend=target.backend, producer=producer)
        write_manifest(manifest, folder)
    files = {name: entry.size for name, entry in manifest.files.items()}
    return Build(str(out), target.name, target.backend, files, sum(files.values()))
