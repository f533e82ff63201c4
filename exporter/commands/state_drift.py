"""`quamba-export state-drift`: the error of rounded scan states over a long text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import Data, Device, Json

if TYPE_CHECKING:
    from rich.console import Console

BUILT = "fp16;static;row;row, stochastic;rotated row;rotated row, stochastic"


def state_drift(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory or hub id.")],
    calibration: Annotated[Path, typer.Option(help="The calibration/ directory made from it.")],
    data: Data,
    tokens: Annotated[
        int, typer.Option(min=64, help="Steps of decode, from the text's first token on.")
    ] = 4096,
    formats: Annotated[
        str,
        typer.Option(
            help="Formats of calib/studies/state_formats.py, by semicolons; of the default ones those it has."
        ),
    ] = BUILT,
    plot: Annotated[Path | None, typer.Option(help="Write the curves as an SVG file.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Decode a text with the state held in several ways beside fp32: does the error of it stay bounded?

    Example: quamba-export state-drift CHECKPOINT --calibration calibration/ --data text.txt --plot drift.svg
    """
    from quamba_export.exporter.studies.state_drift import drift_on_text, write_plot

    with progress(f"state-drift {checkpoint}", tokens) as bar:
        drifts = drift_on_text(
            checkpoint,
            calibration,
            data,
            tokens=tokens,
            formats=formats,
            optional=formats == BUILT,
            device=device,
            advance=bar.advance,
        )
    if plot is not None:
        write_plot(drifts, plot)
    facts = {"checkpoint": checkpoint, "calibration": str(calibration), "tokens": tokens, "formats": drifts}
    emit(facts, as_json, lambda console: show(facts, console))


def show(facts: dict[str, Any], console: Console) -> None:
    """The error relative to fp32 at four places, its growth from a quarter of the text on, the verdict."""
    from rich.table import Table

    places, length = facts["formats"][0].tokens, facts["formats"][0].tokens[-1]
    shown = [min(places, key=lambda tokens: abs(tokens - length / part)) for part in (64, 16, 4, 1)]
    table = Table("state after tokens", *(str(tokens) for tokens in shown), "growth", "verdict")
    for drift in facts["formats"]:
        errors = dict(zip(drift.tokens, drift.errors, strict=True))
        cells = (f"{errors[tokens]:.2g}" for tokens in shown)
        table.add_row(drift.name, *cells, f"{drift.growth:.2f}", drift.verdict)
    console.print(table)
