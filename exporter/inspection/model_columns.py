"""A comparison as columns, one a model, as the report and the page of a comparison show it."""

from __future__ import annotations

import math
from typing import Any

from quamba_export.exporter.report.data import Facts

STATES = ("conv_state", "ssm_state")
FLOAT_COLUMN = {
    "name": "float",
    "kl": 0.0,
    "top1_agreement": 1.0,
    "first_beyond_tolerance": None,
    "lowest_snr_db": dict.fromkeys(STATES),
    "equal": 0,
    "shared": 0,
}


def model_columns(comparison: Facts) -> list[dict[str, Any]]:
    """One column a model, float first: how far it is from float, and from the model of the column before."""
    pairs = {(pair["reference"], pair["candidate"]): pair for pair in comparison["pairs"]}
    names = [candidate for reference, candidate in pairs if reference == "float"]
    before = dict(zip(names[1:], names, strict=False))
    columns = [
        model_column(name, pairs["float", name], pairs.get((before.get(name), name))) for name in names
    ]
    return [FLOAT_COLUMN, *columns] if columns else []


def model_column(name: str, to_float: Facts, to_before: Facts | None) -> dict[str, Any]:
    """An SNR is None where every state equals the float model's."""
    shared = [] if to_before is None else layer_sites(to_before)
    return {
        "name": name,
        "kl": to_float["kl"],
        "top1_agreement": to_float["top1_agreement"],
        "first_beyond_tolerance": to_float["first_beyond_tolerance"],
        "lowest_snr_db": {kind: lowest_snr(to_float, kind) for kind in STATES},
        "equal": sum(site["max_abs"] == 0 for site in shared),
        "shared": len(shared),
    }


def lowest_snr(pair: Facts, kind: str) -> float | None:
    """dB; JSON has null for both infinities, and where a tensor differs it is the negative one."""
    sites = [site for site in pair["sites"] if site["site"].endswith(f".{kind}") and site["max_abs"]]
    return min((-math.inf if site["snr_db"] is None else site["snr_db"] for site in sites), default=None)


def layer_sites(pair: Facts) -> list[Facts]:
    return [site for site in pair["sites"] if site["site"].startswith("layers.")]
