"""`quamba-export report`: one HTML page of what the other commands found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders with commands' JSON, or folders of such folders.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write a page that opens without network: perplexity, error, scales, clipping, sizes, a sample.

    A folder a model, with any of inspect-checkpoint.json, inspect-calibration.json, inspect-export.json,
    eval-*.json, compare.json, run.json, each what that command prints with --json.

    Example: quamba-export report demo-out/ -o demo-out/report.html
    """
    from quamba_export.exporter.report.data import read_runs
    from quamba_export.exporter.report.report import write_report

    found = read_runs(runs)
    page = write_report(found, out)
    models = [run.name for run in found]
    result = {"report": page, "size": page.stat().st_size, "models": models}
    emit(result, as_json, lambda console: console.print(f"[bold]{page}[/] on {', '.join(models)}"))
