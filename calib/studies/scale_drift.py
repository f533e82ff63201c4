"""Scales found on one text, scored on others: what would be clipped there, and in which layers most."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.data import Tokens, calibration_windows
from quamba_export.calib.device import check_workers, torch_device
from quamba_export.calib.model.parts import ModelParts, rewritten_parts
from quamba_export.calib.observation import Progress, Run, Stage
from quamba_export.calib.progress_file import ProgressFile, Totals
from quamba_export.calib.studies.scale_error import ScaleError, error_report
from quamba_export.calib.workers import Workers, one_thread
from quamba_export.runtime.errors import ExitCode, QuambaError


@dataclass(frozen=True)
class SiteDrift:
    """A site on another text, and what calibration recorded of it; shares of values, SNR in dB.

    reach: the text's largest magnitude / the calibration text's. None where an older artefact has no figure,
    and an SNR where values or errors are all 0.
    """

    site: str
    clipped_share: float
    calibrated_clipped_share: float
    snr_db: float | None
    calibrated_snr_db: float | None
    reach: float | None


@dataclass(frozen=True)
class LayerDrift:
    """All sites of a layer: clipped values of all its values, and the site with the largest share."""

    layer: int
    clipped_share: float
    worst_site: str
    worst_clipped_share: float


@dataclass(frozen=True)
class TextDrift:
    """One text: its layers, the one that clips most first, and all sites."""

    text: str
    clipped_share: float
    layers: list[LayerDrift]
    sites: list[SiteDrift]


def scale_drift(
    calibration: Calibration,
    checkpoint: Checkpoint,
    texts: Sequence[str | Path],
    *,
    samples: int = 32,
    length: int = 512,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> list[TextDrift]:
    """Score the scales on the first `samples` windows of `length` tokens of every text.

    Raises QuambaError for a checkpoint that the calibration is not of (exit 4), for a calibration without
    statistics, and for text that is too short or cannot be read: before the model is run.
    """
    place = torch_device(device)
    check_workers(workers, place)
    if calibration.checkpoint_digest != checkpoint.digest:
        raise QuambaError(
            "the calibration is of another checkpoint",
            found=f"checkpoint {checkpoint.digest}",
            allowed=f"checkpoint {calibration.checkpoint_digest}",
            code=ExitCode.INTEGRITY,
        )
    if not calibration.statistics:
        found = "scales without statistics"
        raise QuambaError("the calibration has nothing to compare with", found=found, fix="calibrate anew")
    if checkpoint.tokenizer_path is None:
        allowed = "a tokenizer.json beside the weights"
        raise QuambaError(f"checkpoint {checkpoint.path} has no tokenizer", allowed=allowed)
    tokenizer, eos, flags = checkpoint.tokenizer_path, checkpoint.eos_token_id, ("--samples", "--seqlen")
    windows = [
        calibration_windows(text, tokenizer, eos, count=samples, size=length, flags=flags) for text in texts
    ]
    with tempfile.TemporaryDirectory(prefix="quamba-drift-") as folder, one_thread():
        parts = rewritten_parts(
            checkpoint, calibration.recipe, calibration.permutation, calibration.basis, place
        )
        totals = observed(calibration, parts, windows, Path(folder), workers, progress)
    return [text_drift(str(text), calibration, sums) for text, sums in zip(texts, totals, strict=True)]


def observed(
    calibration: Calibration,
    parts: ModelParts,
    windows: Sequence[Tokens],
    scratch: Path,
    workers: int,
    progress: Callable[[Progress], None] | None,
) -> list[Totals]:
    """The sums of ScaleError at every site, text by text."""
    config = calibration.config
    found = ((i, calibration.ranges(i)) for i in range(config.n_layer))
    ranges = {i: layer for i, layer in found if layer is not None}
    errors = {site: ScaleError(scale.flatten().numpy()) for site, scale in calibration.scales.items()}
    file, total = ProgressFile.start(scratch, {}, resume=False), sum(len(tokens) for tokens in windows)
    with Workers(workers, scratch) as pool:
        return [
            Run(tokens, pool, file, progress, total, config.n_layer).observe(
                Stage(f"text {i}", len(tokens), errors, ranges), parts
            )
            for i, tokens in enumerate(windows)
        ]


def text_drift(text: str, calibration: Calibration, totals: Totals) -> TextDrift:
    sites = [site_drift(site, calibration, totals) for site in calibration.scales]
    layers = [layer_drift(layer, totals) for layer in range(calibration.config.n_layer)]
    return TextDrift(
        text=text,
        clipped_share=clipped_share(totals, list(totals)),
        layers=sorted(layers, key=lambda layer: (-layer.clipped_share, layer.layer)),
        sites=sites,
    )


def site_drift(site: str, calibration: Calibration, totals: Totals) -> SiteDrift:
    report, recorded = error_report(totals[site]), calibration.statistics.get(site, {})
    largest = recorded.get("absmax")
    return SiteDrift(
        site=site,
        clipped_share=report["clipped_share"],
        calibrated_clipped_share=float(recorded["clipped_share"]),
        snr_db=report["snr_db"],
        calibrated_snr_db=recorded.get("snr_db"),
        reach=report["max_before"] / largest if largest else None,
    )


def layer_drift(layer: int, totals: Totals) -> LayerDrift:
    sites = [site for site in totals if site.startswith(f"layers.{layer}.")]
    shares = {site: clipped_share(totals, [site]) for site in sites}
    worst = max(sites, key=lambda site: shares[site])
    return LayerDrift(layer, clipped_share(totals, sites), worst.split(".")[2], shares[worst])


def clipped_share(totals: Totals, sites: Sequence[str]) -> float:
    clipped, count = (sum(int(totals[site][key].sum()) for site in sites) for key in ("clipped", "count"))
    return clipped / count
