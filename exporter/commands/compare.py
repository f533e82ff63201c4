"""`quamba-export compare`: where the quantized model leaves the float one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import CalibrationPath, Data, Json

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.comparison.compare import PairComparison, SiteComparison
    from quamba_export.exporter.comparison.models import Comparison


def compare(
    path: Annotated[Path, typer.Argument(help="An export/ directory, or a bundle/ made for CPU.")],
    against: Annotated[str, typer.Option(help="The checkpoint it was made from.")],
    data: Data,
    calibration: CalibrationPath = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A TensorRT bundle/ built from it, as a fourth model.")
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, help="Tokens a window; every site of one is in memory.")
    ] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cut the text to its first N tokens.")] = 2048,
    min_snr_db: Annotated[
        float, typer.Option(help="Below this signal-to-noise ratio a tensor is beyond tolerance.")
    ] = 10.0,
    worst: Annotated[int, typer.Option(min=0, help="Sites shown of each two models: the lowest SNRs.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page of its own.")] = None,
    as_json: Json = False,
) -> None:
    """Compare float, quantized PyTorch, ONNX Runtime and TensorRT per layer and state, through Polygraphy.

    Without --calibration, the folder `calibration` beside PATH is taken; digests are checked either way.
    TensorRT takes part with --bundle, on the GPU it was built for.

    Example: quamba-export compare export/ --against CHECKPOINT --data validation.txt --html compare.html
    """
    from quamba_export.exporter.comparison.models import compare_models

    result = compare_models(
        path,
        against,
        data,
        calibration_path=calibration,
        bundle=bundle,
        window=window,
        max_tokens=max_tokens,
        min_snr_db=min_snr_db,
    )
    if html is not None:
        from quamba_export.exporter.report.report import write_comparison_page

        write_comparison_page(result, html)
    emit(result, as_json, lambda console: show(result, worst, console))


def show(result: Comparison, worst: int, console: Console) -> None:
    from rich.table import Table

    for pair in result.pairs:
        title = f"{pair.reference} -> {pair.candidate}"
        heads = ("site", "max", "mean", "cosine", "SNR dB", "codes differing")  # whole on 80 columns
        table = Table(*heads, title=title, title_justify="left", box=None, pad_edge=False)
        shown = worst_sites(pair, worst)
        for site in shown:
            codes = "" if site.differing_codes is None else f"{site.differing_codes:.2e}"
            style = None if site.within_tolerance else "red"
            figures = (
                f"{site.max_abs:.3g}",
                f"{site.mean_abs:.3g}",
                f"{site.cosine:.6f}",
                f"{site.snr_db:.1f}",
            )
            table.add_row(site.site, *figures, codes, style=style)
        console.print(table if shown else title)
        exact = sum(site.snr_db == math.inf for site in pair.sites)
        others = len(pair.sites) - exact - len(shown)
        rest = f", {others} more differ by less (--worst shows more)" if others else ""
        console.print(f"{exact} of {len(pair.sites)} sites are equal{rest}")
        console.print(f"KL {pair.kl:.6f} nats a token, top-1 agreement {pair.top1_agreement:.2%}")
        beyond = pair.first_beyond_tolerance or "none"
        console.print(f"first beyond tolerance ({result.min_snr_db:g} dB): {beyond}\n")


def worst_sites(pair: PairComparison, count: int) -> list[SiteComparison]:
    """Of the lowest SNR, and the first beyond tolerance, in the order of computation; none that is equal."""
    differing = [site for site in pair.sites if site.snr_db < math.inf]
    picked = {site.site for site in sorted(differing, key=lambda site: site.snr_db)[:count]}
    return [site for site in differing if site.site in picked | {pair.first_beyond_tolerance}]
