"""Facts of a calibration/: every site's scales over the layers, and one layer's in the published form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quamba_export.calib.calibration import Calibration, read_calibration
from quamba_export.exporter.inspection.inspect import check_layer
from quamba_export.exporter.report.layer_scale_table import ScaleEntry, layer_scale_table


@dataclass(frozen=True)
class SiteScale:
    """The scale of one site: of its groups the lowest, middle and highest."""

    site: str
    layer: int
    name: str
    shape: list[int]
    low: float
    middle: float
    high: float
    clipped_share: float


@dataclass(frozen=True)
class SiteError:
    """What a site's scale does to its values (calib/studies/scale_error.py).

    mse in units of the value squared. None where an older artefact has no figure, and the SNR of a site whose
    values or errors are all 0.
    """

    site: str
    observer: str
    clipped_share: float
    mse: float | None
    snr_db: float | None
    max_before: float | None
    max_after: float | None


@dataclass(frozen=True)
class RoundedProjection:
    """Share of a projection's output energy that its rounding loses, and that the nearest integers would."""

    projection: str
    error: float
    nearest_error: float


@dataclass(frozen=True)
class CalibrationFacts:
    """The scales of a model and where they came from."""

    kind: str
    path: str
    digest: str
    checkpoint_digest: str
    recipe: dict[str, Any]
    run: dict[str, Any]
    config: dict[str, Any]
    layer: int
    layer_table: list[ScaleEntry]
    sites: list[SiteScale]
    errors: list[SiteError]
    rounded: list[RoundedProjection]  # by a recipe that rounds weights while calibrating


def inspect_calibration(path: Path, layer: int) -> CalibrationFacts:
    """Facts of calibration/. Raises QuambaError (exit 2) for a layer the model has not."""
    calibration = read_calibration(path)
    check_layer(layer, calibration.config.n_layer)
    rounded = calibration.run.get("rounding_errors", {})
    return CalibrationFacts(
        kind="calibration",
        path=str(path),
        digest=calibration.digest,
        checkpoint_digest=calibration.checkpoint_digest,
        recipe=calibration.recipe.as_table(),
        run={name: fact for name, fact in calibration.run.items() if name != "rounding_errors"},
        config=asdict(calibration.config),
        layer=layer,
        layer_table=calibrated_layer_table(calibration, layer),
        sites=[site_scale(calibration, site) for site in calibration.statistics],
        errors=[site_error(site, statistic) for site, statistic in calibration.statistics.items()],
        rounded=[RoundedProjection(name, **losses) for name, losses in rounded.items()],
    )


def site_scale(calibration: Calibration, site: str) -> SiteScale:
    scale = calibration.scales[site]
    _, layer, name = site.split(".")
    low, high = scale.min(), scale.max()
    return SiteScale(
        site=site,
        layer=int(layer),
        name=name,
        shape=list(scale.shape),
        low=float(low),
        middle=float(scale.median()),
        high=float(high),
        clipped_share=float(calibration.statistics[site]["clipped_share"]),
    )


def site_error(site: str, statistic: Mapping[str, Any]) -> SiteError:
    return SiteError(
        site=site,
        observer=" ".join(str(option) for option in statistic["observer"].values()),
        clipped_share=float(statistic["clipped_share"]),
        **{key: statistic.get(key) for key in ("mse", "snr_db", "max_before", "max_after")},
    )


def calibrated_layer_table(calibration: Calibration, layer: int) -> list[ScaleEntry]:
    """The layer scale table as far as calibration knows it: weight scales are found at export."""
    site = f"layers.{layer}"
    if calibration.config.kind == "mamba1":
        scales = {"x_scale": f"{site}.conv_in", "x_out_scales": f"{site}.x"}
    else:
        scales = {f"{part}_scale": f"{site}.conv_in_{part}" for part in "xBC"}
        scales |= {f"{part}_out_scales": f"{site}.{part}" for part in "xBC"}
    found = {name: calibration.scales[source].numpy() for name, source in scales.items()}
    return layer_scale_table(calibration.config.kind, found)
