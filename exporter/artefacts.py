"""The folders that stages meet at: which one a path is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from quamba_export.calib.model.state_dtype import STATE_DTYPES, SsmStateDtype
from quamba_export.calib.output_directory import kind_of
from quamba_export.exporter.console import say
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import entry_of, integrity_error
from quamba_export.runtime.manifest import Manifest
from quamba_export.runtime.output_path import MANIFESTS, Artefact, is_artefact

Kind = Artefact | Literal["checkpoint"]


def artefact_kind(path: Path) -> Kind:
    """Which of the four folders `path` is, by its manifest; anything else may be a checkpoint or a hub id."""
    return kind_of(path) or "checkpoint"


def tell_replaced(out: Path, kind: Artefact) -> None:
    """Say on stderr that an earlier one is at `out`, and of when."""
    if is_artefact(out, kind):
        made = datetime.fromtimestamp((out / MANIFESTS[kind]).stat().st_mtime).isoformat(" ", "minutes")
        say(f"{out} is an earlier {kind}, of {made}: the new one takes its place once it is whole")


def recorded_scan_input(path: Path) -> str:
    """What config.json says that the scan gets for x; int8 where it says nothing: an export of no study."""
    return str(_quantization(path).get("ssm_input", "int8"))


def recorded_state_dtype(path: Path) -> SsmStateDtype:
    """How config.json says that the scan state is stored. Raises QuambaError (exit 5) for a way not known."""
    found = str(_quantization(path).get("ssm_state_dtype"))
    for known in STATE_DTYPES:
        if found == known:
            return known
    raise QuambaError(
        f"{path / 'config.json'} stores the scan state in a way that this version has not",
        found=found,
        allowed=", ".join(STATE_DTYPES),
        fix="update quamba-export, or run `quamba-export export` again",
        code=ExitCode.INCOMPATIBLE,
    )


def recorded_smoothing(path: Path) -> bool:
    """Whether config.json says that channels were smoothed (calib/model/smoothing.py)."""
    return bool(_quantization(path).get("smoothed", False))


def copy_checked(source: Path, manifest: Manifest, folder: Path, names: Iterable[str]) -> None:
    """Copy files of a verified directory; raise QuambaError (exit 4) where one is not what was verified."""
    for name in names:
        shutil.copyfile(source / name, folder / name)
        if entry_of(folder / name) != manifest.files[name]:
            raise integrity_error(f"{source / name} has changed", found="other content while it was copied")


def verified_bytes(path: Path, digest: str) -> bytes:
    """The content of a file whose sha256 was verified; raise QuambaError (exit 4) where it is another now."""
    content = path.read_bytes()
    if sha256(content).hexdigest() != digest:
        raise integrity_error(f"{path} has changed", found="other content than was verified a moment ago")
    return content


def _quantization(path: Path) -> dict[str, Any]:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return dict(config.get("quantization_config", {}))


def require_graph(path: Path, manifest: Manifest) -> Path:
    """The ONNX graph of an export/ or bundle/. Raises QuambaError (exit 5) where it holds engines instead."""
    if "model.onnx" not in manifest.files:
        raise QuambaError(
            f"{path} holds no ONNX graph",
            found=f"a bundle for {manifest.target}, backend {manifest.backend}",
            allowed="an export/, or a bundle made with `--target cpu`",
            fix="name the export/ that the bundle was built from",
            code=ExitCode.INCOMPATIBLE,
        )
    return path / "model.onnx"


def engine_name(manifest: Manifest, provider: str | None) -> str:
    """What people call the engine that runs an export/ or bundle/; provider: ONNX Runtime's, None for cpu."""
    name = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}[manifest.backend]
    return f"{name}, CUDA" if provider == "cuda" else name
