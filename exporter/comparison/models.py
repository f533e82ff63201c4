"""`compare`: an export or bundle, its checkpoint and its calibration, as three models side by side.

With a TensorRT bundle of the same export, four.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quamba_export.calib.calibration import Calibration, read_calibration
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import token_stream, windows
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.model.uncalibrated import calibration_for
from quamba_export.exporter.artefacts import recorded_state_dtype, require_graph
from quamba_export.exporter.comparison.compare import DEFAULT_MIN_SNR_DB, PairComparison, compare_runners
from quamba_export.exporter.comparison.runners import EngineRunner, FloatRunner, OnnxRunner, ReferenceRunner
from quamba_export.exporter.console import progress
from quamba_export.runtime.bundle import open_model
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Comparison:
    """The `--json` object of `compare`."""

    path: str
    against: str
    calibration: str | None
    bundle: str | None  # the TensorRT bundle
    window: int
    tokens: int
    min_snr_db: float
    pairs: list[PairComparison]


def compare_models(
    path: Path,
    against: str,
    data: str,
    *,
    calibration_path: Path | None = None,
    bundle: Path | None = None,
    window: int = 256,
    max_tokens: int = 2048,
    min_snr_db: float = DEFAULT_MIN_SNR_DB,
) -> Comparison:
    """Compare the float model after the exact rewrites, quantized PyTorch, and the ONNX graph of `path`.

    bundle: TensorRT engines built from that graph, the fourth. Raises QuambaError: exit 2 for a bundle
    without engines, 3 for too little text, 4 where the models do not belong together, 5 where the engines do
    not run here.
    """
    manifest = read_manifest(path)
    graph = require_graph(path, manifest)
    engines = [] if bundle is None else [engine_runner(bundle, path, manifest)]
    checkpoint = load_checkpoint(against)
    check_same("checkpoint", against, checkpoint.digest, manifest.sources["checkpoint"])
    calibration_path, calibration = calibration_of(path, manifest, calibration_path)
    reference = quantize_model(checkpoint, calibration, manifest.qformat, recorded_state_dtype(path))
    stream = token_stream(data, path / "tokenizer.json", manifest.eos_token_id, limit=max_tokens)
    batches = [row[None] for row in windows(stream, window)]  # (1, L) each: every site of one is in memory
    if not batches:
        found = f"{len(stream)} tokens"
        raise QuambaError(
            "the text is shorter than a window", found=found, allowed=f"{window} tokens or more"
        )
    runners = [
        FloatRunner(rewrite(checkpoint, calibration_for(checkpoint, reference.widths, calibration))),
        ReferenceRunner(reference),
        OnnxRunner(graph, manifest.states),
        *engines,
    ]
    tokens = len(batches) * window
    with progress(f"compare {path}", tokens) as bar:
        scales = partial(site_scale, reference)
        pairs = compare_runners(runners, batches, scales, min_snr_db=min_snr_db, advance=bar.advance)
    return Comparison(
        path=str(path),
        against=against,
        calibration=None if calibration is None else str(calibration_path),
        bundle=None if bundle is None else str(bundle),
        window=window,
        tokens=tokens,
        min_snr_db=min_snr_db,
        pairs=pairs,
    )


def calibration_of(
    path: Path, manifest: Manifest, calibration_path: Path | None
) -> tuple[Path | None, Calibration | None]:
    """Where the calibration of an export lies, and what it holds; None and None where it was made without."""
    if manifest.sources["calibration"] is None and calibration_path is None:
        return None, None
    calibration_path = calibration_path or path.parent / "calibration"
    calibration = read_calibration(calibration_path)
    check_same("calibration", str(calibration_path), calibration.digest, manifest.sources["calibration"])
    return calibration_path, calibration


def engine_runner(bundle: Path, path: Path, manifest: Manifest) -> EngineRunner:
    """The engines of a TensorRT bundle that was built from the export `path`, or from that of the bundle."""
    found = read_manifest(bundle)
    if found.backend != "tensorrt":
        raise QuambaError(
            f"{bundle} holds no TensorRT engines",
            found=f"a {found.kind} for backend {found.backend}",
            allowed="a bundle made with `quamba-export build --target h200` or another GPU",
            code=ExitCode.USAGE,
        )
    export = manifest.export_digest
    if found.sources["export"] != export:
        raise QuambaError(
            f"{bundle} was built from another export than {path}",
            found=f"digest {str(found.sources['export'])[:12]}",
            allowed=f"digest {str(export)[:12]}",
            fix=f"quamba-export build EXPORT --target {found.target} -o {bundle}",
            code=ExitCode.INTEGRITY,
        )
    return EngineRunner("tensorrt", lambda: open_model(bundle)[1])


def site_scale(model: QuantizedModel, site: str) -> NDArray[np.float32]:
    """What the codes of `site` are multiplied with; the conv state's are conv_in's, for (B, C, W-1)."""
    if site.endswith(".conv_state"):
        return np.asarray(model.site_scale(site.replace(".conv_state", ".conv_in")).numpy())[..., None]
    return np.asarray(model.site_scale(site).numpy())


def check_same(what: str, source: str, found: str, expected: str | None) -> None:
    """Refuse (exit 4) a checkpoint or calibration that the export was not made from."""
    if found != expected:
        raise QuambaError(
            f"the export was made from another {what} than {source}",
            found=f"digest {found[:12]}",
            allowed=f"digest {expected[:12]}" if expected else "none: it was made without",
            fix=f"name the {what} that the export was made from",
            code=ExitCode.INTEGRITY,
        )
