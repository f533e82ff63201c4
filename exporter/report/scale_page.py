"""The scales of a calibration as a page: clipped shares and errors by site and layer, needing no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from quamba_export.exporter.console import to_jsonable
from quamba_export.exporter.report.report import write_page
from quamba_export.exporter.report.views import (
    scale_chart,
    share_strength,
    share_text,
    site_chart,
    snr_strength,
)

if TYPE_CHECKING:
    from quamba_export.exporter.inspection.inspect_scales import CalibrationFacts


def write_scale_page(calibration: CalibrationFacts, out: Path) -> Path:
    """Heat maps of clipped share, SNR and what is kept of the largest magnitude, and a table of all sites."""
    facts = to_jsonable(calibration)
    return write_page("scales.html", out, facts=facts, charts=charts(facts), scales=scale_chart(facts))


def charts(facts: dict[str, Any]) -> list[tuple[str, Markup]]:
    """A sentence and a heat map for every figure that the artefact has; more colour is more error."""
    errors = facts["errors"]
    drawn = [
        (
            "Share of the values that are clipped.",
            site_chart(errors, "clipped_share", share_strength, share_text, "clipped share"),
        )
    ]
    if any(error["snr_db"] is not None for error in errors):
        snr = site_chart(errors, "snr_db", snr_strength, lambda value: f"{value:.0f}", "SNR in dB")
        drawn.append(("Signal-to-noise ratio of the codes in dB; 20 dB is a tenth of the signal.", snr))
    if any(error["max_before"] for error in errors):
        kept = [
            {"site": error["site"], "kept": error["max_after"] / error["max_before"]}
            for error in errors
            if error["max_before"]
        ]
        chart = site_chart(kept, "kept", clip_strength, lambda value: f"{value:.2g}", "largest kept")
        drawn.append(("What the codes keep of the largest magnitude, as a share of it.", chart))
    return drawn


def clip_strength(kept: float) -> float:
    """Full colour where a hundredth is kept, none where all is."""
    return -math.log10(max(kept, 1e-2)) / 2
