"""`quamba-export scale-drift`: scales of one text, scored on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import Device, Json

if TYPE_CHECKING:
    from rich.console import Console


def scale_drift(
    calibration: Annotated[Path, typer.Argument(help="A calibration/ directory.")],
    against: Annotated[str, typer.Option(help="The checkpoint it was made from.")],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="TEXT", help="A text that it was not made on. May be repeated."),
    ],
    samples: Annotated[int, typer.Option(min=1, help="Windows of each text, its first.")] = 32,
    seqlen: Annotated[int, typer.Option(min=1, help="Tokens a window.")] = 512,
    worst: Annotated[int, typer.Option(min=1, help="Layers and sites that are shown of each text.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Processes; any number gives the same figures.")] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score scales on other texts: how much they clip there, and in which layers most.

    Give the calibration's own text as one more --data to have it in the same columns.

    Example: quamba-export scale-drift calibration/ --against CHECKPOINT --data code.txt --data news.txt
    """
    from quamba_export.calib.calibration import read_calibration
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.studies.scale_drift import scale_drift

    made = read_calibration(calibration)
    with progress(f"scale-drift {calibration}", unit="samples") as bar:
        texts = scale_drift(
            made,
            load_checkpoint(against),
            data,
            samples=samples,
            length=seqlen,
            workers=workers,
            device=device,
            progress=lambda stage: bar.show(stage.done, stage.total),
        )
    facts = {"calibration": str(calibration), "digest": made.digest, "calibrated_on": made.run.get("data")}
    facts |= {"samples": samples, "tokens_per_sample": seqlen, "texts": texts}
    emit(facts, as_json, lambda console: show(facts, worst, console))


def show(facts: dict[str, Any], worst: int, console: Console) -> None:
    """Of each text the layers that clip most, and the sites whose share of clipped values grew most.

    "was" is what calibration recorded; reach the largest magnitude, as a multiple of that in calibration.
    """
    from rich.table import Table

    console.print(f"[bold]{facts['calibration']}[/] of {facts['calibrated_on']}")
    for text in facts["texts"]:
        layers = ", ".join(
            f"{layer.layer} ({layer.clipped_share:.2g}, most at {layer.worst_site})"
            for layer in text.layers[:worst]
        )
        console.print(
            f"[bold]{text.text}[/] clips {text.clipped_share:.2g} of its values, in layers {layers}"
        )
        table = Table("site", "clipped", "was", "SNR, dB", "was", "reach")
        grown = sorted(text.sites, key=lambda site: site.calibrated_clipped_share - site.clipped_share)
        for site in grown[:worst]:
            figures = (site.clipped_share, site.calibrated_clipped_share, site.snr_db, site.calibrated_snr_db)
            table.add_row(site.site, *(f"{v:.3g}" if v is not None else "-" for v in (*figures, site.reach)))
        console.print(table)
