"""`quamba-export cost`: what finding a scale costs, on a GPU and on an ASIC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json

if TYPE_CHECKING:
    from rich.console import Console


def cost(
    calibration: Annotated[Path, typer.Argument(help="A calibration/ directory.")],
    constants: Annotated[
        Path | None,
        typer.Option(help="A .toml file of another chip's constants, with the keys of calib/asic_7nm.toml."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Index and scale tables of x: bytes, comparisons, share of a token; area, energy and latency on an ASIC.

    Computed from the model's sizes and the constants, not measured.

    Example: quamba-export cost calibration/
    """
    from dataclasses import asdict

    from quamba_export.calib.calibration import read_calibration
    from quamba_export.exporter.studies.index_cost import (
        CONSTANTS,
        conv_energy_nj,
        load_asic,
        organisations,
        share_of_token,
        tables_of,
    )

    made = read_calibration(calibration)
    asic = load_asic(constants or CONSTANTS)
    tables = tables_of(made.config, made.recipe)
    rows = [
        {**asdict(row), "share_of_token": share_of_token(row, made.config)}
        for row in organisations(tables, asic)
    ]
    facts = {
        "calibration": str(calibration),
        "tables": {
            **asdict(tables),
            "index_bytes_a_layer": tables.index_bytes,
            "scale_bytes_a_layer": tables.scale_bytes,
        },
        "asic": asdict(asic),
        "conv_nj_a_token": conv_energy_nj(tables, made.config.conv_dim, asic),
        "organisations": rows,
    }
    emit(facts, as_json, lambda console: show(facts, console))


def show(facts: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    tables = facts["tables"]
    layer = (
        f"{tables['index_bytes_a_layer']} B of index and {tables['scale_bytes_a_layer']} B of scales a layer"
    )
    console.print(f"[bold]{facts['calibration']}[/] {tables['layers']} layers, {layer}", highlight=False)
    table = Table(
        "organisation",
        "index B",
        "scales B",
        "comparisons",
        "of a token's bytes",
        "mm2",
        "nJ",
        "ns",
        box=None,
        pad_edge=False,
    )
    for row in facts["organisations"]:
        sizes = f"{row['index_bytes']:,}", f"{row['scale_bytes']:,}", str(row["comparisons"])
        chip = f"{row['area_mm2']:.3f}", f"{row['energy_nj']:.2f}", f"{row['latency_ns']:.1f}"
        table.add_row(row["organisation"], *sizes, f"{row['share_of_token']:.4%}", *chip)
    console.print(table, highlight=False)
    conv = f"{facts['conv_nj_a_token']:.2f} nJ"
    console.print(
        f"energy and latency of one lookup; the convolution's products of a token: {conv}", highlight=False
    )
